import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import table
from rlrat import load_dataset
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import parse, run_folder
from table import Table, run_table


def test_the_data_have_the_environments_shapes(tmp_path):
    path = table._write_data(tmp_path, "Walker2d-v5", 2500)
    dataset = load_dataset(str(path), env_id="Walker2d-v5")
    assert dataset.observations.shape == (2497, 17)  # the last of an episode has no next observation
    assert dataset.actions.shape == (2497, 6)
    assert np.abs(dataset.actions).max() <= 1
    assert dataset.episode_lengths[:2].tolist() == [1000, 1000]
    assert not dataset.terminations.any()


@pytest.fixture
def started(monkeypatch):
    """The arguments of every run, each of which leaves at once what is read of its folder."""
    found = []

    def run(command, **_):
        program, file, *argv = command
        assert program == sys.executable
        agent = Path(file).stem
        arguments = parse(load_agent(agent).Arguments, agent, argv)
        found.append((agent, arguments))
        for seed in range(arguments.num_seeds):
            folder = run_folder(arguments, agent, seed)
            folder.mkdir(parents=True)
            (folder / "config.json").touch()
            (folder / "summary.json").write_text(json.dumps({"updates_per_second": 100.0}))

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_every_cell_is_run_after_what_fills_the_caches(started, capsys):
    choice = {"env_ids": ("HalfCheetah-v5", "Hopper-v5"), "activations": ("relu", "rational"), "agents": ("iql",)}
    found = run_table(Table(share=0.01, num_seeds=3, transitions=1000, **choice))
    said = [(args.env_id, args.activation, args.total_updates) for _, args in started]
    cells = [(env_id, name) for env_id in choice["env_ids"] for name in choice["activations"]]
    assert said[-4:] == [(*cell, 3000) for cell in cells]
    assert said[:-4] == [("HalfCheetah-v5", "relu", 1), ("HalfCheetah-v5", "rational", 1), ("Hopper-v5", "relu", 1)]
    assert [args.env_kwargs for _, args in started[-2:]] == [("terminate_when_unhealthy=false",)] * 2
    assert [(row["env_id"], row["activation"]) for row in found["cells"]] == cells
    assert all(row["seed_updates_per_second"] == 300 for row in found["cells"])
    expected = sum(row["start"] + row["run"] / 0.01 for row in found["cells"]) / 3600
    assert found["projected_hours"] == pytest.approx(expected)
    assert "1.0% of 4 cells" in capsys.readouterr().out
