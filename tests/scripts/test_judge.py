"""scripts/judge.py: a table with doubts, a sentence on what the number is, one line for what is wrong."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import rlrat
from rlrat.errors import one_line_errors
from scripts import judge
from tests.evaluation.test_fqe import two_states
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
        assert row[:4] == [str(run), f"{found['update']:,}", f"{found['value']:.4g}", f"{low:.4g} to {high:.4g}"]
        assert row[4:6] == [f"{found['data_value']:.4g}", f"{found['outside']:.0%}"]
        assert row[6].startswith("no doubts" if found["trusted"] else "not to be trusted: ")
        assert json.loads((run / "judgement.json").read_text())["value"] == found["value"]
    assert "discounted by 0.99, by fitted Q evaluation; it is no return" in out
    assert "cannot be compared" not in out


def test_values_of_data_that_is_truncated_early_are_said_not_to_compare(main, tmp_path):
    data = two_states(episodes=30, steps=20)
    wide = np.zeros((21, 11), np.float32)
    flags = {"terminations": np.zeros(20, bool), "truncations": np.arange(20) == 19}
    episodes = [
        {"observations": wide, "actions": np.full((20, 3), n / 30), "rewards": data.rewards[:20], **flags}
        for n in range(30)
    ]
    path = tmp_path / "cut.npz"
    rlrat.Dataset.from_episodes(episodes, action_low=-1.0, action_high=1.0).save(path)
    run = shutil.copytree(folder_of("td3_bc"), tmp_path / "seed0")
    _, out, _ = main(run, dataset=str(path))
    assert json.loads((run / "judgement.json").read_text())["cut_share"] == pytest.approx(0.99**20)
    assert "cannot be compared: episodes are truncated while up to 82% of a steady reward's value is still" in out


def test_importance_sampling_has_a_column_where_there_is_some():
    found = judge.Judgement("run", 1, "last", 0.99, 5.0, None, (), 4.0, 0.0, 0.1)
    estimates = {"weighted_doubly_robust": 3.25, "weighted_per_decision": 2.75, "effective_sample_size": 12.0}
    sampled = dataclasses.replace(found, importance=estimates)
    refused = dataclasses.replace(found, importance={"effective_sample_size": 1.5, "refused": "too few"})
    assert "importance sampling" not in [column.header for column in judge._table([found]).columns]
    (column,) = [c for c in judge._table([found, sampled, refused]).columns if c.header == "importance sampling"]
    texts = ["-", "3.25 doubly robust, 2.75 alone; effective sample size 12.0", "too few"]
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
