"""scripts/judge.py: a table with doubts, a sentence on what the number is, one line for what is wrong."""

import dataclasses
import json
import shutil

import pytest

from rlrat.errors import one_line_errors
from scripts import judge
from tests.runs.test_judging import folder_of

QUICK = {"fqe_updates": 10, "fqe_batch_size": 16, "fqe_hidden_dims": (8,), "refits": 2, "device": "cpu"}


@pytest.fixture
def main(capfd):
    """`main(run, refits=2)`: exit code, standard output and errors of the script."""

    def call(*runs, **settings) -> tuple[int, str, str]:
        code = 0
        capfd.readouterr()
        try:
            with one_line_errors():
                judge.main(judge.Arguments(runs, **{**QUICK, **settings}))
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


def test_runs_are_judged_side_by_side_into_a_table_and_files(main, tmp_path):
    runs = [shutil.copytree(folder_of(agent), tmp_path / agent / "seed0") for agent in ("td3_bc", "iql")]
    code, out, _ = main(*runs, json=tmp_path / "all.json")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    everything = json.loads((tmp_path / "all.json").read_text())
    for run, row, found in zip(runs, rows, everything, strict=True):
        low, high = found["interval"]
        assert row[:4] == [str(run), f"{found['update']:,}", f"{found['value']:.1f}", f"{low:.1f} to {high:.1f}"]
        assert row[4:6] == [f"{found['data_value']:.1f}", f"{found['outside']:.0%}"]
        assert row[6].startswith("no doubts" if found["trusted"] else "not to be trusted: ")
        assert json.loads((run / "judgement.json").read_text())["value"] == found["value"]
    assert "discounted by 0.99, by fitted Q evaluation; it is no return" in out


def test_importance_sampling_has_a_column_where_there_is_some():
    found = judge.Judgement("run", 1, "last", 0.99, 5.0, None, (), 4.0, 0.1)
    estimates = {"weighted_doubly_robust": 3.25, "weighted_per_decision": 2.75, "effective_sample_size": 12.0}
    sampled = dataclasses.replace(found, importance=estimates)
    refused = dataclasses.replace(found, importance={"effective_sample_size": 1.5, "refused": "too few"})
    assert "importance sampling" not in [column.header for column in judge._table([found]).columns]
    (column,) = [c for c in judge._table([found, sampled, refused]).columns if c.header == "importance sampling"]
    texts = ["-", "3.2 doubly robust, 2.8 alone; effective sample size 12.0", "too few"]
    assert list(column.cells) == texts


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"refits": -1}, "--refits is -1"),
        ({"discount": 1.0}, "--discount is 1.0"),
        ({"fqe_activation": "rellu"}, "rellu"),
        ({"fqe_hidden_dims": (0,)}, "--fqe-hidden-dims is (0,), but must be one or more positive widths"),
        ({"dataset": "/nowhere/log.hdf5"}, "/nowhere/log.hdf5"),
    ],
)
def test_what_is_wrong_is_one_line(main, settings, line):
    code, _, err = main(folder_of("td3_bc"), **settings)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert line in err


def test_no_run_is_refused(main):
    code, _, err = main()
    assert code == 2
    assert "no run is given" in err
