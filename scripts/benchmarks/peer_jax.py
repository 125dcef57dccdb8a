"""IQL and TD3+BC in JAX, the same updates as rlrat's with their defaults. Needs JAX and NumPy.

A peer of `benchmark.py agents` and of `gpu_check.sh`. All seeds are one `vmap`, and SCAN updates one `lax.scan`,
sampling included. DATA is an .npz file that `agent_speed.write_data` wrote: transitions in the agent's units, and
initial weights by activation. Every combination of activation, number of seeds and precision is compiled first. Then
each line `activation seeds precision updates` of standard input is answered with the wall's and the processor's seconds
that so many updates take; a number of updates alone is one of the first combination.
"""

import argparse
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from peers import PEERS, answer, command_line, on_cores

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminations")
SETTINGS = {
    "iql": {
        **{"learning_rate": 3e-4, "discount": 0.99, "polyak": 0.005, "expectile": 0.7, "inverse_temperature": 3.0},
        **{"max_weight": 100.0, "total_updates": 300_000},
    },
    "td3_bc": {
        **{"learning_rate": 3e-4, "discount": 0.99, "polyak": 0.005, "policy_noise": 0.2, "noise_clip": 0.5},
        **{"policy_delay": 2, "alpha": 2.5},
    },
}
PRECISIONS = {"fp32": "highest", "tf32": "default"}  # the default is TF32 on a GPU that has it


def activation(p: dict, layer: str, x: jax.Array) -> jax.Array:
    """ReLU, or where the layer has coefficients the rational of version A with them."""
    if f"{layer}.activation.numerator" not in p:
        return jax.nn.relu(x)
    a, b = p[f"{layer}.activation.numerator"][0], jnp.abs(p[f"{layer}.activation.denominator"][0])
    z = jnp.abs(x)
    numerator, denominator = a[-1], b[-1]
    for coefficient in a[-2::-1]:
        numerator = numerator * x + coefficient
    for coefficient in b[-2::-1]:
        denominator = denominator * z + coefficient
    return numerator / (1.0 + denominator * z)


def mlp(p: dict, x: jax.Array, prefix: str = "") -> jax.Array:
    for layer in (f"{prefix}hidden.0", f"{prefix}hidden.1"):
        x = activation(p, layer, x @ p[f"{layer}.linear.weight"] + p[f"{layer}.linear.bias"])
    return x @ p[f"{prefix}output.weight"] + p[f"{prefix}output.bias"]


def critics(q: dict, x: jax.Array) -> jax.Array:
    """`[2, B]`."""
    return jax.vmap(mlp, (0, None))(q, x)[..., 0]


def log_prob(policy: dict, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Of tanh(u), u a Gaussian around the network's output."""
    log_std, a = jnp.clip(policy["log_std"], -5.0, 2.0), jnp.clip(actions, -0.999, 0.999)
    squares = jnp.square((jnp.arctanh(a) - mlp(policy, observations, "mean.")) * jnp.exp(-log_std)).sum(-1)
    constant = jnp.log1p(-jnp.square(a)).sum(-1) + 0.5 * math.log(2.0 * math.pi) * a.shape[-1]
    return -0.5 * squares - (log_std.sum() + constant)


def adam(p: dict, gradients: dict, moments: tuple, step: jax.Array, rate: jax.Array | float) -> tuple[dict, tuple]:
    """`step` counts from 1."""
    first, second = moments
    first = jax.tree.map(lambda m, g: m + 0.1 * (g - m), first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    c1, c2 = -jnp.expm1(step * math.log(0.9)), -jnp.expm1(step * math.log(0.999))
    p = jax.tree.map(lambda p, m, v: p - rate / c1 * m / (jnp.sqrt(v / c2) + 1e-8), p, first, second)
    return p, (first, second)


def make_state(weights: dict) -> dict:
    """The state of a seed, from its initial weights by the names of the agent's `state_dict`."""
    state = {}
    for name, value in weights.items():
        network, _, rest = name.partition(".")
        state.setdefault(network, {})[rest] = jnp.asarray(value)
    for name in [name for name in state if not name.endswith("_target")]:
        state[f"{name}_moments"] = tuple(jax.tree.map(jnp.zeros_like, state[name]) for _ in range(2))
    return {**state, "step": jnp.zeros(())}


def update_q(state: dict, pair: jax.Array, target: jax.Array, step: jax.Array, rate: float) -> tuple[dict, dict]:
    """Regress both critics on the target."""

    def loss(p: dict) -> tuple[jax.Array, jax.Array]:
        q = critics(p, pair)
        return jnp.square(q - target).mean(-1).sum(), q.mean()

    (value, mean), gradients = jax.value_and_grad(loss, has_aux=True)(state["q"])
    q, moments = adam(state["q"], gradients, state["q_moments"], step, rate)
    return {**state, "q": q, "q_moments": moments}, {"losses/q": value, "charts/q_mean": mean}


def follow(target: dict, network: dict, polyak: float) -> dict:
    return jax.tree.map(lambda ours, theirs: ours + polyak * (theirs - ours), target, network)


def iql(state: dict, batch: dict) -> tuple[dict, dict]:
    """One gradient step of each network of a seed, in the paper's order, on a batch with leading axis B."""
    s, step = SETTINGS["iql"], state["step"] + 1.0
    rate = s["learning_rate"]
    pair = jnp.concatenate([batch["observations"], batch["actions"]], -1)
    target_q = critics(state["q_target"], pair).min(0)
    next_value = mlp(state["v"], batch["next_observations"])[..., 0]
    target = batch["rewards"] + s["discount"] * (1.0 - batch["terminations"]) * next_value
    state, metrics = update_q(state, pair, target, step, rate)

    def v_loss(p: dict) -> tuple[jax.Array, jax.Array]:
        value = mlp(p, batch["observations"])[..., 0]
        advantage = target_q - value
        weight = jnp.where(advantage > 0, s["expectile"], 1.0 - s["expectile"])
        return (weight * jnp.square(advantage)).mean(), value.mean()

    (v_value, v_mean), gradients = jax.value_and_grad(v_loss, has_aux=True)(state["v"])
    v, v_moments = adam(state["v"], gradients, state["v_moments"], step, rate)

    advantage = target_q - mlp(v, batch["observations"])[..., 0]
    weight = jnp.minimum(jnp.exp(s["inverse_temperature"] * advantage), s["max_weight"])

    def actor_loss(p: dict) -> jax.Array:
        return -(weight * log_prob(p, batch["observations"], batch["actions"])).mean()

    schedule = 0.5 * (1.0 + jnp.cos(math.pi * state["step"] / s["total_updates"]))
    actor_value, gradients = jax.value_and_grad(actor_loss)(state["policy"])
    policy, policy_moments = adam(state["policy"], gradients, state["policy_moments"], step, rate * schedule)
    metrics |= {
        **{"losses/v": v_value, "charts/v_mean": v_mean},
        **{"losses/actor": actor_value, "charts/advantage_mean": advantage.mean()},
        **{"charts/advantage_std": advantage.std(), "charts/weight_mean": weight.mean()},
        "charts/weight_clipped": (weight >= s["max_weight"]).mean(),
    }
    return {
        **state,
        **{"q_target": follow(state["q_target"], state["q"], s["polyak"]), "v": v, "v_moments": v_moments},
        **{"policy": policy, "policy_moments": policy_moments, "step": step},
    }, metrics


def td3_bc(state: dict, batch: dict, noise: jax.Array, actor_step: bool) -> tuple[dict, dict]:
    """A step of a seed's critics and, if `actor_step`, of the actor and the targets; `noise` is standard normal."""
    s, step = SETTINGS["td3_bc"], state["step"] + 1.0
    rate = s["learning_rate"]
    noise = jnp.clip(noise * s["policy_noise"], -s["noise_clip"], s["noise_clip"])
    next_actions = jnp.clip(jnp.tanh(mlp(state["policy_target"], batch["next_observations"])) + noise, -1.0, 1.0)
    next_q = critics(state["q_target"], jnp.concatenate([batch["next_observations"], next_actions], -1)).min(0)
    target = batch["rewards"] + s["discount"] * (1.0 - batch["terminations"]) * next_q
    pair = jnp.concatenate([batch["observations"], batch["actions"]], -1)
    state, metrics = update_q({**state, "step": step}, pair, target, step, rate)
    if not actor_step:
        return state, metrics
    first = jax.tree.map(lambda value: value[0], state["q"])  # of both critics

    def actor_loss(p: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        actions = jnp.tanh(mlp(p, batch["observations"], "mean."))
        q = mlp(first, jnp.concatenate([batch["observations"], actions], -1))[..., 0]
        weight = s["alpha"] / (jnp.abs(jax.lax.stop_gradient(q)).mean() + 1e-6)
        cloning = jnp.square(actions - batch["actions"]).mean()
        return cloning - weight * q.mean(), (cloning, weight)

    (value, (cloning, weight)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state["policy"])
    policy, moments = adam(state["policy"], gradients, state["policy_moments"], step / s["policy_delay"], rate)
    mean = {name.removeprefix("mean."): value for name, value in policy.items()}
    return {
        **{**state, "policy": policy, "policy_moments": moments},
        "policy_target": follow(state["policy_target"], mean, s["polyak"]),
        "q_target": follow(state["q_target"], state["q"], s["polyak"]),
    }, metrics | {"losses/actor": value, "losses/cloning": cloning, "charts/lambda": weight}


KINDS = {"iql": (iql,), "td3_bc": (partial(td3_bc, actor_step=False), partial(td3_bc, actor_step=True))}
"""An agent's updates in their order, after which they begin again."""


def compile_updates(
    agent: str, data: dict, weights: dict, seeds: int, precision: str, batch_size: int, scan: int
) -> Callable[[int], int]:
    """Compile some `scan` updates of `seeds` seeds; return a function that performs many and returns how many."""
    kinds = [jax.vmap(kind) for kind in KINDS[agent]]
    rounds = -(-scan // len(kinds))
    shape = (rounds, len(kinds), seeds, batch_size)
    state = make_state({name: jnp.repeat(value, seeds, axis=0) for name, value in weights.items()})
    state["step"] = jnp.zeros(seeds)

    def updates(state: dict, key: jax.Array, data: dict) -> tuple[dict, jax.Array, list[dict]]:
        key, mine, for_noise = jax.random.split(key, 3)
        drawn = [jax.random.randint(mine, shape, 0, len(data["rewards"]))]
        if agent == "td3_bc":
            drawn.append(jax.random.normal(for_noise, (*shape, data["actions"].shape[-1])))

        def one(state: dict, drawn: list[jax.Array]) -> tuple[dict, list[dict]]:
            metrics = []
            for number, update in enumerate(kinds):
                index, *noise = (value[number] for value in drawn)
                state, found = update(state, {name: column[index] for name, column in data.items()}, *noise)
                metrics.append(found)
            return state, metrics

        state, metrics = jax.lax.scan(one, state, drawn)
        return state, key, metrics

    key = jax.random.key(0)
    with jax.default_matmul_precision(PRECISIONS[precision]):
        program = jax.jit(updates, donate_argnums=0).lower(state, key, data).compile()

    def turn(count: int) -> int:
        nonlocal state, key
        calls = -(-count // (rounds * len(kinds)))
        for _ in range(calls):
            state, key, metrics = program(state, key, data)
        jax.block_until_ready((state, metrics))
        return calls * rounds * len(kinds)

    turn(scan)
    return turn


def main(argv: list[str] | None = None) -> None:
    parser = command_line(__doc__, PEERS["jax"].agents)
    parser.add_argument("--activations", nargs="+", default=["relu"])
    parser.add_argument("--num-seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--scan", type=int, default=50)
    arguments = parser.parse_args(argv)
    with on_cores(arguments.threads):
        serve(arguments)


def serve(arguments: argparse.Namespace) -> None:
    with np.load(arguments.data) as file:
        arrays = dict(file)
    data = {name: jnp.asarray(arrays[name]) for name in COLUMNS}

    def prepare(choice: tuple[str, int, str]) -> Callable[[int], int]:
        name, seeds, precision = choice
        start = f"{name}/"
        weights = {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}
        sizes = arguments.batch_size, arguments.scan
        return compile_updates(arguments.agent, data, weights, seeds, precision, *sizes)

    choices = list(itertools.product(arguments.activations, arguments.num_seeds, arguments.precisions))
    with ThreadPoolExecutor(len(choices)) as pool:  # each compiles for seconds, mostly in C++
        turns = dict(zip(choices, pool.map(prepare, choices), strict=True))

    def work(*words: str | int) -> int:
        *choice, count = words
        name, seeds, precision = choice or choices[0]
        return turns[name, int(seeds), precision](count)

    answer(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}", work)


if __name__ == "__main__":
    main()
