"""Sets of D4RL's families, from a file in its layout to a report, and references that a set records."""

import dataclasses

import h5py
import numpy as np
import pytest

import rlrat
from agents.iql import Arguments
from rlrat.datasets.d4rl_names import NAMES
from rlrat.reports import build_report, read_runs
from rlrat.runs.run import Run

SPEC = {"id": "Hopper-v5", "max_episode_steps": 1000, "additional_wrappers": [], "kwargs": {}}


def test_references_that_the_data_records_are_for_the_recorded_environment(small_dataset, tmp_path, monkeypatch):
    def begin(recorded, **arguments):
        dataset = dataclasses.replace(small_dataset, reference="recorded", env_recorded=recorded)
        monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: dataset)
        return Run("iql", Arguments(run_dir=tmp_path / "runs", device="cpu", **arguments)).reference

    recorded = {"env_spec": SPEC, "ref_min_score": 10.0, "ref_max_score": 510.0}
    found = begin(recorded)
    assert (found.name, found.env_id, found.normalize(260.0)) == ("recorded", "Hopper-v5", 50.0)
    assert begin(recorded, env_kwargs=("healthy_reward=2",)) is begin(recorded, env_id="Hopper-v4") is None
    assert begin({"env_spec": SPEC}) is None


@pytest.mark.parametrize("name", ["pen-human-v1", "maze2d-open-dense-v0"])
def test_a_set_of_d4rls_goes_through_load_train_evaluate_and_report(name, tmp_path, capsys):
    pytest.importorskip("gymnasium_robotics")
    entry, random = NAMES[name], np.random.default_rng(0)
    steps = entry.time_limit + 1
    with h5py.File(tmp_path / entry.file, "w") as file:
        for array, width in zip(("observations", "actions"), entry.widths, strict=True):
            file[array] = random.uniform(-1, 1, (steps, width)).astype(np.float32)
        file["rewards"] = random.uniform(size=steps)
        file["terminals"], file["timeouts"] = np.zeros(steps, bool), np.arange(steps) == entry.time_limit - 1
    settings = {"total_updates": 2, "eval_every": 2, "eval_episodes": 2, "batch_size": 4, "hidden_dims": (4,)}
    result = rlrat.train("iql", str(tmp_path / entry.file), run_dir=tmp_path / "runs", device="cpu", **settings)
    said = capsys.readouterr().out
    assert f"rewards of {entry.family}, as IQL's authors have them: they are not scaled (--reward-scaling)" in said
    (summary,) = result.summaries
    assert (summary["status"], summary["reference"]["name"]) == ("finished", f"d4rl-{name[-2:]}")
    assert summary["reference"]["measured_with"] == "d4rl 1.1, gym and mujoco_py"
    score = 100 * (summary["final_return"] - entry.random) / (entry.expert - entry.random)
    assert summary["final_score"] == pytest.approx(score)
    assert max(result.episodes["length"]) <= entry.time_limit
    assert result.path.is_relative_to(tmp_path / "runs" / name)
    (task,) = build_report(read_runs([tmp_path / "runs"])).tasks
    assert (task.measure, name in task.name) == ("score", True)
