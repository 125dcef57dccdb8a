"""The wings of rlrat know each other one way, and what answers at once imports no torch."""

import subprocess
import sys
from importlib import import_module

import pytest
from PIL import Image

from docs import house
from tests.import_graph import find_circle, imports
from tests.short_runs import ROOT

PACKAGE = ROOT / "rlrat"
BASE = ("errors", "console", "json_files")
WINGS = ("rational", "approximation", "updates", "environments", "datasets", "networks", "evaluation", "runs", "sweeps")
"""Each imports only what stands left of it."""
REPORTS = {"rlrat.evaluation.scores", "rlrat.runs.schema", "rlrat.rational"}
"""What reports import beside the base."""
LAZY = (*WINGS[1:], "reports")
GRAPH = imports(PACKAGE)
WITHOUT = {
    **dict.fromkeys(("rlrat.runs.schema", "rlrat.runs.arguments"), "torch numpy"),
    **dict.fromkeys(("rlrat.runs.agents", "rlrat.evaluation.scores", "rlrat.updates.machine"), "torch"),
    **dict.fromkeys(("rlrat.datasets.names", "rlrat.environments.registry"), "torch"),
    **dict.fromkeys(("rlrat.sweeps.commands", "rlrat.reports.build", "rlrat.reports.html"), "torch"),
    "rlrat.reports.read": "torch scipy matplotlib",
}
"""What modules that answer at once, or only read, do not import."""


def wing(module: str) -> str:
    """The part below rlrat that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def own(module: str) -> set[str]:
    """The modules of rlrat that one imports; the package itself, which has `lazy` alone, is left out."""
    return {name for name in GRAPH[module] if name.startswith("rlrat.")}


@pytest.mark.parametrize("name", [*BASE, *WINGS, "cli", "reports"])
def test_a_wing_imports_only_what_lies_below(name):
    order = (*BASE, *WINGS, "cli")
    below = order[: order.index(name)] if name != "reports" else BASE
    allowed = {"rational": set(), "approximation": {"rational"}}.get(name, set(below))
    modules = [module for module in GRAPH if wing(module) == name]
    assert modules
    for module in modules:
        for used in own(module):
            fits = wing(used) in {name, *allowed} or (name == "reports" and used in REPORTS)
            assert fits, f"{module} imports {used}"


def test_every_part_has_its_layer():
    assert {wing(module) for module in GRAPH} == {"rlrat", "activations", *BASE, *WINGS, "cli", "reports"}


def test_no_circle_of_imports():
    assert find_circle({module: own(module) for module in GRAPH}) is None


def test_rational_could_be_taken_as_it_is():
    modules = [module for module in GRAPH if wing(module) == "rational"]
    assert all("rlrat" not in GRAPH[module] and own(module) <= set(modules) for module in modules)


@pytest.mark.parametrize("name", LAZY)
def test_a_wing_loads_its_names_when_they_are_used(name):
    """Its own modules import each other, never the package, so that the graph shows every circle."""
    package = import_module(f"rlrat.{name}")
    assert GRAPH[f"rlrat.{name}"] == {"rlrat"}
    assert package.__all__
    assert all(hasattr(package, public) for public in package.__all__)
    with pytest.raises(AttributeError, match=f"module 'rlrat.{name}' has no attribute 'nothing'"):
        _ = package.nothing
    assert not [module for module in GRAPH if wing(module) == name and f"rlrat.{name}" in GRAPH[module]]


def test_the_graph_shows_every_import():
    """Names that the package itself hands on, and names known only when code runs, would be arrows without an end."""
    inits = {f"rlrat.{name}" for name in LAZY}  # they import `lazy`
    assert {module for module in GRAPH if "rlrat" in GRAPH[module]} == {*inits, "rlrat.runs.agents"}  # its `__file__`
    computed = {"rlrat", "rlrat.environments.registry", "rlrat.runs.agents"}  # public names, users' modules, agents
    assert {module for module in GRAPH if "*" in GRAPH[module]} == computed


def test_rlrat_names_no_agent():
    assert not [module for module, used in GRAPH.items() if any(name.split(".")[0] == "agents" for name in used)]


@pytest.mark.parametrize("module", WITHOUT)
def test_what_answers_at_once_imports_no_torch(module):
    code = f"import sys, {module}; print(*{{*sys.modules}}.intersection({WITHOUT[module].split()}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "\n"


def test_importing_rlrat_imports_next_to_nothing():
    code = "import sys; before = {*sys.modules}; import rlrat; print(*sorted({*sys.modules} - before))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "tyro", "rich", "gymnasium", "typing_extensions"} & set(found.stdout.split())


def test_the_picture_of_the_house_is_of_these_imports():
    with Image.open(house.PICTURE) as picture:
        assert picture.text["Description"] == house.describe(), "draw it again: python -m docs.house"


def test_the_picture_of_the_house_has_every_part_in_its_layer():
    places, arrows = house.PLACES, house.count_arrows()
    assert {name for arrow in arrows for name in arrow} == set(places)
    assert all(places[importer][1] > places[used][1] for importer, used in arrows)


def test_every_commands_help_imports_no_torch():
    files = [str(path) for folder in ("agents", "scripts") for path in sorted((ROOT / folder).glob("[a-z]*.py"))]
    code = (
        "import runpy, sys\n"
        f"for file in {files!r}:\n"
        "    sys.argv = [file, '--help']\n"
        "    try: runpy.run_path(file, run_name='__main__')\n"
        "    except SystemExit as stop: assert not stop.code, file\n"
        "    assert not {'torch', 'scipy', 'matplotlib'} & {*sys.modules}, file\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("usage: ") == len(files)
