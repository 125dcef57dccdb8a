"""Importance sampling and its doubly robust form, on problems whose values are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrat.errors import InputError
from rlrat.evaluation.importance import effective_sample_size, estimate

# Two states, two actions: action a leads to state a with reward REWARDS[s, a]. Three steps from state 0.
REWARDS = np.array([[1.0, 0.0], [3.0, 2.0]])
DATA, JUDGED = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.3, 0.7], [0.6, 0.4]])
STEPS, DISCOUNT = 3, 0.9


def values() -> tuple[np.ndarray, np.ndarray]:
    """Q `[steps, state, action]` and V `[steps + 1, state]` of the judged policy with so many steps gone."""
    v, q = np.zeros((STEPS + 1, 2)), np.zeros((STEPS, 2, 2))
    for t in reversed(range(STEPS)):
        q[t] = REWARDS + DISCOUNT * v[t + 1]  # the next state is the action
        v[t] = (JUDGED * q[t]).sum(1)
    return q, v


def every_episode() -> dict[str, np.ndarray]:
    """All eight episodes, as likely as each other for the uniform policy of the data: means over them are exact."""
    q, v = values()
    columns = {"rewards": [], "log_ratios": [], "q": [], "v": []}
    for actions in itertools.product((0, 1), repeat=STEPS):
        state = 0
        for t, action in enumerate(actions):
            columns["rewards"].append(REWARDS[state, action])
            columns["log_ratios"].append(np.log(JUDGED[state, action] / DATA[state, action]))
            columns["q"].append(q[t, state, action])
            columns["v"].append(v[t, state])
            state = action
    return {name: np.array(column) for name, column in columns.items()}


STARTS = np.arange(8) * STEPS


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", ["none", "exact", "wrong"])
def test_the_value_is_that_of_the_bellman_equation_whatever_the_model_says(weighted, model):
    columns = every_episode()
    q, v = columns.pop("q"), columns.pop("v")
    if model == "wrong":  # any q does, with its mean under the policy: here q is wrong by one number, and so is v
        q, v = q + 5.0, v + 5.0
    with_model = {} if model == "none" else {"q": q, "v": v}
    found = estimate(**columns, episode_starts=STARTS, discount=DISCOUNT, weighted=weighted, least=1.0, **with_model)
    # All episodes are there as often as they should: the mean of the weights is 1, and weighting changes nothing.
    assert found.value == pytest.approx(values()[1][0, 0])
    assert 1.0 < found.effective_sample_size < 8.0


def test_a_right_model_leaves_no_variance():
    columns = every_episode()
    for start in STARTS:
        own = {name: column[start : start + STEPS] for name, column in columns.items()}
        found = estimate(**own, episode_starts=[0], discount=DISCOUNT, least=1.0)
        assert found.value == pytest.approx(values()[1][0, 0])


def test_weights_of_episodes_that_are_over_stay_in_the_mean():
    # Episode 0 has one step with ratio 2, episode 1 two with ratios 1 and 3: means of the weights 1.5 and 2.5.
    rewards, log_ratios = [1.0, 1.0, 1.0], np.log([2.0, 1.0, 3.0])
    found = estimate(rewards, log_ratios, [0, 1], 0.5, weighted=True, least=1.0)
    assert found.value == pytest.approx((2.0 / 1.5 + 1.0 / 1.5 + 0.5 * 3.0 / 2.5) / 2)
    assert found.effective_sample_size == pytest.approx((2 + 3) ** 2 / (4 + 9))
    plain = estimate(rewards, log_ratios, [0, 1], 0.5, least=1.0)
    assert plain.value == pytest.approx((2.0 + 1.0 + 0.5 * 3.0) / 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_truncated_end_counts_by_its_value(weighted):
    # A reward of 1 for ever with a discount of 0.5 is worth 2, wherever the episode is cut.
    columns = {"rewards": np.ones(5), "q": np.full(5, 2.0), "v": np.full(5, 2.0), "end_values": [2.0, 2.0]}
    found = estimate(log_ratios=np.log([2.0, 1, 3, 0.5, 1]), episode_starts=[0, 2], discount=0.5, weighted=weighted,
                     least=1.0, **columns)  # fmt: skip
    assert found.value == pytest.approx(2.0)


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=10, max_size=12),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_on_its_own_data_a_policy_has_the_mean_return(episodes, discount, weighted):
    rewards = np.concatenate(episodes)
    starts = np.cumsum([0, *map(len, episodes[:-1])])
    found = estimate(rewards, np.zeros(len(rewards)), starts, discount, weighted=weighted)
    expected = np.mean([sum(discount**t * r for t, r in enumerate(episode)) for episode in episodes])
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.effective_sample_size == pytest.approx(len(episodes))


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=20))
def test_the_effective_sample_size_lies_between_one_and_the_number_of_episodes(log_ratios):
    size = effective_sample_size(log_ratios, np.arange(len(log_ratios)))
    assert 1.0 - 1e-9 <= size <= len(log_ratios) + 1e-9


def test_too_few_effective_episodes_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"effective sample size of 1 of 20 episodes, below 10: the policy is too far"):
        estimate(np.ones(20), np.append(50.0, np.zeros(19)), np.arange(20), 0.9)
    with pytest.raises(InputError, match="finite log probabilities"):
        estimate(np.ones(2), [0.0, -np.inf], [0, 1], 0.9)
