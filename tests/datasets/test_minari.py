import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box
from minari import MinariDataset

from rlrat import load_dataset
from rlrat.datasets import Dataset, minari
from rlrat.errors import InputError
from tests.datasets.minari_sets import ID, edit_metadata, in_the_old_layout, raw_parts
from tests.environments.goals import play


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


NO_SPACES = {"observation_space": None, "action_space": None}


def test_spaces_left_out_are_the_environments(make_minari, make_episode):
    folder = make_minari(ID, [make_episode(4, observations=11, actions=3)])
    edit_metadata(folder, **NO_SPACES)
    assert load_dataset(ID).action_high.tolist() == [1, 1, 1]
    assert load_dataset(ID, action_bounds=[(-1, 1), (-1, 1), (-1.5, 2)]).action_high.tolist() == [1, 1, 2]
    assert load_dataset(ID, env_id="Hopper-v5").action_high.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"of Pendulum-v1 have shapes .1. and .1., the actions 3 components"):
        load_dataset(ID, env_id="Pendulum-v1")
    edit_metadata(folder, env_spec=None)
    wanted = f"{ID} has no action bounds, and it names no environment: give --env-id .*; or give --action-bounds"
    with pytest.raises(InputError, match=wanted):
        load_dataset(ID)
    assert load_dataset(ID, env_id="Hopper-v5").action_high.tolist() == [1, 1, 1]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`stand_in()`: what the module `harmless_stand_in` that a dataset names has done: imports and calls."""
    said = tmp_path / "said.txt"
    lines = [
        "import gymnasium, pathlib",
        f"said = pathlib.Path({str(said)!r}).open('a', buffering=1)  # a line at a time",
        "said.write('imported\\n')",
        "def make(**kwargs):",
        "    said.write('called\\n')",
        "    return gymnasium.make('Hopper-v5', **kwargs)",
        "gymnasium.register('Mine-v0', entry_point='harmless_stand_in:make')",
    ]
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "harmless_stand_in.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield lambda: said.read_text() if said.exists() else ""
    sys.modules.pop("harmless_stand_in", None)
    gymnasium.registry.pop("Mine-v0", None)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("env_id", ["harmless_stand_in:Mine-v0", "Mine-v0", "Hopper-v5"])
def test_nothing_that_a_dataset_names_is_imported_or_called(make_minari, make_episode, stand_in, env_id, data_format):
    folder = make_minari(ID, [make_episode(4, observations=11, actions=3)])
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    spec = {**json.loads(metadata["env_spec"]), "id": env_id, "entry_point": "harmless_stand_in:make"}
    spec["additional_wrappers"] = [{"name": "W", "entry_point": "harmless_stand_in:make", "kwargs": {}}]
    specs = {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps(spec)}
    for spaces in ({}, NO_SPACES):
        edit_metadata(folder, **specs, **spaces, data_format=data_format)
        message = None
        try:
            dataset = load_dataset(ID)
            assert dataset.env_recorded == {"env_spec": spec, "eval_env_spec": spec}
            assert dataset.env_id == env_id
        except InputError as error:
            message = str(error)
        assert stand_in() == ""
        if data_format == "hdf5":
            assert (message is None) == (not spaces or env_id == "Hopper-v5")
    if data_format == "hdf5" and message is not None:
        assert "give --env-modules harmless_stand_in if you trust that code" in message
        assert "--env-id" in message
        assert "--action-bounds" in message
        dataset = load_dataset(ID, env_modules=["harmless_stand_in"])
        assert dataset.action_high.tolist() == [1, 1, 1]
        assert stand_in() == "imported\ncalled\n"


def test_recorded_settings_shape_the_bounds_and_may_name_no_file(make_minari, make_episode):
    folder = make_minari(ID, [make_episode(4, observations=3, actions=1)], env_id="Pendulum-v1")
    spec = json.loads(json.loads((folder / "data" / "metadata.json").read_text())["env_spec"])
    edit_metadata(folder, **NO_SPACES, env_spec=json.dumps(spec | {"kwargs": {"g": 5.0, "render_mode": "human"}}))
    assert load_dataset(ID).action_high.tolist() == [2]  # drawn nowhere
    edit_metadata(folder, env_spec=json.dumps(spec | {"kwargs": {"nothing": 5.0}}))
    with pytest.raises(InputError, match=r"Pendulum-v1 refuses the settings .*nothing.*--action"):
        load_dataset(ID)
    edit_metadata(folder, env_spec=json.dumps(spec | {"kwargs": {"xml_file": "/etc/passwd"}}))
    with pytest.raises(InputError, match="data may name no files"):
        load_dataset(ID)
    assert load_dataset(ID, action_bounds=[(-3, 3)]).action_high.tolist() == [3]


def test_typed_bounds_go_over_recorded_ones(make_minari, episodes):
    make_minari(ID, episodes)
    for _ in range(2):
        for bounds, high in (([(-2, 2)], [2, 2]), (None, [1, 1]), ([(-1, 1), (-2, 3)], [1, 3])):
            assert load_dataset(ID, action_bounds=bounds).action_high.tolist() == high
    with pytest.raises(InputError, match=r"outside their bounds \[-0.1, 0.1\] of --action-bounds"):
        load_dataset(ID, action_bounds=[(-0.1, 0.1)])
    with pytest.raises(InputError, match=r"of --action-bounds have shapes .3. and .3., the actions 2 components"):
        load_dataset(ID, action_bounds=[(-1, 1)] * 3)


def test_a_folder_has_one_id_however_it_is_spelled(make_minari, episodes, tmp_path, monkeypatch):
    folder = make_minari("x-v0", episodes)
    monkeypatch.chdir(tmp_path)
    for text in ("x-v0", "./minari/x-v0/", "x-v0/", str(folder), folder):
        assert load_dataset(text).id == "x-v0"
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(folder, tmp_path / "elsewhere" / "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for text in ("mine", "./mine/", "../elsewhere//mine/", moved, "~/mine"):
        monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
        assert load_dataset(text).id == "mine"
    shutil.copytree(moved, tmp_path / "elsewhere" / "deep" / "set-v0")
    assert load_dataset("./deep/set-v0").id == "set-v0"
    monkeypatch.setattr("minari.download_dataset", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"deep/set-v0 left .*there is such a folder here, which \./deep/set-v0 means"):
        load_dataset("deep/set-v0")


def test_what_may_not_be_read_is_one_line(make_minari, episodes, monkeypatch):
    make_minari(ID, episodes)

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    for name in ("rlrat.datasets.metadata.load_json", "pathlib.Path.is_file", "pathlib.Path.rglob"):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(InputError, match=f"cannot read dataset {ID}: .*Permission denied"):
                load_dataset(ID)
    with pytest.raises(InputError, match=r"cannot read dataset a*: .*File name too long"):
        load_dataset("a" * 300)


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


def test_nested_dictionaries_are_read_as_minari_reads_them(make_minari, make_goals):
    make_minari(ID, make_goals(stands=False), infos=True)
    dataset = load_dataset(ID)
    expected = Dataset.from_episodes(make_goals(stands=False))
    assert (dataset.fingerprint, dataset.observation_parts) == (expected.fingerprint, expected.observation_parts)
    from minari import load_dataset as theirs

    assert Dataset.from_episodes(theirs(ID).iterate_episodes()).fingerprint == dataset.fingerprint


def test_what_is_kept_is_another_entry_of_the_cache(make_minari, make_goals):
    make_minari(ID, make_goals())
    widths = {drop: [] for drop in (None, False, True)}
    for drop in (None, False, True, None, False, True):
        widths[drop].append(load_dataset(ID, drop_achieved_goal=drop).observations.shape[1])
    assert widths == {None: [7, 7], False: [9, 9], True: [7, 7]}


@pytest.mark.parametrize("spoil", ["kind", "key", "flat", "empty"])
def test_mixed_episodes_of_a_file_are_one_line(make_minari, make_goals, spoil):
    folder = make_minari(ID, make_goals())
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        group = file["episode_1"]
        if spoil == "key":
            group["observations/more"] = np.zeros((4, 1))
        elif spoil == "empty":
            for name in ("actions", "rewards", "terminations", "truncations"):
                group[name].resize(0, axis=0)
            for name in ("observation", "achieved_goal", "desired_goal/place", "desired_goal/height"):
                group[f"observations/{name}"].resize(1, axis=0)
        else:
            flat = np.zeros((4, 4))
            del group["observations"]
            group["observations"] = flat
            if spoil == "flat":  # the first episode says what is looked for
                file["episode_9"] = file["episode_0"]
                del file["episode_0"]
                file["episode_0"] = file["episode_1"]
                del file["episode_1"]
                file["episode_1"] = file["episode_9"]
    said = {
        "kind": "episode 1 has as observations vectors of 4, episode 0 dictionaries",
        "key": "episode 1 has as observations dictionaries .*, more 1, .*, episode 0 dictionaries",
        "flat": "episode_1/observations is no array",
        "empty": "episode 1 is empty: at least one step is needed",
    }
    with pytest.raises(InputError, match=said[spoil]) as caught:
        load_dataset(ID)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["flat", "goals"])
def test_the_layout_before_0_5_is_read_by_id_and_by_path(make_minari, make_goals, episodes, kind, tmp_path):
    episodes = episodes if kind == "flat" else make_goals()
    folder = make_minari("old-set-v0", episodes)
    today = load_dataset("old-set-v0")
    shutil.rmtree(folder / ".rlrat-cache")
    in_the_old_layout(folder)
    for name in ("old-set-v0", str(folder), f"{folder}/"):
        found = load_dataset(name)
        assert (found.id, found.fingerprint, found.env_id) == ("old-set-v0", today.fingerprint, "Hopper-v5")
        assert (found.observation_parts, found.env_recorded) == (today.observation_parts, today.env_recorded)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert load_dataset(elsewhere).fingerprint == today.fingerprint


def test_data_without_any_metadata_is_one_line(make_minari, episodes, tmp_path):
    folder = make_minari(ID, episodes)
    (folder / "data" / "metadata.json").unlink()
    with pytest.raises(
        InputError, match=r"main_data.hdf5 has no metadata.json beside it, nor the attributes"
    ) as caught:
        load_dataset(folder)
    assert "\n" not in str(caught.value)
    in_the_old_layout(make_minari("own/other-v0", episodes))
    path = minari.minari_root() / "own/other-v0"
    with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
        file.attrs["total_episodes"] = "many"
    with pytest.raises(InputError, match=r"main_data.hdf5 is damaged .total_episodes is 'many', not a count"):
        load_dataset(path)


TASKS = ("bottom burner 2", "hinge cabinet 2", "kettle 7", "light switch 2", "microwave 1", "slide cabinet 1")
GOALS = [f"{goal}_goal/{task}" for goal in ("achieved", "desired") for task in (*TASKS, "top burner 2")]
KITCHEN = [*GOALS, "observation 59"]
REAL = {
    "PointMaze_UMaze-v3": ("desired_goal 2, observation 4", True),
    "AntMaze_UMaze-v5": ("achieved_goal 2, desired_goal 2, observation 105", False),
    "FetchPush-v4": ("desired_goal 3, observation 25", True),
    "FrankaKitchen-v1": (", ".join(KITCHEN), False),
    "AdroitHandPen-v1": ("", None),
    "AdroitHandDoor-v1": ("", None),
    "AdroitHandHammer-v1": ("", None),
    "AdroitHandRelocate-v1": ("", None),
}


@pytest.mark.parametrize(
    "env_id",
    [pytest.param(env_id, marks=[pytest.mark.kitchen] * env_id.startswith(("Fetch", "Franka"))) for env_id in REAL],
)
def test_sets_of_real_environments_hold_what_was_recorded(make_minari, env_id):
    pytest.importorskip("gymnasium_robotics")
    from rlrat.environments.registry import find_spec
    from rlrat.evaluation.evaluator import Evaluator, check_spaces, reset_seed

    parts, stands = REAL[env_id]
    env = gymnasium.make(find_spec(env_id), disable_env_checker=True, max_episode_steps=3)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    episodes = [play(env, 3, reset_seed(0, number)) for number in range(2)]
    folder = make_minari(ID, episodes, env_id=env_id, **spaces)
    env.close()
    dataset = load_dataset(ID)
    assert ", ".join(f"{name} {width}" for name, width in dataset.observation_parts) == parts
    names = [name for name, _ in dataset.observation_parts]
    if names:
        raw = raw_parts(folder, names)
    else:
        with h5py.File(folder / "data" / "main_data.hdf5") as file:
            raw = [file[f"episode_{number}/observations"][()].astype(np.float32) for number in range(2)]
    np.testing.assert_array_equal(dataset.observations, np.concatenate([one[:-1] for one in raw]))
    np.testing.assert_array_equal(dataset.next_observations, np.concatenate([one[1:] for one in raw]))
    if stands:
        assert load_dataset(ID, drop_achieved_goal=False).observation_parts[0][0] == "achieved_goal"
    elif stands is False:
        with pytest.raises(InputError, match=r"component \d of achieved_goal does not stand in observation"):
            load_dataset(ID, drop_achieved_goal=True)
    bounds = (dataset.action_low, dataset.action_high)
    seen = []

    def replay(observations):
        seen.append(observations[0].astype(np.float32))
        return np.stack([episode["actions"][len(seen) - 1] for episode in episodes])[None]

    settings = {"max_episode_steps": 3, "observation_parts": names or None}
    with Evaluator(env_id, 0, 2, num_threads=1, **settings) as evaluator:
        check_spaces(evaluator, raw[0].shape[1], *bounds, observation_parts=dataset.observation_parts)
        evaluator.run(replay)
    np.testing.assert_array_equal(np.stack(seen, axis=1), [one[:-1] for one in raw])
