"""What the modules of rlrat/rational import: no circle, and nothing else of rlrat."""

from tests.import_graph import find_circle, imports
from tests.short_runs import ROOT


def test_there_is_no_circle():
    assert find_circle(imports(ROOT / "rlrat" / "rational")) is None


def test_nothing_else_of_rlrat_is_imported():
    graph = imports(ROOT / "rlrat" / "rational")
    assert "rlrat.rational.layout" in graph["rlrat.rational.op"]
    ours = {module for found in graph.values() for module in found if module.split(".")[0] == "rlrat"}
    assert all(module.startswith("rlrat.rational.") for module in ours), ours
