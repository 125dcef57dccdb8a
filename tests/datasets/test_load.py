import subprocess
import sys

import numpy as np
import pytest

import rlrat
from rlrat import load_dataset
from rlrat.datasets import Dataset, d4rl, minari, names, sources
from rlrat.datasets.d4rl_names import NAMES
from rlrat.errors import InputError

# what the float64 sources of the packaged datasets hold
PACKAGED = {
    "rlrat/hopper/mixed-v0": (547, 96655, 488.6, 295.9, 80.3, 1238.1),
    "rlrat/hopper/medium-v0": (304, 100220, 1104.6, 172.8, 29.4, 1445.5),
}
FORMS = (
    "a D4RL name (hopper-medium-v2), a single task of OGBench's (antmaze-medium-navigate-singletask-v0), "
    "a Minari id (mujoco/hopper/medium-v0) or a path to an .npz file"
)


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("hoper-medium-v2", "hopper-medium-v2"),
        ("hopper-medium-v3", "hopper-medium-v2"),
        ("rlrat/hopper/mixed", "rlrat/hopper/mixed-v0"),
        ("rlrat/hopper/mixd-v0", "rlrat/hopper/mixed-v0"),  # at once, without the network
        ("walker2d_medium_replay-v2", "walker2d-medium-replay-v2"),
        ("HalfCheetah-medium-expert-v2", "halfcheetah-medium-expert-v2"),
        ("own/thing", "own/thing-v0"),
        ("antmaze-medium-navigate-singletsk-v0", "antmaze-medium-navigate-singletask-v0"),
        ("../../etc/passwd-v0", None),
        ("", None),
        ("?", None),
    ],
)
def test_an_unknown_id_names_the_nearest_and_the_forms(id, nearest, make_minari, make_episode):
    make_minari("own/thing-v0", [make_episode(3)])
    with pytest.raises(InputError) as caught:
        load_dataset(id)
    message = str(caught.value)
    assert message.startswith(f"unknown dataset {id!r}")
    assert (f"the nearest known: {nearest}" in message) if nearest else ("nearest" not in message)
    assert FORMS in message
    assert "\n" not in message


@pytest.mark.parametrize("id", PACKAGED)
def test_the_packaged_datasets_hold_what_was_collected(id, monkeypatch):
    monkeypatch.setattr("minari.download_dataset", lambda *_: pytest.fail("a packaged dataset needs no network"))
    dataset = load_dataset(id)
    episodes, steps, *returns = PACKAGED[id]
    found = dataset.episode_returns
    assert (len(found), len(dataset), dataset.episode_lengths.sum()) == (episodes, steps, steps)
    np.testing.assert_allclose([found.mean(), found.std(), found.min(), found.max()], returns, atol=0.051)
    assert (dataset.env_id, dataset.reference, dataset.id) == ("Hopper-v5", "v5", id)
    assert dataset.observations.shape == (steps, 11)
    assert dataset.actions.shape == (steps, 3)


@pytest.mark.parametrize(
    "id", ["rlrat/hopper/medium-v0", pytest.param("rlrat/hopper/mixed-v0", marks=pytest.mark.slow)]
)
def test_plain_minari_reads_the_packaged_datasets(id, monkeypatch):
    import minari as plain

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari.PACKAGED_ROOT))
    assert set(plain.list_local_datasets()) == set(names.PACKAGED) == set(PACKAGED)
    dataset = plain.load_dataset(id)
    assert (dataset.total_episodes, dataset.total_steps) == PACKAGED[id][:2]
    assert dataset.env_spec.id == "Hopper-v5"
    episode = next(dataset.iterate_episodes())
    assert episode.observations.dtype == episode.actions.dtype == episode.rewards.dtype == np.float32
    assert dataset.observation_space.contains(episode.observations[0])
    assert dataset.action_space.contains(episode.actions[0])
    assert Dataset.from_episodes(dataset.iterate_episodes()).fingerprint == load_dataset(id).fingerprint


def test_the_packaged_datasets_are_small_and_their_folder_stays_clean():
    for id in PACKAGED:
        load_dataset(id)
        files = [path for path in (minari.PACKAGED_ROOT / id).rglob("*") if path.is_file()]
        assert {path.name for path in files} == {"main_data.hdf5", "metadata.json"}
        assert sum(path.stat().st_size for path in files) <= 8_000_000


def test_the_packaged_dataset_wins_over_a_local_one(make_minari, make_episode):
    make_minari("rlrat/hopper/mixed-v0", [make_episode(3)])
    assert len(load_dataset("rlrat/hopper/mixed-v0")) == PACKAGED["rlrat/hopper/mixed-v0"][1]


def test_a_warm_load_needs_neither_torch_nor_the_environments():
    load_dataset("rlrat/hopper/medium-v0")
    code = (
        "import sys, rlrat; rlrat.load_dataset('rlrat/hopper/medium-v0');"
        "print([name for name in ('torch', 'minari', 'gymnasium', 'mujoco', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_names_from_the_package():
    assert rlrat.load_dataset is load_dataset
    assert rlrat.Dataset is Dataset


def test_every_published_name_leads_to_d4rl(monkeypatch):
    asked, packaged = [], load_dataset("rlrat/hopper/medium-v0")
    monkeypatch.setattr(d4rl, "load_name", lambda name, *_: asked.append(name) or packaged)
    for name in NAMES:
        load_dataset(name)
    assert asked == list(NAMES)


def test_only_what_has_dictionaries_is_asked_to_keep_achieved_goal(make_goals, d4rl_arrays, write_hdf5, tmp_path):
    with sources.given(Dataset.from_episodes(make_goals(), id="mine", drop_achieved_goal=False)):
        assert load_dataset("mine").observations.shape[1] == 9
        assert load_dataset("mine", drop_achieved_goal=True).observations.shape[1] == 7
    flat = write_hdf5("log.hdf5", d4rl_arrays())
    np.savez(tmp_path / "log.npz", **d4rl_arrays())
    for id in (flat, tmp_path / "log.npz"):
        load_dataset(id, drop_achieved_goal=False, action_bounds=[(-1, 1)])
        with pytest.raises(
            InputError, match="has no achieved_goal in its observations: leave out --drop-achieved-goal"
        ):
            load_dataset(id, drop_achieved_goal=True, action_bounds=[(-1, 1)])
