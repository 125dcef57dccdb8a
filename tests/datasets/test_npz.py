"""Files of NumPy's arrays: every form of them, and each mistake in one line."""

import io
import zipfile

import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import Dataset, npz
from rlrat.errors import InputError


def flat(d4rl_arrays, ends="t.t.t."):
    """Three whole episodes of ten steps, and a last one that is terminal, too."""
    arrays = d4rl_arrays(ends)
    return {**arrays, "terminals": np.arange(30) % 10 == 9, "timeouts": np.zeros(30, bool)}


def loaded(path, capsys, **settings):
    dataset = load_dataset(path, **settings)
    return dataset, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("names", [("terminals", "timeouts"), ("terminations", "truncations")])
def test_flat_steps_are_those_of_an_hdf5_file(d4rl_arrays, write_hdf5, tmp_path, names, capsys):
    arrays = d4rl_arrays("t.o.b.t.")
    wanted = load_dataset(write_hdf5("mine.hdf5", arrays))
    theirs = {"terminals": names[0], "timeouts": names[1]}
    np.savez_compressed(tmp_path / "mine.npz", **{theirs.get(name, name): value for name, value in arrays.items()})
    dataset, said = loaded(tmp_path / "mine.npz", capsys)
    assert (dataset.fingerprint, dataset.id, dataset.env_id) == (wanted.fingerprint, "mine", None)
    np.testing.assert_array_equal(dataset.action_low, arrays["actions"].min(axis=0))
    np.testing.assert_array_equal(dataset.action_high, arrays["actions"].max(axis=0))
    assert len(said) == 1
    assert said[0].startswith(f"warning: {tmp_path}/mine.npz records no action bounds: the least and greatest")
    assert "give --action-bounds LOW HIGH" in said[0]
    assert loaded(tmp_path / "mine.npz", capsys, action_bounds=[(-1, 1)])[1] == []


def test_bounds_and_time_limit_of_an_environment(d4rl_arrays, tmp_path, capsys):
    arrays = d4rl_arrays("." * 81, actions=1)
    del arrays["timeouts"]
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset, said = loaded(tmp_path / "mine.npz", capsys, env_id="Pendulum-v1")
    assert (dataset.action_low, dataset.action_high, dataset.env_id) == (-2, 2, None)
    assert dataset.episode_lengths.tolist() == [200, 200, 5]
    assert said == [
        f"warning: {tmp_path}/mine.npz has no timeouts: its episodes are split after 200 steps, "
        "the time limit of Pendulum-v1"
    ]


@pytest.mark.parametrize("flags", [(), ("terminals",), ("terminals", "timeouts")])
def test_a_log_without_any_end_is_one_episode(d4rl_arrays, tmp_path, flags, capsys):
    arrays = d4rl_arrays("....")
    arrays = {name: value for name, value in arrays.items() if name in flags or not name.startswith("t")}
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset, said = loaded(tmp_path / "mine.npz", capsys, action_bounds=[(-1, 1)])
    assert (len(dataset), dataset.episode_lengths.tolist(), dataset.terminations.any()) == (19, [20], False)
    what = "no step before the last one ends an episode: all 20 steps are one"
    assert said == [f"warning: {tmp_path}/mine.npz: {what}"]


def test_many_episodes_are_those_of_from_episodes(episodes, tmp_path, capsys):
    for episode in episodes:
        episode["log_probs"] = np.arange(len(episode["rewards"]))
    arrays = {f"episode_{i}/{name}": value for i, episode in enumerate(episodes) for name, value in episode.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset, said = loaded(tmp_path / "mine.npz", capsys, action_bounds=[(-1, 1)])
    assert dataset.fingerprint == Dataset.from_episodes(episodes).fingerprint
    assert dataset.log_probs.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert said == []
    short = {name: value for name, value in arrays.items() if not name.endswith(("truncations", "log_probs"))}
    np.savez(tmp_path / "d4rls.npz", **{name.replace("terminations", "terminals"): a for name, a in short.items()})
    again = load_dataset(tmp_path / "d4rls.npz", action_bounds=[(-1, 1)])
    np.testing.assert_array_equal(again.terminations, dataset.terminations)
    np.testing.assert_array_equal(again.truncations, dataset.truncations)


def test_ten_episodes_are_in_the_order_of_their_numbers(make_episode, tmp_path):
    episodes = [make_episode(i + 1, seed=i) for i in range(11)]
    arrays = {f"episode_{i}/{name}": value for i, episode in enumerate(episodes) for name, value in episode.items()}
    np.savez(tmp_path / "mine.npz", **dict(sorted(arrays.items())))
    assert load_dataset(tmp_path / "mine.npz").episode_lengths.tolist() == list(range(1, 12))


def test_one_episode(make_episode, tmp_path):
    np.savez(tmp_path / "mine.npz", **make_episode(5))
    dataset = load_dataset(tmp_path / "mine.npz", action_bounds=[(-1, 1)])
    assert dataset.fingerprint == Dataset.from_episodes([make_episode(5)]).fingerprint
    with pytest.raises(InputError, match="mine has one episode: holding some out needs at least two"):
        dataset.split(0.5, 0)


def test_a_folder_of_episodes(episodes, tmp_path):
    for index, episode in enumerate(episodes):
        (tmp_path / "logs").mkdir(exist_ok=True)
        np.savez(tmp_path / "logs" / f"{index}.npz", **episode)
    dataset = load_dataset(tmp_path / "logs", action_bounds=[(-1, 1)])
    assert (dataset.id, dataset.fingerprint) == ("logs", Dataset.from_episodes(episodes).fingerprint)
    np.savez(tmp_path / "logs" / "3.npz", **episodes[0])  # a new file is noticed
    assert len(load_dataset(tmp_path / "logs", action_bounds=[(-1, 1)]).episode_starts) == 4


def test_a_folder_of_flat_pieces_ends_an_episode_with_each(d4rl_arrays, tmp_path):
    pieces = [d4rl_arrays(ends, seed=seed) for seed, ends in enumerate(("t.", ".o", "..t"))]
    (tmp_path / "logs").mkdir()
    for index, piece in enumerate(pieces):
        np.savez(tmp_path / "logs" / f"{index}.npz", **piece)
    dataset = load_dataset(tmp_path / "logs", action_bounds=[(-1, 1)])
    assert dataset.episode_lengths.tolist() == [5, 5, 10, 15]
    assert dataset.episode_complete.all()
    assert np.diff([*dataset.episode_starts, len(dataset)]).tolist() == [5, 4, 9, 15]  # what follows a cut is not known
    last = np.flatnonzero(dataset.truncations)
    assert last.tolist() == [8, 17]
    np.testing.assert_array_equal(dataset.next_observations[17], pieces[1]["observations"][9])


def replaced(**arrays):
    return lambda found: {name: value for name, value in (found | arrays).items() if value is not None}


def ragged():
    rows = np.empty(30, object)
    rows[:] = [np.zeros(i % 3 + 1) for i in range(30)]
    return rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced(rewards=None), "lacks rewards: a log has observations, actions, rewards"),
        (replaced(rewards=None, r=np.zeros(30)), "lacks rewards: a log has observations, actions, rewards; it has r$"),
        (replaced(terminations=np.zeros(30)), "has terminations and terminals, which are the same: leave one"),
        (replaced(observations=ragged()), "observations holds Python objects, which are never unpickled: save numbers"),
        (replaced(observations=np.full((30, 3), "x")), "observations are <U1: numbers are needed"),
        (replaced(rewards=np.r_[np.zeros(12), np.nan, np.zeros(17)]), "rewards hold nan at episode 1, step 2: finite"),
        (replaced(rewards=np.zeros((30, 2))), r"rewards have shape \[30, 2\], not \[steps\]"),
        (replaced(terminals=np.full(30, 2)), "terminals hold 2: true and false"),
        (replaced(terminals=np.zeros(29)), "29 terminals, 30 timeouts: all must be equally many"),
        (replaced(actions=np.zeros(30, int)), "actions are int64: continuous actions only.*d3rlpy"),
        (replaced(actions=np.zeros((30, 2))), "actions hold 0 alone in component 0.*give --action-bounds"),
        (replaced(actions=np.c_[np.arange(30.0), np.ones(30)]), "actions hold 1 alone in component 1"),
        (
            replaced(observations=np.zeros((30, 8, 8, 3))),
            r"observations have shape \[30, 8, 8, 3\].*d3rlpy learns from images",
        ),
        (replaced(log_probs=np.full(30, -np.inf)), "log_probs hold -inf at episode 0, step 0"),
        (replaced(episode_starts=np.zeros(1, int)), "episode_starts, but no next_observations"),
    ],
)
def test_mistakes_are_one_line(d4rl_arrays, tmp_path, change, said):
    np.savez(tmp_path / "mine.npz", **change(flat(d4rl_arrays)))
    with pytest.raises(InputError, match=rf"mine.npz.* {said}") as caught:
        load_dataset(tmp_path / "mine.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced(observations=np.zeros((30, 4))), "b.npz has observations of 4 components, a.npz of 11"),
        (replaced(timeouts=None, terminals=None), "b.npz lacks terminals, which a.npz has"),
        (replaced(log_probs=np.zeros(30)), "a.npz lacks log_probs, which b.npz has"),
        (replaced(observations=np.zeros((31, 11))), "b.npz has whole episodes .*, and a.npz a flat sequence of steps"),
        (replaced(rewards=None), "b.npz lacks rewards"),
    ],
)
def test_pieces_that_do_not_fit(d4rl_arrays, tmp_path, change, said):
    (tmp_path / "logs").mkdir()
    np.savez(tmp_path / "logs" / "a.npz", **flat(d4rl_arrays))
    np.savez(tmp_path / "logs" / "b.npz", **change(flat(d4rl_arrays)))
    with pytest.raises(InputError, match=said) as caught:
        load_dataset(tmp_path / "logs")
    assert "\n" not in str(caught.value)


def test_constant_rewards_are_fine(d4rl_arrays, tmp_path):
    np.savez(tmp_path / "mine.npz", **flat(d4rl_arrays) | {"rewards": np.ones(30)})
    assert not load_dataset(tmp_path / "mine.npz").returns_differ


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no file .*mine\.npz"):
        load_dataset(tmp_path / "mine.npz")


def damaged(content):
    return bytes([*content[:200], content[200] ^ 255, *content[201:]])


@pytest.mark.parametrize("change", [lambda c: b"", lambda c: c[: len(c) // 2], damaged, lambda c: b"PK\3\4" * 40])
def test_damage_is_one_line(d4rl_arrays, tmp_path, change):
    np.savez(tmp_path / "mine.npz", **flat(d4rl_arrays))
    (tmp_path / "mine.npz").write_bytes(change((tmp_path / "mine.npz").read_bytes()))
    with pytest.raises(InputError, match=r"mine\.npz is damaged or no \.npz file") as caught:
        npz.read(tmp_path / "mine.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header", [b"{'descr': (", b"[" * 5000, b"\xff", b"{'descr': '<f8', 'fortran_order': False, 'shape': -1}"]
)
def test_a_garbled_header_is_one_line(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(8))
    with pytest.raises(InputError, match=r"mine\.npz is damaged or no \.npz file") as caught:
        npz.read(tmp_path / "mine.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i2", "?"])
def test_it_reads_what_numpy_does(tmp_path, order, kind):
    array = np.asarray(np.arange(6).reshape(2, 3) % 2, kind, order=order)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for version in ((1, 0), (2, 0), (3, 0)):
            file = io.BytesIO()
            np.lib.format.write_array(file, array, version)
            archive.writestr(f"v{version[0]}.npy", file.getvalue())
    found = npz.read(tmp_path / "a.npz")
    assert list(found) == ["v1", "v2", "v3"]
    for name in found:
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_what_needs_more_memory_than_is_free(d4rl_arrays, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **flat(d4rl_arrays))
    monkeypatch.setattr(npz, "available_memory", lambda: 100)
    monkeypatch.setattr(npz, "_SMALL", 0)
    with pytest.raises(InputError, match=r"needs 0\.0 GB of memory, and 0\.0 GB are free"):
        npz.read(tmp_path / "mine.npz")


def test_arrays_that_nobody_reads_are_named(d4rl_arrays, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", **flat(d4rl_arrays), dones=np.zeros(30))
    said = loaded(tmp_path / "mine.npz", capsys, action_bounds=[(-1, 1)])[1]
    assert said == [
        f"warning: {tmp_path}/mine.npz: dones is not used; a log has observations, actions, rewards, terminals, "
        "timeouts, next_observations, log_probs"
    ]


def test_steps_beside_episodes_belong_to_none(make_episode, tmp_path):
    arrays = {f"episode_0/{name}": array for name, array in make_episode(5).items()}
    np.savez(tmp_path / "mine.npz", **arrays, rewards=np.zeros(5))
    with pytest.raises(InputError, match=r"mine\.npz has episode_0/.* and rewards: rewards of which episode"):
        load_dataset(tmp_path / "mine.npz")
