"""IQL in JAX, the same update as agents/iql.py's with its defaults: the peer of `gpu_check.sh`. Needs JAX and NumPy.

All seeds are one `vmap`, and SCAN updates one `lax.scan`, sampling included. DATA is an .npz file that
`gpu_steps.write_iql` wrote: transitions in the agent's units, and initial weights by activation. Every combination of
activation, number of seeds and precision is compiled first. Then each line `activation seeds precision updates` of
standard input is answered with the seconds that so many updates take.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminations")
SETTINGS = {
    **{"learning_rate": 3e-4, "discount": 0.99, "polyak": 0.005, "expectile": 0.7, "inverse_temperature": 3.0},
    **{"max_weight": 100.0, "total_updates": 300_000},
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
    state = {name: {} for name in ("q", "q_target", "v", "policy")}
    for name, value in weights.items():
        network, _, rest = name.partition(".")
        state[network][rest] = jnp.asarray(value)
    for name in ("q", "v", "policy"):
        state[f"{name}_moments"] = tuple(jax.tree.map(jnp.zeros_like, state[name]) for _ in range(2))
    return {**state, "step": jnp.zeros(())}


def update(state: dict, batch: dict) -> tuple[dict, dict]:
    """One gradient step of each network of a seed, in the paper's order, on a batch with leading axis B."""
    s, step = SETTINGS, state["step"] + 1.0
    pair = jnp.concatenate([batch["observations"], batch["actions"]], -1)
    target_q = critics(state["q_target"], pair).min(0)
    next_value = mlp(state["v"], batch["next_observations"])[..., 0]
    target = batch["rewards"] + s["discount"] * (1.0 - batch["terminations"]) * next_value

    def q_loss(p: dict) -> tuple[jax.Array, jax.Array]:
        q = critics(p, pair)
        return jnp.square(q - target).mean(-1).sum(), q.mean()

    def v_loss(p: dict) -> tuple[jax.Array, jax.Array]:
        value = mlp(p, batch["observations"])[..., 0]
        advantage = target_q - value
        weight = jnp.where(advantage > 0, s["expectile"], 1.0 - s["expectile"])
        return (weight * jnp.square(advantage)).mean(), value.mean()

    rate = s["learning_rate"]
    (q_value, q_mean), gradients = jax.value_and_grad(q_loss, has_aux=True)(state["q"])
    q, q_moments = adam(state["q"], gradients, state["q_moments"], step, rate)
    (v_value, v_mean), gradients = jax.value_and_grad(v_loss, has_aux=True)(state["v"])
    v, v_moments = adam(state["v"], gradients, state["v_moments"], step, rate)

    advantage = target_q - mlp(v, batch["observations"])[..., 0]
    weight = jnp.minimum(jnp.exp(s["inverse_temperature"] * advantage), s["max_weight"])

    def actor_loss(p: dict) -> jax.Array:
        return -(weight * log_prob(p, batch["observations"], batch["actions"])).mean()

    schedule = 0.5 * (1.0 + jnp.cos(math.pi * state["step"] / s["total_updates"]))
    actor_value, gradients = jax.value_and_grad(actor_loss)(state["policy"])
    policy, policy_moments = adam(state["policy"], gradients, state["policy_moments"], step, rate * schedule)
    q_target = jax.tree.map(lambda ours, theirs: ours + s["polyak"] * (theirs - ours), state["q_target"], q)
    metrics = {
        **{"losses/q": q_value, "charts/q_mean": q_mean, "losses/v": v_value, "charts/v_mean": v_mean},
        **{"losses/actor": actor_value, "charts/advantage_mean": advantage.mean()},
        **{"charts/advantage_std": advantage.std(), "charts/weight_mean": weight.mean()},
        "charts/weight_clipped": (weight >= s["max_weight"]).mean(),
    }
    networks = {"q": q, "q_target": q_target, "v": v, "policy": policy}
    return {
        **{**networks, "q_moments": q_moments, "v_moments": v_moments, "policy_moments": policy_moments},
        "step": step,
    }, metrics


def compile_updates(
    data: dict, weights: dict, seeds: int, precision: str, batch_size: int, scan: int
) -> Callable[[int], float]:
    """Compile `scan` updates of `seeds` seeds; return a function that performs many and returns the seconds."""
    state = make_state({name: jnp.repeat(value, seeds, axis=0) for name, value in weights.items()})
    state["step"] = jnp.zeros(seeds)

    def updates(state: dict, key: jax.Array, data: dict) -> tuple[dict, jax.Array, dict]:
        key, mine = jax.random.split(key)
        indices = jax.random.randint(mine, (scan, seeds, batch_size), 0, len(data["rewards"]))

        def one(state: dict, index: jax.Array) -> tuple[dict, dict]:
            return jax.vmap(update)(state, {name: column[index] for name, column in data.items()})

        state, metrics = jax.lax.scan(one, state, indices)
        return state, key, metrics

    key = jax.random.key(0)
    with jax.default_matmul_precision(PRECISIONS[precision]):
        program = jax.jit(updates, donate_argnums=0).lower(state, key, data).compile()

    def turn(count: int) -> float:
        nonlocal state, key
        calls = -(-count // scan)
        started = time.perf_counter()
        for _ in range(calls):
            state, key, metrics = program(state, key, data)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - started) * count / (calls * scan)

    turn(scan)
    return turn


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--activations", nargs="+", default=["relu", "rational"])
    parser.add_argument("--num-seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--scan", type=int, default=50)
    arguments = parser.parse_args(argv)
    with np.load(arguments.data) as file:
        arrays = dict(file)
    data = {name: jnp.asarray(arrays[name]) for name in COLUMNS}

    def prepare(choice: tuple[str, int, str]) -> Callable[[int], float]:
        name, seeds, precision = choice
        start = f"{name}/"
        weights = {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}
        return compile_updates(data, weights, seeds, precision, arguments.batch_size, arguments.scan)

    choices = list(itertools.product(arguments.activations, arguments.num_seeds, arguments.precisions))
    with ThreadPoolExecutor(len(choices)) as pool:  # each compiles for seconds, mostly in C++
        turns = dict(zip(choices, pool.map(prepare, choices), strict=True))
    print(f"ready JAX {jax.__version__} on {jax.devices()[0].device_kind}", flush=True)
    for line in sys.stdin:
        name, seeds, precision, count = line.split()
        print(turns[name, int(seeds), precision](int(count)), flush=True)


if __name__ == "__main__":
    main()
