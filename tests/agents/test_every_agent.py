"""What is asked of every agent, on a small dataset and in short runs."""

import inspect
import json
import re
import signal
import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import rlrat
from rlrat.networks import activations
from rlrat.networks.policies import Policy
from rlrat.networks.transformer import SequencePolicy
from rlrat.rational import Rational
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import RationalArguments
from rlrat.runs.folder import RunFolder
from rlrat.runs.inspection import activation_rows
from rlrat.runs.schema import COLUMNS, EVALUATIONS, TENSORBOARD
from rlrat.updates.learner import check_learner
from rlrat.updates.optim import Adam
from tests.agents.learners import AGENTS, HEADS, make_learner, make_trainer, with_setting
from tests.agents.registered import REGISTERED, command_line
from tests.short_runs import ROOT, assert_equal_runs, read_run, wait_for


@pytest.mark.parametrize("agent", AGENTS)
def test_settings_that_vary_along_the_seed_axis_act_as_alone(small_dataset, agent):
    """Every one of them, two members of one seed; the numbers are such that each changes something."""
    kind = load_agent(agent).Arguments
    names = [name for name, hint in get_type_hints(kind).items() if {float, tuple[float, ...]} <= set(get_args(hint))]
    assert "actor_learning_rate" in names or "learning_rate" in names
    common = {"batch_size": 8, "weight_decay": 0.5, "max_norm": 0.5, **REGISTERED[agent].counting}

    def trained(seeds, **changed):
        learner, _, train = make_trainer(agent, small_dataset, seeds, **{**common, **changed})
        for update in range(4):
            train(update)
        return learner

    plain = trained([3])
    for name in names:
        value = common.get(name, getattr(kind(), name))
        together = trained([3, 3], **{name: torch.tensor([[value], [0.5 * value]])})
        for index, alone in enumerate((plain, trained([3], **{name: 0.5 * value}))):
            expected = alone.state_dict()
            for key, tensor in together.state_dict().items():
                torch.testing.assert_close(tensor[index], expected[key][0], atol=1e-5, rtol=1e-4, msg=f"{name}, {key}")
        first, second = (torch.cat([p[index].flatten() for p in together.parameters()]) for index in range(2))
        assert not torch.equal(first, second), f"{name} changes nothing"


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("activation", ["relu", "rational"])
def test_a_seed_learns_alike_whatever_is_beside_it(small_dataset, agent, activation):
    settings = {"activation": activation, **REGISTERED[agent].dropout}
    together, batches, train = make_trainer(agent, small_dataset, list(range(4)), **settings)
    alone, own, train_alone = make_trainer(agent, small_dataset, [3], **settings)
    state = alone.state_dict()
    for name, value in together.state_dict().items():
        assert torch.equal(value[3], state[name][0]), name
    for update in range(6):
        for many, one in zip(batches.at(update), own.at(update), strict=True):
            assert torch.equal(many[3], one[0])
        train(update)
        train_alone(update)
    state = alone.state_dict()
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value[3], state[name][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("agent", AGENTS)
def test_other_seeds_are_apart_and_equal_seeds_together(small_dataset, agent):
    """In their initial weights, in all that is drawn for an update, also from one update to the next, and in learning.

    What is equal for all seeds is no tensor, or one number throughout, as initial biases are.
    """
    settings = {**REGISTERED[agent].counting, **REGISTERED[agent].dropout, "batch_size": 16}
    learner, _, train = make_trainer(agent, small_dataset, [3, 4, 3], **settings)
    weights = {name: p for name, p in learner.named_parameters() if len(p.unique()) > 1}
    assert weights
    drawn = [
        {f"input {place}": x for place, x in enumerate(tree_leaves(learner.inputs(update))) if torch.is_tensor(x)}
        for update in range(2)
    ]
    drawn = [{name: x for name, x in tensors.items() if len(x.unique()) > 1} for tensors in drawn]
    for name, tensor in (*weights.items(), *drawn[0].items()):
        assert torch.equal(tensor[0], tensor[2]), f"equal seeds differ: {name}"
        assert not torch.equal(tensor[0], tensor[1]), f"other seeds are equal: {name}"
    for name in drawn[0].keys() & drawn[1].keys():
        assert not torch.equal(drawn[0][name], drawn[1][name]), f"two updates draw the same: {name}"
    for update in range(4):
        train(update)
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(parameter[0], parameter[2], msg=name)
    assert all(not torch.equal(weight[0], weight[1]) for weight in weights.values())


@pytest.mark.parametrize("agent", with_setting("polyak"))
def test_nothing_follows_a_terminal_state(small_dataset, agent):
    """Where all next states are terminal the discount does not count, and where none is, it does."""
    for terminal in (1.0, 0.0):
        learners = [make_learner(agent, small_dataset, [3], discount=discount)[0] for discount in (0.5, 0.99)]
        for update in range(3):
            for learner in learners:
                batch, *others = learner.inputs(update)
                learner.update(batch._replace(terminations=torch.full_like(batch.terminations, terminal)), *others)
        one, other = (torch.cat([p.flatten() for p in learner.parameters()]) for learner in learners)
        assert torch.equal(one, other) == bool(terminal)


def _far_dataset(low, high) -> rlrat.Dataset:
    """Observations whose mean and spread are far from 0 and 1, and actions between `low` and `high`."""
    random = np.random.default_rng(1)
    episodes = [
        {
            "observations": random.normal((-40.0, 3.0, 500.0, 0.2), (0.1, 20.0, 60.0, 0.01), (steps + 1, 4)),
            "actions": random.uniform(low, high, (steps, 2)),
            "rewards": random.normal(5.0, 2.0, steps),
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
        }
        for steps in (20, 30, 40)
    ]
    return rlrat.Dataset.from_episodes(episodes, env_id="Far-v0", action_low=low, action_high=high)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_policy_acts_in_the_environments_units_as_it_learns_in_its_own(agent, normalize):
    """At raw observations the policy does what its network does at the batch's, and means by it what the data did."""
    low, high = -2.5, 2.5
    dataset = _far_dataset(low, high)
    learner, batches, train = make_trainer(agent, dataset, [3, 4], normalize_observations=normalize)
    for update in range(2):
        train(update)
    batch, policy = batches.at(7), learner.policy
    mean, std = (dataset.observations.mean(0), dataset.observations.std(0)) if normalize else (0.0, 1.0)
    sequence = isinstance(policy, SequencePolicy)
    # The first steps of windows, as at the beginning of an episode.
    observations, actions = (part[:, :, 0] if sequence else part for part in batch[:2])
    raw = observations.numpy() * std + mean
    distance = np.abs(raw[:, :, None] - dataset.observations).max(-1)
    assert distance.min(-1).max() < 1e-3  # each is a row of the data
    meant = low + (actions.numpy() + 1.0) * (high - low) / 2.0
    np.testing.assert_allclose(meant, dataset.actions[distance.argmin(-1)], rtol=1e-5, atol=1e-5)

    with torch.no_grad():
        if sequence:
            policy.reset()
            target = torch.tensor(policy.target_returns) / learner.args.return_scale
            to_go = target.repeat_interleave(raw.shape[1] // len(target)).expand(2, -1)
            no_action, start = torch.zeros_like(actions), torch.zeros(raw.shape[:2], dtype=torch.int64)
            window = (part.unsqueeze(2) for part in (observations, no_action, to_go, start))
            own = policy.predict(*window).squeeze(2)
        else:
            own = torch.tanh(policy.mean(observations)[..., : dataset.actions.shape[1]])
    assert own.abs().max() > 1e-3
    acted = policy(raw.astype(np.float32))
    np.testing.assert_allclose(acted, low + (own.numpy() + 1.0) * (high - low) / 2.0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_target_follows_its_source(small_dataset, agent):
    """It begins as the source does, and goes `polyak` of the way to it, as the source is before or after its step."""
    rated = hasattr(load_agent(agent).Arguments(), "polyak")
    settings = {"activation": "rational", **({"polyak": 0.3} if rated else {})}
    learner, _, train = make_trainer(agent, small_dataset, [3, 4], **settings)
    sources = {}
    for name, target in learner.named_children():
        if name.endswith("_target"):
            source = getattr(learner, name.removesuffix("_target"))
            source = dict((source.mean if isinstance(source, Policy) else source).named_parameters())
            assert source.keys() == dict(target.named_parameters()).keys()
            sources |= {parameter: source[part] for part, parameter in target.named_parameters()}
    assert bool(sources) == rated
    assert all(torch.equal(target, source) for target, source in sources.items())
    moved = set()
    for update in range(3):
        before = {parameter: parameter.clone() for pair in sources.items() for parameter in pair}
        train(update)
        for target, source in sources.items():
            if not torch.equal(target, before[target]):
                moved.add(target)
                ways = [before[target] + 0.3 * (now - before[target]) for now in (source, before[source])]
                assert any(torch.allclose(target, way, rtol=1e-5, atol=1e-6) for way in ways)
    assert moved == sources.keys()


EVERY_ACTIVATION = ("decision_transformer", "iql")  # of MLPs, and of a transformer
SOME = ("relu", "prelu", "rational:gelu")  # of the others: one without parameters, two with


@pytest.mark.parametrize(
    ("agent", "activation"),
    [
        pytest.param(agent, name, marks=[] if agent in EVERY_ACTIVATION or name in SOME else [pytest.mark.slow])
        for agent in AGENTS
        for name in (*activations.names(), "rational:gelu")
    ],
)
def test_every_activation_trains(small_dataset, agent, activation):
    settings = {"activation": activation, **REGISTERED[agent].counting}
    learner, _, train = make_trainer(agent, small_dataset, [0, 1], **settings)
    before = {name: p.clone() for name, p in learner.named_parameters() if "_target" not in name}
    for update in range(2):
        metrics = train(update)
    assert all(torch.isfinite(value).all() for value in metrics.values())
    unmoved = [name for name, p in learner.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not unmoved


@pytest.mark.parametrize("agent", AGENTS)
def test_every_trained_activation_is_inspected(small_dataset, agent):
    learner, batches = make_learner(agent, small_dataset, [3, 4], activation="rational")
    trained = {name for name, m in learner.named_modules() if isinstance(m, Rational) and "_target." not in name}
    rows = activation_rows(learner, batches.at(0))
    assert trained
    assert {f"{row['layer']}.activation" for row in rows[1]} == trained


def _assert_losses_fall(agent, dataset, **settings):
    """Within 50 updates; most take 20."""
    learner, _, _ = make_trainer(agent, dataset, [0, 1], **{**REGISTERED[agent].fixed, **settings})
    first, metrics = learner.inputs(0), {}

    def too_high() -> list[str]:
        pairs = ((name, metrics[f"losses/{name}"], *bound) for name, bound in REGISTERED[agent].falls.items())
        return [name for name, values, factor, margin in pairs if (values[-1] >= factor * values[0] - margin).any()]

    for update in range(50):
        inputs = first
        if any(isinstance(value, bool) for value in first):  # which networks step is told by the number of the update
            now = learner.inputs(update)
            inputs = [new if isinstance(new, bool) else old for new, old in zip(now, first, strict=True)]
        for name, value in learner.update(*inputs).items():
            metrics.setdefault(name, []).append(value.detach().clone())
        if update % 10 == 9 and not too_high():
            break
    assert all(torch.isfinite(torch.stack(values)).all() for values in metrics.values())
    assert learner.guard.alive.all()
    assert not too_high()


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("activation", "gated", "norm"),
    [  # every pair of the values of two settings; all of the first two activations are slow
        *(("relu", False, "none"), ("relu", True, "layer"), ("rational", False, "layer"), ("rational", True, "none")),
        *(("gelu", True, "layer"), ("rational:silu", False, "none")),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in (
                *(("relu", False, "layer"), ("relu", True, "none")),
                *(("rational", False, "none"), ("rational", True, "layer")),
                *(("gelu", False, "none"), ("rational:silu", True, "layer")),
            )
        ),
    ],
)
def test_losses_fall_on_a_fixed_batch(small_dataset, agent, activation, gated, norm):
    _assert_losses_fall(agent, small_dataset, activation=activation, gated=gated, norm=norm)


@pytest.mark.parametrize("agent", with_setting("policy"))
@pytest.mark.parametrize("policy", HEADS)
@pytest.mark.parametrize("initialization", ["orthogonal", "pytorch"])
def test_losses_of_every_policy_fall_on_a_fixed_batch(small_dataset, agent, policy, initialization):
    _assert_losses_fall(agent, small_dataset, policy=policy, initialization=initialization, activation="rational")


@pytest.mark.parametrize("agent", AGENTS)
def test_no_optimizer_escapes_what_is_said_of_all(small_dataset, agent):
    """Each of the settings changes what each of them does; only numbers such as a multiplier do not decay."""
    module = load_agent(agent)
    assert not re.search(r"\bAdam\(|\boptim\b", inspect.getsource(module)), "args.adam makes an agent's optimizers"
    constant = {f"{role}_schedule": "constant" for role in module.Arguments.roles}
    common = {"hidden_dims": (8, 8), "batch_size": 8, "total_updates": 4, **constant, **REGISTERED[agent].counting}

    def parameters(**changed) -> dict[str, torch.Tensor]:
        plain = {"warmup_updates": 0, "max_norm": None, "weight_decay": 0.0}
        learner, _, train = make_trainer(agent, small_dataset, [3], **{**common, **plain, **changed})
        for update in range(2):  # each has made a step
            train(update)
        optimizers = [m for m in learner.modules() if isinstance(m, Adam)]
        for optimizer in optimizers:
            assert any(optimizer._decays) == (optimizer.flat.count_nonzero() > 1), optimizer.name
        return {optimizer.name: optimizer.flat for optimizer in optimizers}

    plain = parameters()
    numbers = {name for name, flat in plain.items() if flat.count_nonzero() <= 1}
    for change in ({"warmup_updates": 8}, {"max_norm": 1e-7}, {"weight_decay": 0.5}):
        same = {name for name, flat in parameters(**change).items() if torch.equal(flat, plain[name])}
        assert same <= (numbers if "weight_decay" in change else set()), change
    followed = []
    for role in module.Arguments.roles:
        learner, _ = make_learner(agent, small_dataset, [3], **{**common, f"{role}_schedule": "cosine"})
        networks = {learner.policy: "actor", **{getattr(learner, name): "critic" for name in REGISTERED[agent].critics}}
        for optimizer in (m for m in learner.modules() if isinstance(m, Adam)):
            of, follows = networks.get(optimizer._network[0]), optimizer.cosine_updates is not None
            assert of is None or follows == (of == role), optimizer.name
            followed += [optimizer.name] if follows else []
    assert sorted(followed) == sorted(plain)


@pytest.mark.parametrize("agent", ["bc", "iql"])  # of which one batch has about one gradient
@pytest.mark.parametrize(("schedule", "rates"), [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.854, 0.5, 0.146])])
def test_the_actors_rate_follows_its_schedule(small_dataset, agent, schedule, rates):
    learner, _ = make_learner(agent, small_dataset, [0], total_updates=4, actor_schedule=schedule)
    inputs, steps = learner.inputs(0), []  # the same, so that Adam steps by about its rate
    for _ in range(4):
        before = learner.policy_optimizer.flat.clone()
        learner.update(*inputs)
        steps.append((learner.policy_optimizer.flat - before).abs().max().item() / 3e-4)
    np.testing.assert_allclose(steps, rates, rtol=0.05)


@pytest.mark.parametrize(
    ("agent", "settings", "spoilt", "tensor"), [(agent, *case) for agent in AGENTS for case in REGISTERED[agent].spoilt]
)
@pytest.mark.parametrize("at", [2, 3])  # of TD3+BC, without and with a step of the actor
def test_a_diverging_seed_is_frozen_and_the_other_goes_on(small_dataset, agent, settings, spoilt, tensor, at):
    settings = {"activation": "rational", "batch_size": 16, **REGISTERED[agent].dropout, **settings}
    healthy, _, train = make_trainer(agent, small_dataset, [0, 1], **settings)
    learner, _, _ = make_trainer(agent, small_dataset, [0, 1], **settings)
    for update in range(7):
        inputs = learner.inputs(update)
        if update == at:
            getattr(inputs[0], spoilt)[1, 0] = float("nan")
        metrics = learner.update(*inputs)
        for name, value in train(update).items():
            assert torch.equal(value[0], metrics[name][0]), name
        if update == at:
            frozen = {name: p[1].clone() for name, p in learner.named_parameters()}
    assert learner.guard.report() == [None, (tensor, at + 1)]
    assert healthy.guard.alive.all()
    state = healthy.state_dict()
    for name, value in learner.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value[0], state[name][0]), name
    for name, parameter in learner.named_parameters():
        assert torch.equal(parameter[1], frozen[name]), name


@pytest.mark.parametrize("agent", [agent for agent in AGENTS if REGISTERED[agent].critics])
def test_actor_and_critics_may_differ_and_rational_settings_arrive(small_dataset, agent):
    rational = RationalArguments(degrees=(3, 2), version="B", groups=4)
    learner, _ = make_learner(agent, small_dataset, [0], critic_activation="rational", rational=rational)
    assert not [m for m in learner.policy.modules() if isinstance(m, Rational)]
    for name in REGISTERED[agent].critics:
        critic = getattr(learner, name)
        rationals = [m for m in critic.modules() if isinstance(m, Rational)]
        assert len(rationals) == 2
        assert rationals[0].numerator.shape == (*critic.batch_shape, 4, 4)
        assert rationals[0].denominator.shape == (*critic.batch_shape, 4, 2)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("done", [2, 3])
def test_a_state_that_is_saved_and_loaded_goes_on_alike(small_dataset, agent, done):
    settings = {"activation": "rational", **REGISTERED[agent].dropout}
    learner, _, train = make_trainer(agent, small_dataset, [3, 4], **settings)
    for update in range(done):
        train(update)
    resumed, _, go_on = make_trainer(agent, small_dataset, [3, 4], **settings)
    resumed.load_state_dict({name: value.clone() for name, value in learner.state_dict().items()})
    for update in range(done, 6):
        train(update)
        go_on(update)
    state = resumed.state_dict()
    for name, value in learner.state_dict().items():
        assert value.shape[0] == 2, name
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("agent", AGENTS)
def test_padded_buffers_learn_the_same(small_dataset, agent, monkeypatch):
    settings = {"activation": "rational", "batch_size": 8, **REGISTERED[agent].counting}
    plain, _, train = make_trainer(agent, small_dataset, [3, 4], **settings)
    monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: True)
    padded, _, train_padded = make_trainer(agent, small_dataset, [3, 4], **settings)
    check_learner(padded, 2)
    assert padded.policy_optimizer.flat.shape > plain.policy_optimizer.flat.shape
    for update in range(2):
        train(update)
        train_padded(update)
    state = padded.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_command_leaves_a_finished_run_folder(agent, run_agent, tmp_path, scalars):
    setting, value = REGISTERED[agent].setting
    small = {**REGISTERED[agent].small, setting: value}
    arguments = ("--activation", "rational", "--num-seeds", 2, "--norm", "layer", *command_line(small))
    run_agent(*arguments)
    folders = list((tmp_path / "runs/rlrat-hopper-mixed-v0" / agent).iterdir())
    norm = [] if load_agent(agent).Arguments().norm == "layer" else ["norm=layer"]
    changed = [f"{name}={value}" for name, value in small.items()]
    different = sorted([*changed, "batch_size=16", "hidden_dims=16x16", *norm])
    assert [f.name for f in folders] == ["rational+" + ",".join(different)]
    for seed in (0, 1):
        folder = folders[0] / f"seed{seed}"
        names = {p.name for p in folder.iterdir()}
        assert {"config.json", "evaluations.csv", "episodes.csv", "checkpoint.pt", "summary.json"} <= names
        assert any(name.startswith(TENSORBOARD) for name in names)
        rows = RunFolder(folder).curve()
        assert [row["update"] for row in rows] == ["0", "20", "40"]
        assert (folder / "evaluations.csv").read_text().splitlines()[0] == ",".join(COLUMNS[EVALUATIONS])
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "finished"
        expected = np.mean([float(row["return_mean"]) for row in rows[1:]])  # never of the untrained policy
        assert summary["final_return"] == pytest.approx(expected)
        assert summary["reference"]["name"].startswith("v5")
        config = json.loads((folder / "config.json").read_text())
        assert config["seed"] == seed
        assert config["arguments"][setting] == value
        assert len(config["dataset"]["fingerprint"]) == 64
        points = scalars(folder)
        assert "charts/updates_per_second" in points
        for what in ("asymptotic_slope", "largest_slope", "outside"):
            assert any(re.fullmatch(rf"rational/policy\..*hidden\.0\.activation/{what}", tag) for tag in points)
        for tag in REGISTERED[agent].metrics | {"losses/actor"}:
            assert list(points[tag]) == [10, 20, 30, 40]
        assert list(points["eval/return_mean"]) == [0, 20, 40]
    assert "nothing to do" in run_agent(*arguments).stdout


SLOWLY_KILLED = ("awac", "bc", "rebrac")  # what they resume is of the others' kinds


@pytest.mark.parametrize(
    "agent",  # IQL's are in test_training.py
    [pytest.param(a, marks=[pytest.mark.slow] if a in SLOWLY_KILLED else []) for a in AGENTS if a != "iql"],
)
def test_a_killed_run_equals_an_undisturbed_one(agent, start_agent, run_agent, tmp_path):
    arguments = ("--num-seeds", 2, "--total-updates", 120, "--eval-every", 30, "--checkpoint-every", 15)
    arguments += ("--max-episode-steps", 40)
    arguments += command_line(REGISTERED[agent].small)
    run_agent(*arguments, "--run-name", "whole")
    arguments += ("--run-name", "killed")
    process = start_agent(*arguments)
    (whole,) = (tmp_path / "runs/rlrat-hopper-mixed-v0" / agent).iterdir()
    killed = whole.with_name(whole.name.replace("whole", "killed"))
    assert wait_for(killed / "seed1/evaluations.csv", "\n30,", process), "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "going on from update" in run_agent(*arguments).stdout
    for seed in (0, 1):
        assert_equal_runs(read_run(killed / f"seed{seed}"), read_run(whole / f"seed{seed}"))


@pytest.mark.parametrize("agent", AGENTS)
def test_help_is_answered_without_torch(agent):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{agent}.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'agents' / f'{agent}.py')!r}, run_name='__main__')\n"
        "finally: print('TORCH', 'torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "TORCH False" in result.stdout
    assert f"--{REGISTERED[agent].setting[0].replace('_', '-')}" in result.stdout
