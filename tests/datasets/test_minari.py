import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from minari import MinariDataset

from rlrat import load_dataset
from rlrat.datasets import Dataset, minari
from rlrat.errors import InputError

ID = "own/set-v0"


@pytest.fixture
def episodes(make_episode):
    return [make_episode(5), make_episode(3, seed=1, terminal=False), make_episode(1, seed=2)]


@pytest.mark.parametrize("infos", [False, True])
def test_a_local_dataset(make_minari, episodes, infos, tmp_path):
    folder = make_minari(ID, episodes, infos=infos)
    dataset = load_dataset(ID)
    assert dataset.fingerprint == Dataset.from_episodes(episodes).fingerprint
    assert (dataset.id, dataset.env_id, dataset.env_kwargs, dataset.reference) == (ID, "Hopper-v5", {}, "v5")
    assert dataset.terminations.tolist() == [False] * 4 + [True] + [False] * 3 + [True]
    assert dataset.truncations.tolist() == [False] * 7 + [True, False]
    # the final observation is there, so nothing is left out at a truncation
    np.testing.assert_array_equal(dataset.next_observations[7], episodes[1]["observations"][-1].astype(np.float32))
    assert Path(dataset.observations.filename).is_relative_to(folder / ".rlrat-cache")


def test_it_reads_what_minaris_own_loop_does(make_minari, episodes):
    folder = make_minari(ID, episodes, infos=True)
    through_minari = Dataset.from_episodes(MinariDataset(folder / "data").iterate_episodes())
    assert load_dataset(ID).fingerprint == through_minari.fingerprint


def test_a_slashless_local_id(make_minari, episodes):
    make_minari("mine-v3", episodes, env_id=None)
    dataset = load_dataset("mine-v3")
    assert (dataset.id, dataset.env_id, dataset.reference) == ("mine-v3", None, None)


def test_environment_settings_and_bounds(make_minari, episodes):
    folder = make_minari(ID, episodes, action_space=Box(-1, np.float32([1, 2]), dtype=np.float32))
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    spec = json.loads(metadata["env_spec"]) | {"id": "Walker2d-v4", "kwargs": {"xml_file": "walker2d.xml"}}
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    dataset = load_dataset(ID)
    assert (dataset.env_id, dataset.env_kwargs) == ("Walker2d-v4", {"xml_file": "walker2d.xml"})
    assert dataset.reference is None
    assert (dataset.action_low.tolist(), dataset.action_high.tolist()) == ([-1, -1], [1, 2])


def test_spaces_left_out_are_the_environments(make_minari, make_episode):
    folder = make_minari(ID, [make_episode(4, observations=11, actions=3)])
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    del metadata["observation_space"], metadata["action_space"]
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    assert load_dataset(ID).action_high.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action_space": Discrete(3)}, "action space Discrete: continuous actions only"),
        ({"action_space": Box(0, 5, (2,), np.int64)}, r"action space Box, int64, shape \[2\]: continuous"),
        ({"action_space": Box(-1, 1, (2, 2), np.float32)}, "action space Box, .*: only flat vectors"),
        ({"observation_space": Dict(a=Box(-1, 1, (4,)))}, "observation space Dict: only flat vectors"),
        ({"observation_space": Box(0, 255, (8, 8, 3), np.uint8)}, r"observation space Box, uint8, shape \[8, 8, 3\]"),
        ({"action_space": Box(-np.inf, np.inf, (2,), np.float32)}, "action bounds are .*: finite low < high"),
        ({"action_space": Box(-0.1, 0.1, (2,), np.float32)}, r"actions hold .* outside their bounds \[-0.1, 0.1\]"),
    ],
)
def test_unusable_spaces(make_minari, episodes, space, message):
    make_minari(ID, episodes)
    path = minari.minari_root() / ID / "data" / "metadata.json"
    from minari.serialization import serialize_space

    change = {name: serialize_space(each) for name, each in space.items()}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"^{ID}.*{message}") as caught:
        load_dataset(ID)
    assert "\n" not in str(caught.value)


def edit_file(change):
    def edit(data):
        with h5py.File(data / "main_data.hdf5", "a") as file:
            change(file)

    return edit


def delete(*names):
    return edit_file(lambda file: [file.__delitem__(name) for name in names])


def set_nan(file):
    file["episode_1/rewards"][2] = np.nan


def truncate(data):
    path = data / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (delete("episode_1/rewards"), f"{ID}: episode 1 lacks rewards"),
        (delete("episode_2"), "has no episode_2, though own/set-v0 should have 3"),
        (edit_file(set_nan), f"{ID}: rewards hold nan at episode 1, step 2"),
        (truncate, r"main_data\.hdf5 is truncated or not an HDF5 file"),
        (lambda data: (data / "main_data.hdf5").write_bytes(b"nothing"), "not an HDF5 file"),
        (lambda data: (data / "metadata.json").write_text("{"), r"metadata\.json is damaged"),
        (lambda data: (data / "metadata.json").write_text("{}"), r"metadata\.json is damaged"),
    ],
)
def test_damaged_files(make_minari, episodes, damage, message):
    folder = make_minari(ID, episodes)
    damage(folder / "data")
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(ID)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_is_not_local_is_downloaded(make_minari, episodes, monkeypatch, tmp_path):
    remote = shutil.move(make_minari(ID, episodes), tmp_path / "remote")
    asked = []

    def download(id, force_download):
        asked.append((id, force_download))
        shutil.copytree(remote, minari.minari_root() / id, dirs_exist_ok=True)

    monkeypatch.setattr("minari.download_dataset", download)
    assert len(load_dataset(ID)) == len(load_dataset(ID)) == 9
    (minari.minari_root() / ID / "data" / "main_data.hdf5").unlink()  # as an interrupted download leaves it
    assert len(load_dataset(ID)) == 9
    assert asked == [(ID, False), (ID, True)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Network is\nunreachable"), "no download without a network .ConnectionError: Network is unre"),
        (RuntimeError("offline"), "no download without a network .RuntimeError: offline"),
        (ValueError("Couldn't find any version"), "neither in .*minari nor on Minari's server: Couldn't find"),
        (ImportError("huggingface_hub is not installed"), "cannot be downloaded: huggingface_hub is not"),
        (None, "left no data in .*: try again"),
    ],
)
def test_a_download_that_fails(monkeypatch, error, message):
    def download(id, force_download):
        if error is not None:
            raise error

    monkeypatch.setattr("minari.download_dataset", download)
    with pytest.raises(InputError, match=f"mujoco/hoper/medium-v0 .*{message}") as caught:
        load_dataset("mujoco/hoper/medium-v0")
    assert "\n" not in str(caught.value)
    assert "the nearest known: mujoco/hopper/medium-v0" in str(caught.value)


def test_the_tries_of_a_download_are_quiet():
    """Minari imports what downloads when it needs it, and that import says how much is logged."""
    code = (
        "import minari\n"
        "from rlrat.datasets.minari import download\n"
        "def fail(id, force_download):\n"
        "    from huggingface_hub import HfApi, logging\n"
        "    logging.get_logger('huggingface_hub.utils').warning('a try')\n"
        "    logging.get_logger('huggingface_hub.utils').error('an error')\n"
        "minari.download_dataset = fail\n"
        "try:\n"
        "    download('mujoco/none-v0')\n"
        "except ValueError: pass\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "an error\n"


def test_the_default_folder_is_minaris(monkeypatch):
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(minari.minari_root()) == "/home/someone/.minari/datasets"
