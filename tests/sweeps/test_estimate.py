import pytest

from rlrat.errors import InputError
from rlrat.sweeps import estimate
from rlrat.updates import captured


def test_a_probe_that_fails_says_what_the_agent_said(sweeper):
    with pytest.raises(InputError, match=r"the probe of .* ended with exit code 2 and said: error: this cannot be"):
        sweeper("--dry-run", "--grid.trouble", "mistake")


def test_a_plan_for_data_that_is_not_here_is_probed_on_the_packaged_one(sweeper, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert sweeper("--dry-run", "--datasets", "hopper-medium-v2", "--grid.env-id", "Hopper-v4") == 0
    assert "to be downloaded: hopper-medium-v2" in sweeper.said
    assert "(probed: rlrat-hopper-mixed-v0 toy relu seed0)" in sweeper.said


def test_a_probe_times_no_update_in_which_a_graph_is_recorded():
    assert estimate._WARM >= 2 * (captured._WARM_UP_CALLS + 1)  # of TD3+BC there are two
    assert estimate._UPDATES - estimate._WARM == 20
