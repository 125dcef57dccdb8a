import json
import subprocess
import sys
import threading
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
    found, lock = [], threading.Lock()  # processes may read their command lines at once, threads not

    def run(command, **_):
        program, file, *argv = command
        assert program == sys.executable
        agent = Path(file).stem
        with lock:
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
    assert said[:-4] == [("HalfCheetah-v5", "relu", 1), ("Hopper-v5", "relu", 1), ("HalfCheetah-v5", "rational", 1)]
    assert [args.num_threads for _, args in started] == [None] * 7
    assert [args.env_kwargs for _, args in started[-2:]] == [("terminate_when_unhealthy=false",)] * 2
    assert [(row["env_id"], row["activation"]) for row in found["cells"]] == cells
    assert all(row["seed_updates_per_second"] == 300 for row in found["cells"])
    expected = sum(row["start"] + row["run"] / 0.01 for row in found["cells"]) / 3600
    assert found["projected_hours"] == pytest.approx(expected)
    assert "1.0% of 4 cells" in capsys.readouterr().out


def test_what_is_done_once_is_counted_once(tmp_path):
    folder = tmp_path / "seed0"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean"
    lines = [
        f"{update},{seconds},{seconds},,1,0.0,0.0,1.0," for update, seconds in ((0, 1), (10_000, 12), (20_000, 17))
    ]
    (folder / "evaluations.csv").write_text("\n".join([f"{header},normalized_score", *lines, ""]))
    assert table._whole_seconds(folder, 30_000, 24.0) == 12 + 29 * 6
    assert table._whole_seconds(folder, 10_000, 12.0) == 12 * 30


def test_runs_at_once_share_the_cores(started, monkeypatch):
    monkeypatch.setattr(table, "usable_cores", lambda: 16)
    choice = {"env_ids": ("HalfCheetah-v5",), "activations": ("relu", "rational"), "agents": ("iql",)}
    run_table(Table(share=0.01, num_seeds=1, transitions=1000, processes=4, **choice))
    assert [args.num_threads for _, args in started] == [4] * 4
