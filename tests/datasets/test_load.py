import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlrat
from rlrat import load_dataset
from rlrat.datasets import Dataset, d4rl, minari, names
from rlrat.errors import InputError
from scripts.convert import convert

# what the float64 sources of the packaged datasets hold
PACKAGED = {
    "rlrat/hopper/mixed-v0": (547, 96655, 488.6, 295.9, 80.3, 1238.1),
    "rlrat/hopper/medium-v0": (304, 100220, 1104.6, 172.8, 29.4, 1445.5),
}


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("hoper-medium-v2", "hopper-medium-v2"),
        ("hopper-medium-v0", "hopper-medium-v2"),
        ("rlrat/hopper/mixed", "rlrat/hopper/mixed-v0"),
        ("rlrat/hopper/mixd-v0", "rlrat/hopper/mixed-v0"),  # at once, without the network
        ("walker2d_medium_replay-v2", "walker2d-medium-replay-v2"),
        ("HalfCheetah-medium-expert-v2", "halfcheetah-medium-expert-v2"),
        ("own/thing", "own/thing-v0"),
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
    assert "a Minari id (mujoco/hopper/medium-v0), a D4RL name (hopper-medium-v2) or a path to an .hdf5" in message
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


@pytest.mark.parametrize("id", PACKAGED)
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


def test_converting_keeps_the_content_and_is_reproducible(make_minari, make_episode, tmp_path, monkeypatch):
    import minari as plain

    episodes = [make_episode(5), make_episode(3, seed=1, terminal=False)]
    source = make_minari("own/deep/set-v1", episodes, infos=True)
    for name in ("one", "two"):
        convert("own/deep/set-v1", tmp_path / name)
    one, two = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert {path.as_posix() for path in one} == {
        "own/namespace_metadata.json",
        "own/deep/namespace_metadata.json",
        "own/deep/set-v1/data/main_data.hdf5",
        "own/deep/set-v1/data/metadata.json",
    }
    before = json.loads((source / "data" / "metadata.json").read_text())
    after = json.loads(one[Path("own/deep/set-v1/data/metadata.json")])
    kept = ("env_spec", "author", "algorithm_name", "dataset_id", "total_steps", "total_episodes", "action_space")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert json.loads(after["observation_space"])["dtype"] == "float32"
    assert "float32" in after["description"]

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "one"))
    converted = plain.load_dataset("own/deep/set-v1")
    assert [int(each["seed"]) for each in converted.storage.get_episode_metadata(range(2))] == [0, 1]
    assert load_dataset("own/deep/set-v1").fingerprint == Dataset.from_episodes(episodes).fingerprint


def test_a_converted_file_carries_no_time(make_minari, make_episode, tmp_path):
    import h5py

    make_minari("own/set-v0", [make_episode(4)])
    convert("own/set-v0", tmp_path / "out")
    times = []
    with h5py.File(tmp_path / "out/own/set-v0/data/main_data.hdf5") as file:
        file.visititems(lambda _, item: times.append(h5py.h5o.get_info(item.id).mtime))
    assert times == [0] * 6


def test_mistakes_in_converting(make_minari, make_episode, tmp_path):
    from gymnasium.spaces import Discrete

    with pytest.raises(InputError, match=r"cannot read own/set-v0: .*not found locally"):
        convert("own/set-v0", tmp_path / "out")
    make_minari("own/set-v0", [make_episode(4)])
    convert("own/set-v0", tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        convert("own/set-v0", tmp_path / "out")
    metadata = make_minari("own/bare-v0", [make_episode(4)]) / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({name: value for name, value in content.items() if name != "action_space"}))
    with pytest.raises(InputError, match="own/bare-v0 records no action_space"):
        convert("own/bare-v0", tmp_path / "out")
    discrete = make_episode(4) | {"actions": np.zeros(4, np.int64)}
    make_minari("own/discrete-v0", [discrete], action_space=Discrete(2))
    with pytest.raises(InputError, match=r"action space Discrete.*only Box"):
        convert("own/discrete-v0", tmp_path / "out")
    assert not (tmp_path / "out/own/discrete-v0").exists()


def test_every_published_name_leads_to_d4rl(monkeypatch):
    asked, packaged = [], load_dataset("rlrat/hopper/medium-v0")
    monkeypatch.setattr(d4rl, "load_name", lambda name, *_: asked.append(name) or packaged)
    for name in d4rl.FILES:
        load_dataset(name)
    assert asked == list(d4rl.FILES)
