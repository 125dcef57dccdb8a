import json

import pytest

from rlrat.datasets.names import PACKAGED
from rlrat.errors import InputError
from rlrat.sweeps import estimate
from rlrat.sweeps.grid import Block, make_jobs
from rlrat.updates import captured
from tests.sweeps.whole_sweeps import cells


def test_a_probe_that_fails_says_what_the_agent_said(sweeper):
    with pytest.raises(InputError, match=r"the probe of .* ended with exit code 2 and said: error: this cannot be"):
        sweeper("--dry-run", "--grid.trouble", "mistake")


def test_a_plan_for_data_that_is_not_here_is_probed_on_the_packaged_one(sweeper, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    own = ("--grid.env-id", "Hopper-v4", "--grid.drop-achieved-goal", "True")
    assert sweeper("--dry-run", "--datasets", "hopper-medium-v2", *own) == 0
    assert "to be downloaded: hopper-medium-v2" in sweeper.said
    assert "(probed: rlrat-hopper-mixed-v0 toy relu seed0)" in sweeper.said


def test_a_probe_times_no_update_in_which_a_graph_is_recorded():
    assert estimate._WARM >= 2 * (captured._WARM_UP_CALLS + 1)  # of TD3+BC there are two
    assert estimate._UPDATES - estimate._WARM == 20


def test_evaluations_on_data_alone_are_timed_and_grow_with_their_updates(sweeper, tmp_path):
    assert sweeper("--dry-run", "--grid.env-id", "none", "--grid.total-updates", "100", "--grid.eval-every", "50") == 0
    assert "toy without an environment: 10 updates/s" in sweeper.said
    # The toy says 0.1 s an update, and 2 s between the evaluations at 8 and 28, of 200 of the fit's 5,000 updates.
    (file,) = (sweeper.run_dir / ".sweep" / "probes").glob("*.json")
    found = json.loads(file.read_text())
    assert (found["step_seconds"], found["judging_seconds"]) == (0.0, pytest.approx(50.0))
    probe = estimate.known_probe(file, found["argv"])
    (cell,) = cells(
        tmp_path, Block(("iql",), axes={"total_updates": ("100",), "eval_every": ("50",), "env_id": ("none",)})
    )
    (job,) = make_jobs([cell], None)
    assert probe.seconds(job) == pytest.approx(probe.start_seconds + 100 * 0.1 + 3 * 50.0)
    assert "fitted Q evaluation takes as long as it has updates, nothing is judged for --keep-best" in sweeper.said
    assert "episodes last" not in sweeper.said


def test_an_agent_is_probed_with_an_environment_and_without(sweeper, mine):
    assert sweeper("--dry-run", "--datasets", PACKAGED[0], mine, "--grid.action-bounds", "-1 1") == 0
    assert "1 of 2 cells have no environment" in sweeper.said
    names = [line.split(":")[0] for line in sweeper.said.splitlines() if "updates/s" in line]
    assert sorted(names) == ["toy", "toy without an environment"]
    assert "episodes last 1000 steps, fitted Q evaluation takes" in sweeper.said
