"""The notebook of docs/own_data.md is executed, and says what it said."""

import json
import re

import pytest

from tests.short_runs import ROOT

NOTEBOOK = json.loads((ROOT / "docs/own_data.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs_from_arrays_to_a_judged_policy(tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in CODE:
        exec(compile("".join(cell["source"]), "own_data.ipynb", "exec"), names)
    said = capsys.readouterr().out
    assert names["result"].summaries[0]["status"] == "finished"
    assert names["judgement"].interval[0] < names["judgement"].value < names["judgement"].interval[1]
    value, low, high = map(float, re.search(r"value (\S+), interval (\S+) to (\S+)", said).groups())
    assert low < value < high


def test_the_notebook_shows_what_its_cells_print():
    """It was executed as it stands: every cell in order, without an error, with the curve drawn."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
