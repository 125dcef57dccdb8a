"""Mistakes that a reviewer would try in an agent, and the shared test that finds each: every one is made and found.

A mutant is the source of an agent, or of rlrat/datasets/columns.py, with one piece replaced.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from rlrat.datasets import columns
from rlrat.errors import InputError
from rlrat.runs.agents import find_agent, load_agent
from tests.agents import test_every_agent as every_agent
from tests.agents import test_every_setting as every_setting
from tests.agents import test_rebrac
from tests.agents.learners import AGENTS
from tests.agents.registered import REGISTERED
from tests.datasets import test_columns
from tests.runs import test_trial
from tests.updates import test_learner

alone = partial(every_agent.test_a_seed_learns_alike_whatever_is_beside_it, activation="relu")
apart = every_agent.test_other_seeds_are_apart_and_equal_seeds_together
targets = every_agent.test_every_target_follows_its_source
escapes = every_agent.test_no_optimizer_escapes_what_is_said_of_all
terminal = every_agent.test_nothing_follows_a_terminal_state
on_the_device = every_setting.test_an_update_stays_on_the_device
resumed = partial(every_agent.test_a_state_that_is_saved_and_loaded_goes_on_alike, done=3)
inspected = every_agent.test_every_trained_activation_is_inspected
contract = partial(test_learner.test_every_agent_forgets_nothing, activation="relu")
trial = test_trial.test_a_trial_leaves_every_agent_as_it_was
roles = every_agent.test_actor_and_critics_may_differ_and_rational_settings_arrive


def frozen(dataset, agent):
    settings, spoilt, tensor = REGISTERED[agent].spoilt[0]
    every_agent.test_a_diverging_seed_is_frozen_and_the_other_goes_on(dataset, agent, settings, spoilt, tensor, at=3)


def acts(_, agent):
    every_agent.test_the_policy_acts_in_the_environments_units_as_it_learns_in_its_own(agent, normalize=True)


def truncated(*_):
    test_rebrac.test_the_penalty_is_left_out_where_the_data_has_no_next_action()


def counts(setting: str):
    """A part of test_every_setting_changes_what_is_learned."""
    return partial(every_setting.assert_every_setting_counts, only=setting)


@dataclass(frozen=True)
class Mutant:
    """What is replaced, by what, and the test that finds it: `check(dataset, agent)`."""

    mistake: str
    old: str
    new: str
    check: Callable
    slow: bool = False


SET_UNITS = "self.policy.set_units(units)\n"
TERMINATIONS = "losses.bellman_target(batch.rewards, batch.terminations,"
NO_TERMINATIONS = TERMINATIONS.replace("batch.term", "0.0 * batch.term")
OF_EVERY_AGENT = (
    Mutant("the policy has no units", SET_UNITS, "pass\n", contract),
    Mutant(
        "the policy has other units than the batches",
        SET_UNITS,
        "self.policy.set_units(Units.of(dataset, False, 1e-6, 'none'))\n",
        acts,
    ),
    Mutant("all seeds draw the same batch", "(dataset, seeds,", "(dataset, [0] * num_seeds,", apart),
    Mutant("every update has the same batch", "self.batches.at(update)", "self.batches.at(0)", apart),
    Mutant("no update is counted", "        self.guard.update += 1\n", "", frozen),
)
OF_AGENTS = {
    "awac": (
        Mutant("--temperature is ignored", "1.0 / args.temperature", "3.0", counts("temperature")),
        Mutant("advantages are less their mean", "batch.actions) - value\n", "batch.actions) - value.mean()\n", alone),
        Mutant("all seeds have the same noise", "Stream(seeds,", "Stream([0] * num_seeds,", apart),
        Mutant("targets never move", ", target=self.q_target, polyak=self.args.polyak", "", targets),
        Mutant("terminal states are followed", TERMINATIONS, NO_TERMINATIONS, terminal),
    ),
    "bc": (
        Mutant("--best-episodes is ignored", "(args.best_episodes)", "(1.0)", counts("best_episodes")),
        Mutant("one loss for all seeds", ".mean(-1)\n", ".mean().expand_as(self.guard.alive)\n", frozen),
        Mutant("all seeds begin alike", "(self.policy, seeds,", "(self.policy, [0] * num_seeds,", apart),
        Mutant("a metric has no seed axis", '"losses/actor": loss', '"losses/actor": loss.mean()', trial),
    ),
    "cql": (
        Mutant("--temperature is ignored", "beside(args.temperature,", "beside(1.0,", counts("temperature")),
        Mutant(
            "the multiplier's optimizer escapes what is said of all",
            "args.adam(self.log_multiplier, *of_critic, **about)",
            "Adam(self.log_multiplier, of_critic[0], **about)",
            escapes,
        ),
        Mutant("one entropy for all seeds", "* (log_prob.mean((1, 2))", "* (log_prob.mean()", alone),
        Mutant("all seeds have the same noise", "Stream(seeds,", "Stream([0] * num_seeds,", apart),
        Mutant("targets never move", ", target=self.q_target, polyak=args.polyak", "", targets),
        Mutant("terminal states are followed", TERMINATIONS, NO_TERMINATIONS, terminal),
    ),
    "decision_transformer": (
        Mutant("--embedded-steps is ignored", "=args.embedded_steps", "=1000", counts("embedded_steps")),
        Mutant(
            "errors are less their mean over seeds",
            "error = (predicted - batch.actions)",
            "error = (predicted - batch.actions - (predicted - batch.actions).mean())",
            alone,
        ),
        Mutant("the optimizer has another guard", "guard=self.guard", "guard=SeedGuard(num_seeds)", contract),
        Mutant("all seeds have the same dropout", "Stream(seeds, f", "Stream([0] * num_seeds, f", apart),
    ),
    "iql": (
        Mutant("--expectile is ignored", "self.args.expectile", "0.7", counts("expectile")),
        Mutant(
            "V follows the actor's schedule",
            'learning_rate, "critic", name="v"',
            'learning_rate, "actor", name="v"',
            escapes,
        ),
        Mutant("advantages are less their mean", "target_q - value,", "target_q - value - value.mean(),", alone),
        Mutant("all seeds have the same dropout", "Dropout(seeds,", "Dropout([0] * num_seeds,", apart),
        Mutant("targets never move", ", target=self.q_target, polyak=self.args.polyak", "", targets),
        Mutant("targets move at another rate", "polyak=self.args.polyak", "polyak=0.005", targets),
        Mutant("the target takes gradients", ".requires_grad_(False)", "", contract),
        Mutant("terminal states are followed", TERMINATIONS, NO_TERMINATIONS, terminal),
        Mutant("V is not inspected", "        self.value(batch.observations)\n", "", inspected),
        Mutant("V has the actor's activation", "(num_seeds,), **critic)", "(num_seeds,), **actor)", roles, slow=True),
    ),
    "rebrac": (
        Mutant("--critic-penalty is ignored", "beside(args.critic_penalty, 2)", "0.01", counts("critic_penalty")),
        Mutant("lambda is one for all seeds", "q.detach().abs().mean(-1)", "q.detach().abs().mean()", alone),
        Mutant("all seeds have the same noise", "Stream(seeds,", "Stream([0] * num_seeds,", apart),
        Mutant("target critics never move", "polyak_(self.q_target, self.q,", "(lambda *_: None)(", targets),
        Mutant(
            "the target actor never moves", "polyak_(self.policy_target, self.policy,", "(lambda *_: None)(", targets
        ),
        Mutant("terminal states are followed", TERMINATIONS, NO_TERMINATIONS, terminal),
        Mutant("a next action follows a truncation", " * batch.next_action_mask", "", truncated),
    ),
    "td3_bc": (
        Mutant("--noise-clip is ignored", "beside(args.noise_clip, 3)", "0.5", counts("noise_clip")),
        Mutant("critics have the actor's dropout", "(self.q, critic)", "(self.q, actor)", counts("critic_dropout")),
        Mutant("lambda is one for all seeds", "q.detach().abs().mean(-1)", "q.detach().abs().mean()", alone),
        Mutant("all seeds have the same noise", "Stream(seeds,", "Stream([0] * num_seeds,", apart),
        Mutant("every update has the same noise", "self.noise.at(update)", "self.noise.at(0)", apart),
        Mutant("target critics never move", "polyak_(self.q_target, self.q,", "(lambda *_: None)(", targets),
        Mutant("the target actor never moves", ", target=self.policy_target, polyak=self.args.polyak", "", targets),
        Mutant("terminal states are followed", TERMINATIONS, NO_TERMINATIONS, terminal),
        Mutant("a number comes from the host", "+ 1e-6)", "+ torch.tensor(1e-6))", on_the_device),
        Mutant(
            "what an update does is no function of its number",
            "(update + 1) % self.args",
            "vars(self).update(calls=vars(self).get('calls', 0) + 1) or self.calls % self.args",
            resumed,
        ),
    ),
}
"""Of each agent at least: a setting is ignored, seeds are coupled and, of one with a target, it never moves."""

OF_COLUMNS = (
    Mutant(
        "next actions are of the next episode",
        "first.reshape(shape) + np.minimum(steps, remaining)",
        "np.minimum(first.reshape(shape) + steps, len(left) - 1)",
        test_columns,
    ),
    Mutant("masks reach beyond the episode", "steps <= remaining", "steps <= remaining + 1", test_columns),
    Mutant("returns reach beyond the episode", " * within) @ weights", ") @ weights", test_columns),
    Mutant("terminal states are followed", " * ~dataset.terminations[indices[..., -1]]", "", test_columns),
    Mutant("discounts are those of n steps", "np.count_nonzero(within, axis=-1)", "-1", test_columns),
    Mutant(
        "the reward of the lost step is lost",
        "np.where(lost_steps > 0,",
        "0.0 * np.where(lost_steps > 0,",
        test_columns,
    ),
    Mutant("densities are in the environment's units", " + volume", "", test_columns),
)


def mutated(name: str, path: Path, mutant: Mutant) -> ModuleType:
    """Load the file with the piece replaced."""
    source = path.read_text(encoding="utf-8")
    assert mutant.old in source, f"{path.name} has no {mutant.old!r} any more: tell how the mistake would be made now"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(source.replace(mutant.old, mutant.new), str(path), "exec"), vars(module))
    return module


def slowly(agent: str, mutant: Mutant) -> list:
    """What is alike in all agents is tried with one of them, and with all among the slow tests."""
    quick = not mutant.slow if mutant in OF_AGENTS.get(agent, ()) else agent == "td3_bc" or mutant.check is contract
    return [] if quick else [pytest.mark.slow]


def named(mutant: Mutant | str) -> str:
    return mutant if isinstance(mutant, str) else mutant.mistake


@pytest.mark.parametrize(
    ("agent", "mutant"),
    [
        pytest.param(agent, mutant, marks=slowly(agent, mutant))
        for agent in AGENTS
        for mutant in (*OF_EVERY_AGENT, *OF_AGENTS.get(agent, ()))
    ],
    ids=named,
)
def test_every_mistake_in_an_agent_is_found(small_dataset, agent, mutant, monkeypatch):
    name = load_agent(agent).__name__
    monkeypatch.setitem(sys.modules, name, sys.modules[name])  # put back afterwards
    mutated(name, find_agent(agent), mutant)
    with pytest.raises((AssertionError, InputError)):
        mutant.check(small_dataset, agent)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_mutants_of_its_own(agent):
    checks = [mutant.check for mutant in OF_AGENTS.get(agent, ())]
    where = "in OF_AGENTS of tests/agents/test_mutants.py"
    assert any(isinstance(c, partial) and "only" in c.keywords for c in checks), (
        f"no setting of {agent} is ignored {where}"
    )
    assert {alone, apart, frozen} & {*checks}, f"nothing couples the seeds of {agent} {where}"
    if hasattr(load_agent(agent).Arguments, "polyak"):
        assert {targets, terminal} <= {*checks}, f"a target that never moves, a terminal state: not of {agent} {where}"


@pytest.mark.parametrize("mutant", OF_COLUMNS, ids=named)
def test_every_mistake_in_a_column_is_found(mutant, monkeypatch):
    module = mutated("mutated_columns", Path(columns.__file__), mutant)
    monkeypatch.delitem(sys.modules, "mutated_columns")
    monkeypatch.setattr(mutant.check, "make_columns", module.make_columns)
    whole = mutant.check.test_every_column_is_its_definition_and_stays_in_the_episode.hypothesis.inner_test
    with pytest.raises(AssertionError):
        whole([(3, True), (5, False), (2, True)])
