"""OGBench's files become what OGBench makes of them, in episodes that end where the task is solved."""

import importlib.metadata
import sys
import threading

import numpy as np
import pytest

import rlrat
from rlrat import load_dataset
from rlrat.datasets import cache, ogbench
from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluator
from tests.datasets.ogbench_sets import LENGTHS, write
from tests.datasets.test_download import Server

MAZE, CUBES = "pointmaze-medium-navigate-singletask-task2-v0", "cube-double-play-singletask-task2-v0"
SLOW = (
    "antmaze-large-explore-singletask-v0", "humanoidmaze-medium-stitch-singletask-task3-v0",
    "antsoccer-arena-navigate-singletask-v0", "cube-single-noisy-singletask-task1-v0", "cube-triple-play-singletask-v0",
    "scene-play-singletask-v0", "puzzle-3x3-play-singletask-task5-v0", "puzzle-4x4-noisy-singletask-v0",
)  # fmt: skip
# Minus the sub-goals: cubes, or those that are not solved at the start.
LEAST = {CUBES: -2, SLOW[4]: -3, SLOW[5]: -2, SLOW[6]: -3, SLOW[7]: -8}
pytest.importorskip("ogbench", exc_type=ImportError)


@pytest.fixture
def maze():
    return write(MAZE)


def rewritten(path, **changes):
    """Write the file again with other arrays; without those that are None."""
    arrays = {**np.load(path), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("name", [MAZE, *(pytest.param(name, marks=pytest.mark.slow) for name in (CUBES, *SLOW))])
def test_it_is_what_ogbench_makes_of_it(name):
    import ogbench as theirs

    path = write(name)
    np.random.seed(3)
    before = np.random.get_state()
    dataset = load_dataset(name)
    np.testing.assert_equal(np.random.get_state(), before)
    env, train, _ = theirs.make_env_and_datasets(name, dataset_path=str(path))
    for field in ("observations", "actions", "next_observations", "rewards"):
        np.testing.assert_array_equal(getattr(dataset, field), train[field], strict=True)
    np.testing.assert_array_equal(dataset.terminations, train["masks"] == 0)
    assert (dataset.env_id, dataset.env_kwargs) == (env.spec.id, {})
    assert env.observation_space.shape == dataset.observations.shape[1:]
    np.testing.assert_array_equal(
        [dataset.action_low, dataset.action_high], [env.action_space.low, env.action_space.high]
    )
    env.close()
    assert dataset.rewards.max() == 0
    assert dataset.rewards.min() == LEAST.get(name, -1)
    assert dataset.terminations[dataset.rewards == 0].all()
    assert 0 < np.count_nonzero(dataset.terminations) < len(dataset) == sum(LENGTHS) - len(LENGTHS)


def test_an_episode_ends_where_the_task_is_solved(maze):
    dataset = load_dataset(MAZE)  # solved in row 4, from row 6 to row 8, in row 12, and from row 14 on
    assert dataset.episode_lengths.tolist() == [5, 2, 1, 1, 2, 1, *[1] * 19]
    assert dataset.episode_complete.tolist() == [True, *[False] * 4, True, True, *[False] * 18]
    assert dataset.episode_returns.tolist() == [-4, -1, 0, 0, -2, 0, *[0] * 19]
    assert np.flatnonzero(dataset.terminations).tolist() == [4, 6, 7, 8, *range(11, 31)]
    assert np.flatnonzero(dataset.truncations).tolist() == [10]
    assert (dataset.best_return, dataset.worst_return, dataset.longest_episode) == (0, -4, 5)
    np.testing.assert_array_equal(dataset.observations[5], dataset.next_observations[4])


@pytest.mark.slow
def test_an_episode_ends_where_all_sub_goals_are_solved():
    write(CUBES)  # solved from row 6 to row 8, in row 12 and in the last one; there is one cube more from row 14 on
    dataset = load_dataset(CUBES)
    assert dataset.episode_lengths.tolist() == [7, 1, 1, 2, 1, 19]
    assert dataset.episode_complete.tolist() == [True, False, False, False, True, True]
    # One of two cubes is there in row 4, and from row 14 on.
    assert dataset.episode_returns.tolist() == [-11, 0, 0, -4, 0, -19]
    assert np.flatnonzero(dataset.terminations).tolist() == [6, 7, 8, 11]
    assert np.flatnonzero(dataset.truncations).tolist() == [10, 30]


def test_the_tasks_of_a_file_have_caches_of_their_own(maze, monkeypatch):
    first, other = load_dataset(MAZE), load_dataset(MAZE.replace("task2", "task1"))
    assert (first.terminations.any(), other.terminations.any()) == (True, False)
    assert len(list(cache.beside_file(maze).glob("*.json"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(ogbench, "_convert", lambda *_: pytest.fail("it is in the cache"))
        assert load_dataset(MAZE).fingerprint == first.fingerprint
        assert load_dataset(MAZE.replace("task2", "task1")).fingerprint == other.fingerprint
    converted = []
    monkeypatch.setattr(ogbench, "_convert", lambda *_: converted.append(1) or first)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")  # it may have another goal
    load_dataset(MAZE)
    assert converted == [1]


def test_given_bounds_replace_the_environments(maze):
    assert load_dataset(MAZE, action_bounds=[(-2, 2)]).action_high.tolist() == [2, 2]
    assert load_dataset(MAZE).action_high.tolist() == [1, 1]
    rewritten(maze, actions=np.full((sum(LENGTHS), 2), 1.5))
    with pytest.raises(InputError, match=r"outside their bounds \[-1, 1\] of pointmaze-medium-singletask-task2-v0"):
        load_dataset(MAZE)


def test_a_compact_dataset_is_read_by_its_valids(maze):
    fingerprint = load_dataset(MAZE).fingerprint
    ends = np.load(maze)["terminals"]
    doubled = ends | np.append(ends[1:], True)  # as OGBench's load_dataset(compact_dataset=True) makes it
    rewritten(maze, terminals=doubled.astype(np.float32), valids=(~ends).astype(np.float32))
    assert load_dataset(MAZE).fingerprint == fingerprint
    rewritten(maze, valids=None)
    with pytest.raises(InputError, match=r"terminals end a trajectory of a single row at row 11: .* needs its valids"):
        load_dataset(MAZE)


COUNT = sum(LENGTHS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": None, "qpos": None}, "lacks terminals, qpos: OGBench's files have observations, actions, "),
        ({"next_observations": np.zeros((COUNT, 2))}, "has next_observations: it is no file of OGBench's"),
        ({"terminals": np.zeros(COUNT)}, "terminals do not end the last trajectory: a part of the file is missing"),
        ({"terminals": np.ones(COUNT)}, "terminals end a trajectory of a single row at row 0"),
        ({"terminals": np.full(COUNT, 2)}, "terminals hold 2: true and false"),
        ({"actions": np.zeros((COUNT - 1, 2))}, "33 actions.*: all must be equally many"),
        ({"actions": np.zeros((COUNT, 2), int)}, "actions are int64: continuous actions only"),
        ({"observations": np.full((COUNT, 2), np.nan)}, "observations hold nan at episode 0, step 0"),
        ({"qpos": np.full((COUNT, 2), np.inf)}, "qpos hold inf at episode 0"),
        ({"qpos": np.zeros((COUNT, 15))}, "has qpos of 15 components, pointmaze-medium-singletask-task2-v0 has 2: "),
        ({"observations": np.zeros((COUNT, 29))}, "has observations of 29 components, pointmaze-"),
        ({"observations": np.zeros((COUNT, 64, 64, 3), np.uint8)}, "flat vectors only; d3rlpy learns from images"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_ogbenchs_is_one_line(maze, changes, message):
    rewritten(maze, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(MAZE)
    assert str(maze) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_rows(maze):
    rewritten(maze, **{name: array[:0] for name, array in np.load(maze).items()})
    with pytest.raises(InputError, match="all must be equally many, and at least two"):
        load_dataset(MAZE)


@pytest.mark.slow
def test_buttons_are_needed():
    path = write("puzzle-3x3-play-singletask-v0")
    rewritten(path, button_states=None)
    with pytest.raises(InputError, match=r"has no button_states, puzzle-3x3-singletask-v0 has 9"):
        load_dataset("puzzle-3x3-play-singletask-v0")


def test_a_file_that_needs_more_memory_than_there_is(maze, monkeypatch):
    monkeypatch.setattr("rlrat.datasets.npz._SMALL", 0)
    needed = 2.25 * sum(array.nbytes + 128 for name, array in np.load(maze).items() if name != "qvel")
    for free, enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("rlrat.datasets.npz.available_memory", lambda free=free: free)
        if enough:
            load_dataset(MAZE, action_bounds=[(-2, 2)])
        else:
            with pytest.raises(InputError, match=r"needs .* GB of memory"):
                load_dataset(MAZE)


def test_its_path_is_refused_with_its_names(maze):
    with pytest.raises(
        InputError, match=rf"give pointmaze-medium-navigate-singletask-v0, .*OGBENCH_DATASET_DIR={maze.parent}$"
    ):
        load_dataset(maze)


def test_without_the_package(monkeypatch):
    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(ogbench, "download", lambda *_, **__: pytest.fail("nothing is downloaded in vain"))
    with pytest.raises(InputError, match=r"pip install 'rlrat\[ogbench\]'$"):
        load_dataset(MAZE)


def test_it_trains_and_is_evaluated_in_its_task(maze, tmp_path):
    settings = {"total_updates": 20, "batch_size": 8, "hidden_dims": (8,), "num_threads": 1, "eval_every": 20}
    limit = {"eval_episodes": 2, "max_episode_steps": 30}
    result = rlrat.train("iql", MAZE, run_dir=tmp_path / "runs", **settings, **limit)
    folder = result.path
    assert folder.parts[-4] == MAZE
    rows = (folder / "evaluations.csv").read_text().splitlines()
    assert [row.split(",")[5] for row in rows[1:]] == ["-30.0"] * 2  # the goal is farther away


def test_what_solves_the_task_ends_it():
    """The reward of the last step, which begins in the goal, is 0, as in the data."""
    with Evaluator("pointmaze-medium-singletask-task5-v0", 0, 3, max_episode_steps=300) as evaluator:
        maze = evaluator.envs[0].unwrapped

        def to_the_goal(observations):
            places = observations.reshape(-1, 2)
            steps = [maze.get_oracle_subgoal(place, maze.cur_goal_xy)[0] - place for place in places]
            return np.clip(steps, -1, 1).reshape(observations.shape)

        found = evaluator.run(to_the_goal)
    assert found.terminated.all()
    assert (found.returns == 1 - found.lengths).all()
    assert (found.lengths > 30).all()


def test_a_package_that_cannot_be_imported(maze, monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench.relabel_utils", None)
    with pytest.raises(InputError, match="OGBench cannot be imported: ModuleNotFoundError"):
        load_dataset(MAZE)


@pytest.fixture
def server(maze, monkeypatch):
    """A server that has the file, which is not here."""
    with Server(maze.read_bytes()) as server:
        maze.unlink()
        server.file = maze.name
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(ogbench, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("rlrat.datasets.download.PAUSE_SECONDS", 0.0)
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_downloaded_once_for_all_its_tasks(server, maze):
    server.cuts = (1000,)
    load_dataset(MAZE)
    load_dataset(MAZE.replace("-task2", ""))
    assert maze.read_bytes() == server.body
    assert server.requests == [None, "bytes=1000-"]


@pytest.mark.parametrize("kept", [0, 1000], ids=["a page", "a part"])
def test_what_is_no_such_file_is_not_kept(server, maze, kept):
    server.body = server.body[:kept] or b"<html>a login page</html>"
    with pytest.raises(InputError, match=r"sent something else than the dataset: .* is damaged or no \.npz file"):
        load_dataset(MAZE)
    assert not [path for path in maze.parent.iterdir() if path.name.startswith(maze.stem) and "val" not in path.name]


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*: name a writable folder in OGBENCH_DATASET_DIR"):
        load_dataset(MAZE)


def test_the_published_address_is_encrypted():
    assert ogbench.BASE_URL == "https://rail.eecs.berkeley.edu/datasets/ogbench"
