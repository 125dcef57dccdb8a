"""From a log to a judged and exported policy, at a tenth."""

import json

import pytest

import rlrat
from scripts.benchmarks.own_log import Arguments, main, write_log


@pytest.mark.slow
def test_a_log_becomes_a_judged_and_exported_policy(tmp_path):
    output = tmp_path / "figures.json"
    found = main(Arguments(transitions=10_000, total_updates=2_000, fqe_updates=1_000, output=output))
    assert list(found["seconds"]) == ["train", "judge", "export", "card"]
    assert found["total_seconds"] == pytest.approx(sum(found["seconds"].values()))
    assert 9_000 < found["transitions"] <= 10_000
    assert json.loads(output.read_text()) == found


def test_the_log_is_what_was_recorded_and_names_no_environment(tmp_path):
    count = write_log(tmp_path / "log.npz", 2_000)
    ours, theirs = rlrat.load_dataset(tmp_path / "log.npz"), rlrat.load_dataset("rlrat/hopper/medium-v0")
    assert (len(ours), ours.env_id) == (count, None)
    for name in ("observations", "actions", "rewards", "next_observations", "terminations"):
        assert (getattr(ours, name) == getattr(theirs, name)[:count]).all()
    assert ours.episode_starts.tolist() == theirs.episode_starts[: len(ours.episode_starts)].tolist()
