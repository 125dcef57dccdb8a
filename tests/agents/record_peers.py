"""Record what CORL's ReBRAC and AWAC do in float64 on a tiny problem: `tests/fixtures/peers/<agent>.npz`.

Run by a Python of its own (JAX 0.10.2, flax 0.12.8, optax 0.2.8, chex 0.1.92; for AWAC torch 2.13.0), beside a clone of
github.com/tinkoff-ai/CORL at 6afec90, of which nothing is copied:

    python tests/agents/record_peers.py rebrac CORL/algorithms/offline/rebrac.py tests/fixtures/peers/rebrac.npz
    python tests/agents/record_peers.py awac CORL/algorithms/offline/awac.py tests/fixtures/peers/awac.npz

The authors' own (github.com/tinkoff-ai/ReBRAC at 694385b, `src/algorithms/rebrac.py`) leaves the same numbers, bit for
bit. Parameters have the names that rlrat's learners have, without the axis of the seeds. What CORL imports besides
(gym, d4rl, wandb, pyrallis) is not run here, and stands empty. Weights, batches and noise are float32, so that both
sides take the same.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np

OBSERVATIONS, ACTIONS, WIDTH, LAYERS, ROWS, BATCHES, UPDATES = 4, 2, 8, 3, 8, 5, 50
RECORDED = (1, 5, 50)
REBRAC = {  # no default among them
    "gamma": 0.95,
    "actor_bc_coef": 0.2,
    "critic_bc_coef": 0.3,
    "tau": 0.02,
    "policy_noise": 0.3,
    "noise_clip": 0.4,
}
ACTOR_RATE, CRITIC_RATE = 1e-3, 2e-3
AWAC = {"gamma": 0.95, "tau": 0.02, "awac_lambda": 0.7, "exp_adv_max": 1.3}


def load(path: str) -> ModuleType:
    """Load a file of CORL's, or of the authors', with the modules that it imports and does not need here left empty."""
    sys.path.insert(0, str(Path(path).resolve().parents[2]))
    for name in ("gym", "d4rl", "wandb", "pyrallis", "distrax", "h5py", "src.utils.vd4rl_utils"):
        sys.modules[name] = mock.MagicMock()
    spec = importlib.util.spec_from_file_location("peer", path)
    module = sys.modules["peer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problem(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw batches and noise, by the names of columns."""

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=(BATCHES, ROWS, *shape)).astype(np.float32)

    actions = random.uniform(-1.0, 1.0, (2, BATCHES, ROWS, ACTIONS)).astype(np.float32)
    return {
        "observations": normal(OBSERVATIONS),
        "actions": actions[0],
        "rewards": normal(),
        "next_observations": normal(OBSERVATIONS),
        "next_actions": actions[1],
        "terminations": (random.random((BATCHES, ROWS)) < 0.2).astype(np.float32),
        "noise": normal(ACTIONS),
        "current_noise": normal(ACTIONS),
    }


def spread(random: np.random.Generator, fan_in: int, *shape: int) -> np.ndarray:
    return (random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def joined(states: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join what was kept at first and after each of `RECORDED` updates: a row each, numbers in the order of `names`."""
    rows = [np.concatenate([state[name].ravel() for name in states[0]]) for state in states]
    return {
        "names": np.array(list(states[0])),
        "states": np.array(rows, np.float32),
        "updates": np.array([0, *RECORDED]),
    }


def record_rebrac(path: str) -> dict[str, np.ndarray]:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    peer, random = load(path), np.random.default_rng(0)
    given = problem(random)
    found = {name: value for name, value in given.items() if name != "current_noise"}
    actor_module = peer.DetActor(ACTIONS, WIDTH, layernorm=False, n_hiddens=LAYERS)
    critic_module = peer.EnsembleCritic(WIDTH, num_critics=2, layernorm=True, n_hiddens=LAYERS)
    key = jax.random.PRNGKey(0)
    rows = given["observations"][0], given["actions"][0]

    def drawn(tree: dict) -> dict:
        """Fill a tree of parameters: weights by their inputs, factors around 1, the rest around 0."""
        new = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                new[name] = drawn(value)
            else:
                fan_in = value.shape[-2] if name == "kernel" else 100
                new[name] = np.float64(spread(random, fan_in, *value.shape) + np.float32(name == "scale"))
                new[name] = new[name].astype(np.float32).astype(np.float64)
        return new

    states = {}
    for name, module, inputs, kind, rate in (
        ("policy", actor_module, rows[:1], peer.ActorTrainState, ACTOR_RATE),
        ("q", critic_module, rows, peer.CriticTrainState, CRITIC_RATE),
    ):
        shapes = module.init(key, *inputs)
        states[name] = kind.create(
            apply_fn=module.apply, params=drawn(shapes), target_params=drawn(shapes), tx=optax.adam(rate)
        )

    def named(tree: dict, name: str) -> dict[str, np.ndarray]:
        """Name the parameters of a network as rlrat's are."""
        (tree,) = tree.values()
        if "Dense_0" not in tree:
            (tree,) = tree.values()
        parts = {}
        for module, values in tree.items():
            kind, _, number = module.partition("_")
            where = f"hidden.{number}.linear" if int(number) < LAYERS else "output"
            where = f"hidden.{number}.norm" if kind == "LayerNorm" else where
            for part, value in values.items():
                parts[f"{name}.{where}.{'bias' if part == 'bias' else 'weight'}"] = np.asarray(value)
        return parts

    def state() -> dict[str, np.ndarray]:
        policy, q = states["policy"], states["q"]
        kept = named(policy.params, "policy.mean") | named(policy.target_params, "policy_target")
        kept |= named(q.params, "q") | named(q.target_params, "q_target")
        return kept | named(policy.opt_state[0].mu, "moment.policy.mean") | named(q.opt_state[0].mu, "moment.q")

    losses, kept = [], [state()]
    for update in range(UPDATES):
        row = update % BATCHES
        batch = {name: np.float64(value[row]) for name, value in given.items()}
        ours = {"states": "observations", "next_states": "next_observations", "dones": "terminations"}
        batch = {name: batch[ours.get(name, name)] for name in (*ours, "actions", "rewards", "next_actions")}
        metrics = peer.Metrics.create(
            ["critic_loss", "q_min", "actor_loss", "bc_mse_policy", "bc_mse_random", "action_mse"]
        )
        step, settings = peer.update_td3, {**REBRAC, "normalize_q": True}
        if update % 2:
            step, settings = peer.update_td3_no_targets, REBRAC
        with mock.patch("jax.random.normal", lambda key, shape, row=row: np.float64(given["noise"][row])):
            key, states["policy"], states["q"], metrics = step(
                key=key, actor=states["policy"], critic=states["q"], batch=batch, metrics=metrics, **settings
            )
        losses.append([float(metrics.accumulators[name][0][0]) for name in ("critic_loss", "actor_loss")])
        if update + 1 in RECORDED:
            kept.append(state())
    return {**found, "losses": np.array(losses), **joined(kept)}


def record_awac(path: str) -> dict[str, np.ndarray]:
    import torch

    peer, random = load(path), np.random.default_rng(1)
    found = {name: value for name, value in problem(random).items() if name != "next_actions"}
    actor = peer.Actor(OBSERVATIONS, ACTIONS, WIDTH)
    actor._mlp.append(torch.nn.Tanh())  # the mean lies within the actions' bounds, as in the authors' rlkit
    networks = {"policy": actor, **{name: peer.Critic(OBSERVATIONS, ACTIONS, WIDTH) for name in ("q0", "q1")}}
    for network in networks.values():
        network.double()
        for parameter in network.parameters():
            fan_in = parameter.shape[1] if parameter.ndim == 2 else 10
            parameter.data = torch.from_numpy(spread(random, fan_in, *parameter.shape)).double()
    optimizers = {name: torch.optim.Adam(network.parameters(), ACTOR_RATE) for name, network in networks.items()}
    learner = peer.AdvantageWeightedActorCritic(
        actor, optimizers["policy"], networks["q0"], optimizers["q0"], networks["q1"], optimizers["q1"], **AWAC
    )
    for target in (learner._target_critic_1, learner._target_critic_2):
        for parameter in target.parameters():
            parameter.data += torch.from_numpy(spread(random, 100, *parameter.shape)).double()
            parameter.data = parameter.data.float().double()

    def named(values: dict[str, torch.Tensor], start: str) -> dict[str, np.ndarray]:
        """Name the parameters of a network as rlrat's are, whose weights are `[in, out]`."""
        parts = {}
        for name, value in values.items():
            if name == "_log_std":
                parts[f"{start.removesuffix('.mean')}.log_std"] = value
                continue
            _, place, kind = name.split(".")
            where = f"hidden.{int(place) // 2}.linear" if int(place) // 2 < LAYERS else "output"
            parts[f"{start}.{where}.{kind}"] = value.T if kind == "weight" else value
        return {name: value.detach().numpy().copy() for name, value in parts.items()}

    def moments(name: str) -> dict[str, torch.Tensor]:
        """Return the optimizer's running means of gradients, which it does not have before its first step."""
        state = optimizers[name].state
        return {
            key: state[parameter]["exp_avg"] if state else torch.zeros_like(parameter)
            for key, parameter in networks[name].named_parameters()
        }

    def both(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.stack([value, two[name]]) for name, value in one.items()}

    def state() -> dict[str, np.ndarray]:
        critics = [dict(networks[name].named_parameters()) for name in ("q0", "q1")]
        targets = [dict(network.named_parameters()) for network in (learner._target_critic_1, learner._target_critic_2)]
        kept = named(dict(actor.named_parameters()), "policy.mean")
        kept |= both(*(named(values, "q") for values in critics))
        kept |= both(*(named(values, "q_target") for values in targets))
        kept |= named(moments("policy"), "moment.policy.mean")
        return kept | both(*(named(moments(name), "moment.q") for name in ("q0", "q1")))

    losses, kept = [], [state()]
    for update in range(UPDATES):
        batch = {name: torch.from_numpy(found[name][update % BATCHES]).double() for name in found}
        columns = ("observations", "actions", "rewards", "next_observations", "terminations")
        rows = [batch[name] if batch[name].ndim == 2 else batch[name].unsqueeze(-1) for name in columns]
        noise = batch["noise"], batch["current_noise"]  # the critics' target is first, then the advantage
        with mock.patch("torch.distributions.normal._standard_normal", side_effect=noise):
            result = learner.update(rows)
        losses.append([result["critic_loss"], result["actor_loss"]])
        if update + 1 in RECORDED:
            kept.append(state())
    return {**found, "losses": np.array(losses), **joined(kept)}


if __name__ == "__main__":
    agent, source, place = sys.argv[1:]
    np.savez_compressed(place, **{"rebrac": record_rebrac, "awac": record_awac}[agent](source))
