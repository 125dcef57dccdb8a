import numpy as np
import pytest
from hypothesis import given, settings

from rlrat.datasets import Dataset
from rlrat.errors import InputError
from tests.datasets.episode_lists import episode_lists


@settings(max_examples=50, deadline=None)
@given(episode_lists())
def test_from_episodes_keeps_every_step(episodes):
    dataset = Dataset.from_episodes(episodes)
    lengths = [len(episode["rewards"]) for episode in episodes]
    assert len(dataset) == sum(lengths)
    assert dataset.episode_lengths.tolist() == lengths
    assert dataset.episode_starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    assert dataset.episode_complete.all()
    for index, episode in enumerate(episodes):
        rows = slice(dataset.episode_starts[index], dataset.episode_starts[index] + lengths[index])
        seen = np.asarray(episode["observations"], np.float32)
        np.testing.assert_array_equal(dataset.observations[rows], seen[:-1])
        np.testing.assert_array_equal(dataset.next_observations[rows], seen[1:])
        np.testing.assert_array_equal(dataset.actions[rows], episode["actions"].astype(np.float32))
        np.testing.assert_array_equal(dataset.rewards[rows], episode["rewards"].astype(np.float32))
        np.testing.assert_array_equal(dataset.terminations[rows], episode["terminations"])
        np.testing.assert_array_equal(dataset.truncations[rows][:-1], False)
        assert dataset.truncations[rows][-1] != episode["terminations"][-1]
        assert dataset.episode_returns[index] == pytest.approx(sum(map(float, episode["rewards"])), rel=1e-12, abs=1e-9)
    assert dataset.best_return == dataset.episode_returns.max()
    assert dataset.worst_return == dataset.episode_returns.min()


def test_minari_episode_data_is_accepted(make_episode):
    from minari import EpisodeData

    episode = make_episode(5)
    assert (
        Dataset.from_episodes([EpisodeData(id=0, infos={}, **episode)]).fingerprint
        == Dataset.from_episodes([episode]).fingerprint
    )


def edited(name, change):
    def edit(episodes):
        episodes[1][name] = change(episodes[1][name])

    return edit


def poke(value, *index):
    def change(array):
        array = np.array(array, np.float64)
        array[index] = value
        return array

    return change


def empty(episodes):
    episodes[1] = {name: array[: name == "observations"] for name, array in episodes[1].items()}


MISTAKES = {
    "no episodes": (lambda episodes: episodes.clear(), "no episodes"),
    "missing": (lambda episodes: episodes[1].pop("rewards"), "episode 1 lacks rewards"),
    "short observations": (edited("observations", lambda a: a[:-1]), "6 observations, 6 actions.* T \\+ 1"),
    "short rewards": (edited("rewards", lambda a: a[:-1]), "5 rewards"),
    "long flags": (edited("truncations", lambda a: np.append(a, False)), "7 truncations"),
    "empty": (empty, "episode 1 is empty"),
    "nan observation": (edited("observations", poke(np.nan, 4, 2)), "observations hold nan at episode 1, step 4 .* 2"),
    "nan in the last observation": (edited("observations", poke(np.nan, 6, 0)), "episode 1, step 6"),
    "inf action": (edited("actions", poke(-np.inf, 0, 1)), "actions hold -inf at episode 1, step 0"),
    "nan reward": (edited("rewards", poke(np.nan, 3)), "rewards hold nan at episode 1, step 3:"),
    "beyond float32": (edited("rewards", poke(1e300, 3)), "rewards hold inf at episode 1, step 3"),
    "out of bounds": (edited("actions", poke(1.25, 2, 1)), "actions hold 1.25 at episode 1, step 2 .*\\[-1, 1\\]"),
    "below bounds": (edited("actions", poke(-1.01, 2, 0)), "actions hold -1.01 at episode 1, step 2"),
    "discrete": (edited("actions", lambda a: np.zeros(6, np.int64)), "continuous actions only"),
    "integers": (edited("actions", lambda a: np.zeros((6, 2), np.int64)), "continuous actions only"),
    "dict": (
        edited("observations", lambda a: {"position": a}),
        r"episode 1 has as observations dictionaries \(position 4\), episode 0 vectors of 4",
    ),
    "image": (edited("observations", lambda a: np.zeros((7, 8, 8, 3), np.uint8)), r"shape \[7, 8, 8, 3\]"),
    "text": (edited("rewards", lambda a: np.array(["a"] * 6)), "rewards are <U1"),
    "ragged": (edited("observations", lambda a: [[1.0]] * 6 + [[1.0, 2.0]]), "ragged"),
    "flat actions": (edited("actions", lambda a: a[:, 0]), r"actions have shape \[6\]"),
    "no features": (edited("observations", lambda a: a[:, :0]), r"shape \[7, 0\]"),
    "other width": (edited("observations", lambda a: a[:, :-1]), "observations of 3 components, episode 0 of 4"),
    "numbers as flags": (edited("terminations", lambda a: np.full(6, 0.5)), "terminations hold 0.5"),
    "early end": (edited("terminations", poke(1, 2)), "terminations set at step 2 of 6"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named_in_one_line(make_episode, mistake, message):
    episodes = [make_episode(4), make_episode(6, seed=1)]
    mistake(episodes)
    with pytest.raises(InputError, match=message) as caught:
        Dataset.from_episodes(episodes, id="own")
    assert str(caught.value).startswith("own")
    assert "\n" not in str(caught.value)


def test_achieved_goal_is_left_out_only_where_it_stands_in_observation(make_goals):
    kept = (("achieved_goal", 2), ("desired_goal/height", 1), ("desired_goal/place", 2), ("observation", 4))
    episodes = make_goals()
    found, whole = Dataset.from_episodes(episodes), Dataset.from_episodes(episodes, drop_achieved_goal=False)
    assert (found.observation_parts, whole.observation_parts) == (kept[1:], kept)
    for name in ("observations", "next_observations"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[:, 2:])
    first = episodes[0]["observations"]
    expected = [first["achieved_goal"], first["desired_goal"]["height"][:, None], first["desired_goal"]["place"]]
    expected = np.concatenate([*expected, first["observation"]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(whole.observations[:5], expected[:-1])
    np.testing.assert_array_equal(whole.next_observations[:5], expected[1:])
    assert Dataset.from_episodes(episodes, drop_achieved_goal=True).fingerprint == found.fingerprint
    # The last observation of the last episode alone shows that it does not stand there.
    episodes[-1]["observations"]["achieved_goal"] = episodes[-1]["observations"]["achieved_goal"].copy()
    episodes[-1]["observations"]["achieved_goal"][-1, 1] += 1.0
    assert Dataset.from_episodes(episodes).observation_parts == kept
    with pytest.raises(
        InputError, match=r"^own: component 1 of achieved_goal does not stand in observation.*leave out"
    ):
        Dataset.from_episodes(episodes, id="own", drop_achieved_goal=True)


def test_there_is_no_achieved_goal_to_leave_out(make_goals, make_episode):
    for episodes in ([make_episode(3)], make_goals()):
        for episode in episodes:
            if isinstance(episode["observations"], dict):
                del episode["observations"]["achieved_goal"]
        with pytest.raises(InputError, match="own has no achieved_goal in its observations: leave out --drop-ach"):
            Dataset.from_episodes(episodes, id="own", drop_achieved_goal=True)
        Dataset.from_episodes(episodes, drop_achieved_goal=False)


def test_a_goal_that_never_changes_is_said_once(make_goals, capsys):
    episodes = make_goals()
    for episode in episodes:
        goal = episode["observations"]["desired_goal"]
        goal["place"], goal["height"] = np.full_like(goal["place"], 0.3), np.full_like(goal["height"], 2.0)
    dataset = Dataset.from_episodes(episodes, id="own")
    (note,) = dataset.notes
    assert note.startswith("own: desired_goal is the same in every step: policies learn for this alone, and normalised")
    assert capsys.readouterr().err == f"warning: {note}\n"


def part(change):
    def edit(episodes):
        change(episodes[1]["observations"])

    return edit


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (part(lambda o: o.pop("achieved_goal")), r"episode 1 has as observations dictionaries \(desired_goal/height 1"),
        (
            part(lambda o: o.update(more=o["observation"])),
            "episode 1 has as observations dict.*more 4.*, episode 0 dict",
        ),
        (part(lambda o: o.update(observation=o["observation"][:, :3])), "observation 3.*episode 0 .*observation 4"),
        (
            part(lambda o: o.update(observation=o["observation"][:-1])),
            "4 of achieved_goal, .*3 of observation: all must",
        ),
        (
            part(lambda o: o["observation"].__setitem__((1, 2), np.nan)),
            r"observation hold nan at episode 1, step 1 .c",
        ),
        (
            part(lambda o: o.update(observation=np.zeros((4, 8, 8, 3)))),
            r"observations/observation have shape \[4, 8, 8, 3",
        ),
        (part(lambda o: o.update(observation=np.zeros((4, 0)))), r"observations/observation have shape \[4, 0"),
        (part(lambda o: o.update(observation=np.array(list("abcd")))), "observations/observation are <U1: numbers are"),
        (part(lambda o: o.update(observation=(o["observation"],))), r"observations/observation have shape \[1, 4, 4\]"),
        (part(lambda o: o.update({5: o["observation"]})), "episode 1: observations have the key 5, which is no name"),
        (part(dict.clear), "episode 1: observations are an empty dictionary"),
        (
            lambda e: e[1].update(observations=e[1]["observations"]["observation"]),
            "episode 1 has as .* vectors of 4, epi",
        ),
        (
            lambda e: e[1].update(actions={"a": e[1]["actions"]}),
            "episode 1: actions are a dict: only flat vectors",
        ),
    ],
)
def test_mistakes_in_dictionaries_are_named_in_one_line(make_goals, mistake, message):
    episodes = make_goals()
    mistake(episodes)
    with pytest.raises(InputError, match=message) as caught:
        Dataset.from_episodes(episodes)
    assert "\n" not in str(caught.value)


def test_episodes_of_one_step_are_whole_and_of_none_are_refused(make_goals):
    dataset = Dataset.from_episodes(make_goals(lengths=(1, 1)))
    assert (len(dataset), dataset.episode_lengths.tolist()) == (2, [1, 1])
    with pytest.raises(InputError, match="episode 1 is empty: at least one step is needed"):
        Dataset.from_episodes(make_goals(lengths=(3, 0)))
