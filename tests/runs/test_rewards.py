"""What a run says, and keeps in its identity, of rewards that the data decides about."""

import dataclasses
import json

import numpy as np
import pytest

from agents.bc import Arguments as BC
from agents.iql import Arguments
from rlrat.errors import InputError
from rlrat.runs.rewards import describe_rewards, reward_identity
from rlrat.runs.run import Run


def sparse(dataset):
    return dataclasses.replace(dataset, id="antmaze-umaze-v2", rewards=np.zeros(len(dataset), np.float32))


def test_an_identity_has_what_the_data_decides(small_dataset):
    for dataset, typed, scaling, shift in (
        (small_dataset, {}, "iql", None),
        (small_dataset, {"reward_shift": 0.5}, "iql", 0.5),
        (sparse(small_dataset), {}, "none", -1.0),
        (sparse(small_dataset), {"reward_shift": 0.0, "reward_scaling": "paper"}, "paper", 0.0),
        (dataclasses.replace(small_dataset, id="pen-human-v1"), {}, "none", None),
    ):
        arguments = Arguments(**typed)
        found = {"reward_shift": arguments.reward_shift, **reward_identity(dataset, arguments)}
        assert found == {"reward_scaling": scaling, "reward_shift": shift}
    assert reward_identity(small_dataset, BC()) == {}


def test_what_is_said_of_it(small_dataset):
    assert describe_rewards(small_dataset, Arguments()) is describe_rewards(sparse(small_dataset), BC()) is None
    begin = "rewards of antmaze, as IQL's authors have them: "
    shifted, kept = "1 is subtracted (--reward-shift)", "they are not scaled (--reward-scaling)"
    assert describe_rewards(sparse(small_dataset), Arguments()) == f"{begin}{shifted}, and {kept}"
    assert describe_rewards(sparse(small_dataset), Arguments(reward_shift=0.0)) == begin + kept
    assert describe_rewards(sparse(small_dataset), Arguments(reward_scaling="none")) == begin + shifted
    task = dataclasses.replace(small_dataset, id="antmaze-large-navigate-singletask-v0", reference="success")
    assert describe_rewards(task, Arguments()) == "rewards of OGBench: they are not scaled (--reward-scaling)"


def test_a_run_that_an_older_version_began_with_scaled_rewards_is_told(small_dataset, tmp_path, monkeypatch):
    """Minari's sets of hands were trained on rewards times 1000/(best - worst) before."""
    hands = dataclasses.replace(small_dataset, env_id=None, id="pen-human-v1")
    monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: hands)

    def begin():
        return Run("iql", Arguments(run_dir=tmp_path, device="cpu"))

    run = begin()
    (folder,) = run._group.folders
    folder.create(run._group._config(run._group.members[0]))
    begin()
    config = json.loads((folder.path / "config.json").read_text())
    config["identity"]["reward_scaling"] = "iql"
    (folder.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="reward_scaling is 'iql' there and 'none' here"):
        begin()
