from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import d4rl, names
from rlrat.datasets.d4rl_names import NAMES
from rlrat.datasets.units import Units
from rlrat.errors import InputError

PUBLISHED = "hopper_medium-v2.hdf5"  # a name of D4RL's, whose rules hold for it


def qlearning_rules(data, time_limit, restart=0):
    """The rules of d4rl's qlearning_dataset, step by step, as an oracle.

    `restart` is the value that the step counter has at the first step after a terminal state: 1 in d4rl.
    """
    rows, counter = [], 0
    for i in range(len(data["rewards"]) - 1):
        final = data["timeouts"][i] if "timeouts" in data else counter == time_limit - 1
        if final:
            counter = 0
            continue
        rows.append(i)
        counter = restart if data["terminals"][i] else counter + 1
    rows = np.array(rows)
    return {
        "observations": data["observations"][rows].astype(np.float32),
        "actions": data["actions"][rows].astype(np.float32),
        "rewards": data["rewards"][rows].astype(np.float32),
        "next_observations": data["observations"][rows + 1].astype(np.float32),
        "terminations": data["terminals"][rows].astype(bool),
    }


def limit(monkeypatch, steps):
    monkeypatch.setitem(NAMES, "hopper-medium-v2", replace(NAMES["hopper-medium-v2"], time_limit=steps))


def assert_equal(dataset, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(dataset, name), array, err_msg=name)


@pytest.mark.parametrize("ends", ["t.o.b.t.", "ototo", "tttt", "oooo", "...", "bo", ".o.t.b"])
def test_transitions_are_those_of_d4rl(write_hdf5, d4rl_arrays, ends):
    data = d4rl_arrays(ends)
    extra = {"next_observations": np.full_like(data["observations"], np.nan)}  # which d4rl does not look at
    dataset = load_dataset(write_hdf5(PUBLISHED, data | extra))
    assert_equal(dataset, qlearning_rules(data, time_limit=1000))


@pytest.mark.parametrize("ends", ["t.o.b.t.", "ototo", "tttt", "oooo", "...", "bo", ".o.t.b", "bbb", "b"])
def test_a_file_of_ones_own_keeps_every_terminal_step(write_hdf5, d4rl_arrays, ends):
    data = d4rl_arrays(ends)
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    rows = np.flatnonzero(data["terminals"] | ~data["timeouts"] & (np.arange(len(data["rewards"])) < 5 * len(ends) - 1))
    for name, source in (("observations", "observations"), ("rewards", "rewards"), ("terminations", "terminals")):
        np.testing.assert_array_equal(getattr(dataset, name), data[source][rows])
    going_on = ~dataset.terminations
    following = data["observations"][rows[going_on] + 1]
    np.testing.assert_array_equal(dataset.next_observations[going_on], following)
    assert np.isfinite(dataset.next_observations).all()
    assert dataset.rewards[dataset.terminations].tolist() == data["rewards"][data["terminals"]].tolist()


def with_next(data):
    """The arrays with next observations of their own, which at an episode's end no other row has."""
    following = np.roll(data["observations"], -1, axis=0)
    ends = data["terminals"] | data["timeouts"]
    ends[-1] = True
    following[ends] = 1000 + np.arange(ends.sum())[:, None]
    return data | {"next_observations": following}


@pytest.mark.parametrize("ends", ["t.o.b.t.", "ototo", "oooo", "bo", "..."])
def test_next_observations_of_the_file_leave_no_step_out(write_hdf5, d4rl_arrays, ends, capsys):
    data = with_next(d4rl_arrays(ends))
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    for name, source in (
        ("observations",) * 2,
        ("rewards",) * 2,
        ("terminations", "terminals"),
        ("next_observations",) * 2,
    ):
        np.testing.assert_array_equal(getattr(dataset, name), data[source])
    flags = data["terminals"] | data["timeouts"]
    lasts = np.append(dataset.episode_starts[1:], len(dataset)) - 1
    assert lasts.tolist() == sorted({*np.flatnonzero(flags).tolist(), len(flags) - 1})
    assert dataset.episode_complete.tolist() == flags[lasts].tolist()
    assert (dataset.episode_lengths == np.diff(np.append(dataset.episode_starts, len(dataset)))).all()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ends", ["t.o.b.t.", "oooo", ".o.t.b"])
def test_next_observations_that_were_only_shifted_lead_into_no_other_episode(write_hdf5, d4rl_arrays, ends):
    data = d4rl_arrays(ends)
    shifted = {"next_observations": np.append(data["observations"][1:], data["observations"][-1:] + 1, axis=0)}
    dataset, plain = (
        load_dataset(write_hdf5(f"{name}.hdf5", data | more)) for name, more in (("a", shifted), ("b", {}))
    )
    last = len(data["rewards"]) - 1  # has a next observation of its own
    rows = [row for row in range(last + 1) if data["terminals"][row] or not data["timeouts"][row] or row == last]
    for name in ("observations", "rewards"):
        np.testing.assert_array_equal(getattr(dataset, name), data[name][rows])
    np.testing.assert_array_equal(dataset.next_observations, shifted["next_observations"][rows])
    assert dataset.episode_returns.tolist() == plain.episode_returns.tolist()
    assert dataset.episode_lengths.tolist() == plain.episode_lengths.tolist()


def test_shuffled_steps_are_single_transitions(write_hdf5, d4rl_arrays, capsys):
    data = with_next(d4rl_arrays("t.ob" * 20))
    order = np.random.default_rng(0).permutation(len(data["rewards"]))
    path = write_hdf5("small.hdf5", {name: array[order] for name, array in data.items()})
    for _ in range(2):  # converted, and from the cache
        dataset = load_dataset(path)
        np.testing.assert_array_equal(dataset.next_observations, data["next_observations"][order])
        assert not dataset.episode_complete.any()
        said = capsys.readouterr().err
        assert said.count("warning:") == said.count("\n") == 1
        assert "steps is not the following step's: it holds single transitions, no episodes" in said
    with pytest.raises(InputError, match=r"small has no complete episodes, .*: give --best-episodes 1"):
        dataset.best_episodes(0.5)
    assert dataset.best_episodes(1.0) is dataset
    with pytest.raises(InputError, match=r"of small, which has no complete episodes, .*: give --reward-scaling none"):
        Units.of(dataset, True, 1e-3, "iql")
    assert Units.of(dataset, True, 1e-3, "none").reward_scale == 1.0


def test_a_few_steps_that_lead_elsewhere_end_their_pieces(write_hdf5, d4rl_arrays, capsys):
    data = with_next(d4rl_arrays("toto"))
    data["next_observations"][2] += 1.0
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    assert dataset.episode_starts.tolist() == [0, 3, 5, 10, 15]
    assert dataset.episode_complete.tolist() == [False, False, True, True, True]
    assert np.flatnonzero(dataset.truncations).tolist() == [2, 9, 19]
    assert "1 of 20 steps is not the following step's: the pieces count as no complete" in capsys.readouterr().err
    data["next_observations"][2] = data["observations"][3] * (1 + 1e-6)  # the same, written twice
    assert load_dataset(write_hdf5("again.hdf5", data)).episode_complete.all()


def test_next_observations_say_where_an_episode_without_timeouts_ends(write_hdf5, d4rl_arrays):
    data = with_next(d4rl_arrays("o" * 6))
    data["timeouts"][4] = False
    data["next_observations"][4] = data["observations"][5]  # 10 steps, then four times 5
    del data["timeouts"]
    path = write_hdf5("small.hdf5", data)
    dataset = load_dataset(path)
    assert dataset.episode_lengths.tolist() == [10, 5, 5, 5, 5]
    assert not dataset.episode_complete.any()
    gymnasium.register("Five-v0", entry_point="none:None", max_episode_steps=5)
    try:
        timed = load_dataset(path, env_id="Five-v0", action_bounds=[(-1, 1)])
    finally:
        del gymnasium.registry["Five-v0"]
    assert timed.episode_complete.tolist() == [False, False, True, True, True]
    assert timed.fingerprint == dataset.fingerprint


@pytest.mark.parametrize("ends", ["t", "o", "....", "..tt...t", "...t...."])
def test_without_timeouts_episodes_end_at_the_time_limit(monkeypatch, write_hdf5, d4rl_arrays, ends):
    limit(monkeypatch, 7)
    data = d4rl_arrays(ends)
    del data["timeouts"]
    dataset = load_dataset(write_hdf5(PUBLISHED, data))
    assert_equal(dataset, qlearning_rules(data, time_limit=7))
    assert dataset.env_id == "Hopper-v4"


def test_without_timeouts_a_terminal_state_does_not_shorten_the_next_episode(monkeypatch, write_hdf5, d4rl_arrays):
    limit(monkeypatch, 5)
    data = d4rl_arrays("t.t")  # a terminal step at 4, the time limit at 9, a terminal step at 14
    data["terminals"][4], data["terminals"][2] = False, True  # and so: terminal at 2, limits at 7 and 12
    del data["timeouts"]
    dataset = load_dataset(write_hdf5(PUBLISHED, data))
    assert dataset.episode_lengths.tolist() == [3, 5, 5, 2]
    assert 7 not in np.flatnonzero(np.isin(data["rewards"], dataset.rewards))
    # d4rl's counter starts at 1 after a terminal state: it leaves out step 6 and joins step 7 to another episode
    assert len(qlearning_rules(data, time_limit=5, restart=1)["rewards"]) == len(dataset)
    assert 7 in np.flatnonzero(np.isin(data["rewards"], qlearning_rules(data, time_limit=5, restart=1)["rewards"]))


def test_a_file_without_timeouts_is_split_at_the_limit_of_its_environment(write_hdf5, d4rl_arrays, capsys):
    data = d4rl_arrays("." * 401)
    del data["timeouts"]
    path = write_hdf5("mine.hdf5", data)
    cases = (
        (None, [1000, 1000, 5], "split after 1000 steps, a guess (give --env-id for the right limit)"),
        ("Pendulum-v1", [200] * 10 + [5], "split after 200 steps, the time limit of Pendulum-v1"),
        ("Endless-v0", [2005], "only terminal states end its episodes, as Endless-v0 has no time limit"),
    )
    gymnasium.register("Endless-v0", entry_point="none:None")
    try:
        for env_id, lengths, note in cases * 2:  # each has a cache of its own
            dataset = load_dataset(path, env_id=env_id, action_bounds=[(-1, 1)])
            assert dataset.episode_lengths.tolist() == lengths
            assert (dataset.id, dataset.env_id, dataset.reference) == ("mine", None, None)
            said = capsys.readouterr().err
            assert said.startswith(f"warning: {path} has no timeouts: ")
            assert note in said
            assert said.count("\n") == 1
    finally:
        del gymnasium.registry["Endless-v0"]
    load_dataset(write_hdf5(PUBLISHED, data))
    assert "split after 1000 steps, the time limit of Hopper-v4" in capsys.readouterr().err


def test_bounds_of_a_file_that_d4rl_has_not(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("toto", actions=1)
    data["actions"] *= 2
    path = write_hdf5("pendulum.hdf5", data)
    with pytest.raises(
        InputError, match=r"outside their bounds \[-1, 1\] that are assumed.*--env-id .*--action-bounds"
    ):
        load_dataset(path)
    bounds = lambda dataset: (dataset.action_low.tolist(), dataset.action_high.tolist())  # noqa: E731
    assert bounds(load_dataset(path, env_id="Pendulum-v1")) == ([-2], [2])
    assert bounds(load_dataset(path, action_bounds=[(-3, 2.5)])) == ([-3], [2.5])
    assert bounds(load_dataset(path, action_bounds=(-3, 2.5))) == ([-3], [2.5])
    assert bounds(load_dataset(path, env_id="Pendulum-v1", action_bounds=[(-4, 4)])) == ([-4], [4])
    with pytest.raises(InputError, match=r"shapes \[3\] and \[3\], the actions 1 components"):
        load_dataset(path, env_id="Hopper-v5")
    with pytest.raises(InputError, match=r"of --action-bounds have shapes \[2\] and \[2\], the actions 1"):
        load_dataset(path, action_bounds=[(-3, 3), (-4, 4)])
    with pytest.raises(InputError, match=r"outside their bounds \[-0.5, 0.5\] of --action-bounds"):
        load_dataset(path, action_bounds=[(-0.5, 0.5)])
    assert bounds(load_dataset(path, env_id="Pendulum-v1")) == ([-2], [2])
    with pytest.raises(InputError, match="unknown environment 'Nothing-v0'"):
        load_dataset(path, env_id="Nothing-v0")
    known = load_dataset(write_hdf5(PUBLISHED, d4rl_arrays("to")), env_id="Pendulum-v1")
    assert bounds(known) == ([-1] * 3, [1] * 3)


def test_returns_are_of_whole_episodes(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("t.ob.")
    data["rewards"][:] = np.arange(25)
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    assert dataset.episode_lengths.tolist() == [5, 10, 5, 5]
    assert dataset.episode_returns.tolist() == [sum(range(a, b)) for a, b in [(0, 5), (5, 15), (15, 20), (20, 25)]]
    # kept: 5, then 9 (the timeout's step is gone), 5 (that of both flags is not), then 4 (the file's last step is gone)
    assert dataset.episode_starts.tolist() == [0, 5, 14, 19]
    assert len(dataset) == 23
    assert np.flatnonzero(dataset.truncations).tolist() == [13, 22]
    assert np.flatnonzero(dataset.terminations).tolist() == [4, 18]


def test_an_episode_that_the_file_breaks_off_is_no_best_or_worst(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("to.")
    data["rewards"][:] = np.repeat([1.0, 2.0, -9.0], 5)
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    assert dataset.episode_complete.tolist() == [True, True, False]
    assert dataset.episode_returns.tolist() == [5, 10, -45]
    assert (dataset.worst_return, dataset.best_return) == (5, 10)


def test_where_no_episode_is_complete_all_count(write_hdf5, d4rl_arrays):
    dataset = load_dataset(write_hdf5("small.hdf5", d4rl_arrays("..")))
    assert dataset.worst_return == dataset.best_return == dataset.episode_returns[0]


def test_an_episode_of_one_truncated_step_keeps_its_return(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("tot")
    data["timeouts"][5] = True
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    assert dataset.episode_lengths.tolist() == [5, 1, 4, 5]
    assert dataset.episode_starts.tolist() == [0, 5, 5, 8]
    assert np.flatnonzero(dataset.truncations).tolist() == [7]
    assert np.flatnonzero(dataset.terminations).tolist() == [4, 12]


def test_returns_to_go_count_the_step_that_the_time_limit_cost(write_hdf5, d4rl_arrays):
    arrays = d4rl_arrays("tot", steps=4)
    arrays["rewards"] = np.arange(12, dtype=np.float32)
    dataset = d4rl.load_file(write_hdf5("mine.hdf5", arrays))
    assert dataset.returns_to_go().tolist() == [6, 6, 5, 3, 22, 18, 13, 38, 30, 21, 11]
    assert dataset.timesteps().tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]


def test_best_episodes_keep_the_return_of_a_step_that_the_time_limit_cost(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("toot.")
    data["rewards"][:] = np.repeat([1.0, 0.0, 0.0, 2.0, 99.0], 5)
    data["rewards"][9] = 7.0  # the second episode's last step, which is no transition
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    best = dataset.best_episodes(0.5)  # of the four complete ones
    assert best.episode_returns.tolist() == [7, 10]
    assert best.episode_lengths.tolist() == [5, 5]
    assert best.episode_starts.tolist() == [0, 4]
    assert best.truncations.tolist() == [*[False] * 3, True, *[False] * 5]
    assert best.terminations.tolist() == [*[False] * 8, True]
    np.testing.assert_array_equal(best.observations, data["observations"][[5, 6, 7, 8, 15, 16, 17, 18, 19]])
    np.testing.assert_array_equal(best.next_observations[:4], data["observations"][6:10])


def test_best_episodes_without_a_transition(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("tot")
    data["timeouts"][5] = True
    data["rewards"][:] = np.arange(15) == 5
    dataset = load_dataset(write_hdf5("small.hdf5", data))
    with pytest.raises(InputError, match="small: the best 1 of 4 episodes have no transition"):
        dataset.best_episodes(0.1)
    assert dataset.best_episodes(0.5).episode_starts.tolist() == [0, 5]


def test_columns_and_numbers_as_flags(write_hdf5, d4rl_arrays):
    data = d4rl_arrays("tot")
    columns = {name: array[:, None] if array.ndim == 1 else array for name, array in data.items()}
    columns["terminals"] = columns["terminals"].astype(np.float32)
    columns["infos/qpos"] = np.zeros((15, 6))
    dataset = load_dataset(write_hdf5(PUBLISHED, columns))
    assert_equal(dataset, qlearning_rules(data, time_limit=1000))


@pytest.mark.parametrize(
    ("name", "id", "env_id", "env_kwargs", "reference"),
    [
        ("hopper_medium-v2.hdf5", "hopper-medium-v2", "Hopper-v4", {}, "d4rl"),
        ("walker2d-medium-replay-v2.h5", "walker2d-medium-replay-v2", "Walker2d-v4", {}, "d4rl"),
        ("ant_full_replay-v2.hdf5", "ant-full-replay-v2", "Ant-v4", {"use_contact_forces": True}, "d4rl"),
        ("halfcheetah_expert-v1.hdf5", "halfcheetah-expert-v1", "HalfCheetah-v4", {}, "d4rl"),
        ("hopper-medium.hdf5", "hopper-medium", "Hopper-v4", {}, None),
        ("my_hopper_medium-v2.hdf5", "my_hopper_medium-v2", None, {}, None),
    ],
)
def test_the_file_name_decides_about_environment_and_reference(
    write_hdf5, d4rl_arrays, name, id, env_id, env_kwargs, reference
):
    observations, actions = NAMES[id].widths if id in NAMES else (11, 3)
    dataset = load_dataset(write_hdf5(name, d4rl_arrays("to", observations=observations, actions=actions)))
    assert (dataset.id, dataset.env_id, dataset.env_kwargs, dataset.reference) == (id, env_id, env_kwargs, reference)
    assert dataset.action_low.tolist() == [-1] * actions
    assert dataset.action_high.tolist() == [1] * actions


def test_a_name_is_looked_for_in_d4rls_folder_first(monkeypatch, write_hdf5, d4rl_arrays):
    monkeypatch.setattr(d4rl, "download", lambda *_, **__: pytest.fail("nothing to download"))
    path = write_hdf5("d4rl/hopper_medium_replay-v2.hdf5", d4rl_arrays("to"))
    assert load_dataset("hopper-medium-replay-v2").fingerprint == load_dataset(path).fingerprint


def test_the_default_folder_is_d4rls(monkeypatch):
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(names.d4rl_folder()) == "/home/someone/.d4rl/datasets"


def drop(*names):
    return lambda data: [data.pop(name) for name in names]


def put(name, value):
    return lambda data: data.update({name: value})


def poke(name, index, value):
    def change(data):
        data[name] = data[name].astype(np.float64)
        data[name][index] = value

    return change


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (drop("rewards", "terminals"), "lacks rewards, terminals: a D4RL file has observations"),
        (put("rewards", np.zeros(14)), "15 observations, 15 actions, 14 rewards"),
        (put("timeouts", np.zeros(16, bool)), "16 timeouts: all must be equally many"),
        (poke("observations", (7, 1), np.nan), r"observations hold nan at episode 1, step 2 \(component 1\)"),
        (poke("observations", (14, 0), np.nan), "episode 2, step 4"),
        (poke("rewards", 5, np.inf), "rewards hold inf at episode 1, step 0"),
        (poke("actions", (3, 1), 1.5), r"actions hold 1.5 at episode 0, step 3 .*outside their bounds \[-1, 1\]"),
        (put("actions", np.zeros(15, np.int64)), "continuous actions only"),
        (put("observations", np.zeros((15, 8, 8))), r"observations have shape \[15, 8, 8\]"),
        (put("terminals", np.full(15, 2)), "terminals hold 2"),
        (lambda data: data.update(timeouts=np.ones(15, bool), terminals=np.zeros(15, bool)), "no transition"),
        (lambda data: data.update({name: array[:0] for name, array in data.items()}), "is empty"),
        (lambda data: data.update({name: array[:1] for name, array in data.items()}), "no transition"),
        (put("next_observations", np.zeros((15, 2))), r"observations \[15, 11\] and next_observations \[15, 2\]"),
        (put("next_observations", np.zeros((14, 11))), "14 next_observations: all must be"),
        (put("next_observations", np.full((15, 11), np.nan)), r"next_observations hold nan at episode 0, step 0"),
    ],
)
def test_mistakes_are_named_in_one_line(write_hdf5, d4rl_arrays, mistake, message):
    data = d4rl_arrays("tot")
    mistake(data)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(write_hdf5("small.hdf5", data))
    assert "small.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rounding_beyond_the_bounds_is_clipped(write_hdf5, d4rl_arrays, capsys):
    data = d4rl_arrays("tot")
    data["actions"][3, 1] = 1.0004
    path = write_hdf5("small.hdf5", data)
    for _ in range(2):  # converted, and from the cache
        dataset = load_dataset(path)
        assert dataset.actions[3, 1] == 1.0
        assert capsys.readouterr().err.count("clipped 1 actions") == 1


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>" + data, lambda data: b""]
)
def test_a_file_that_is_truncated_or_not_hdf5(write_hdf5, d4rl_arrays, damage):
    path = write_hdf5("small.hdf5", d4rl_arrays("tot"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        InputError, match=r"small.hdf5 is truncated or not an HDF5 file .*: get it again from its source"
    ):
        load_dataset(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nothing\.hdf5"):
        load_dataset(tmp_path / "nothing.hdf5")


def test_a_file_of_another_form(tmp_path):
    path = tmp_path / "log.pkl"
    path.write_bytes(b"no log")
    with pytest.raises(InputError, match=r"log\.pkl is no HDF5 file, and its name ends in none of \.hdf5, \.h5, \.npz"):
        load_dataset(path)


def test_a_file_of_minaris_is_one_line(make_minari, episodes):
    folder = make_minari("own/set-v0", episodes)
    with pytest.raises(InputError, match=r"main_data.hdf5 is a part of a dataset of Minari's: give its folder"):
        load_dataset(folder / "data" / "main_data.hdf5")
