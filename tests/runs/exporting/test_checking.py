"""What an export is compared on, and how differences are counted."""

import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import InputError
from rlrat.runs.exporting.checking import largest_difference, make_trial
from rlrat.runs.exporting.modules import plain_policy
from tests.runs.exporting.policies import make_policy

HERE = {"arguments": {"dataset": "rlrat/hopper/mixed-v0"}}


def test_observations_are_the_runs_datasets():
    trial = make_trial(make_policy(), HERE, None)
    dataset = rlrat.load_dataset("rlrat/hopper/mixed-v0")
    assert trial.source == "10,000 observations of rlrat/hopper/mixed-v0"
    np.testing.assert_array_equal(trial.observations[[0, -1]], dataset.observations[[0, -1]])


def test_windows_of_those_that_look_back_begin_where_episodes_do():
    trial = make_trial(make_policy(sequence=True), HERE, None)
    dataset = rlrat.load_dataset("rlrat/hopper/mixed-v0")
    assert trial.observations.shape == (32, 8, 11)
    start = dataset.episode_starts[-1]
    starts = [np.flatnonzero((dataset.observations == window[0]).all(1))[0] for window in trial.observations]
    assert set(starts) <= set(dataset.episode_starts.tolist())
    assert start >= starts[-1]
    np.testing.assert_array_equal(trial.rewards[1], dataset.rewards[starts[1] : starts[1] + 8])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "the run names no dataset"),
        ({"arguments": {"dataset": 7}}, "the run names no dataset"),
        (
            {"arguments": {"dataset": "mujoco/hopper/medium-v0"}},
            "dataset mujoco/hopper/medium-v0 is not on this machine",
        ),
        ({"arguments": {"dataset": "nowhere/log.hdf5"}}, "log"),
    ],
)
def test_without_the_dataset_they_are_drawn_and_nothing_is_downloaded(config, why, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    policy = make_policy()
    trial = make_trial(policy, config, None)
    assert trial.source.startswith("10,000 observations drawn by mean and standard deviation (")
    assert why in trial.source
    np.testing.assert_allclose(trial.observations.mean(0), policy.observation_mean[0], atol=0.1)
    np.testing.assert_allclose(trial.observations.std(0), policy.observation_std[0], rtol=0.05)
    assert make_trial(make_policy(sequence=True), config, None).observations.shape == (32, 8, 11)


def test_a_dataset_of_another_width_is_one_line():
    policy = make_policy(sizes=(5, 2))
    with pytest.raises(
        InputError, match=r"takes observations of size 5, those of dataset rlrat/hopper/mixed-v0 have 11"
    ):
        make_trial(policy, None, "rlrat/hopper/mixed-v0")


@pytest.mark.parametrize("sequence", [False, True])
def test_a_difference_is_found_and_counted_by_the_range_of_actions(sequence):
    policy = make_policy(sequence=sequence)
    policy.action_scale[0, :] = 4.0
    if sequence:
        policy.target_returns = (100.0,)
    trial = make_trial(policy, HERE, None)
    plain = plain_policy(policy)

    def exported(arrays, shift=0.0):
        found = plain(*(torch.from_numpy(np.array(array)) for array in arrays))
        found = list(found) if sequence else [found]
        found[0] = found[0] + shift
        return [part.numpy() for part in found]

    assert largest_difference(policy, exported, trial) < 1e-5
    found = largest_difference(policy, lambda arrays: exported(arrays, 0.08), trial)
    assert found == pytest.approx(0.01, rel=1e-3)
    assert largest_difference(policy, lambda arrays: exported(arrays, np.nan), trial) == np.inf


def test_a_policy_whose_actions_are_not_finite_is_one_line():
    policy = make_policy()
    policy.mean.output.bias[0, 0] = np.nan
    with pytest.raises(InputError, match=r"^the policy gives actions that are not finite: there is nothing to export$"):
        largest_difference(policy, lambda arrays: [policy(arrays[0])], make_trial(policy, HERE, None))
