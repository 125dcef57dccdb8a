"""orlax beside rlrat, run by a Python that has orlax, jax, flax, optax, distrax, tqdm and wandb.

orlax 0.2.0 asks for jax-metal, which only a Mac has: `pip install --no-deps orlax==0.2.0` beside the others. DATA is a
file of `agent_speed.write_data`. A turn is the loop of orlax's own runner: a batch of its ReplayBuffer, which gathers
in NumPy and copies to the device, then the compiled `update`, each with a key of its own.

Hidden layers, batch, critics and learning rates are rlrat's. What differs: IQL's actor is pulled to the data's actions
by weighted squares instead of a likelihood, its order is V, Q, actor, and its learning rate is constant; both agents'
policies have a second output of log standard deviations, which nothing trains.
"""

from collections.abc import Callable

import jax
import numpy as np
from orlax import ALGORITHMS, AlgoCfg, ModelCfg, ReplayBuffer, TrainingCfg, __version__

from peers import PEERS, answer, command_line, on_cores


def make_updates(agent: str, file: str, batch_size: int) -> Callable[[int], int]:
    with np.load(file) as found:
        data = {name: found[name] for name in ("observations", "actions", "rewards", "next_observations")}
        data["dones"] = found["terminations"]
    buffer = ReplayBuffer(capacity=len(data["rewards"]))
    buffer.load_dataset(data)
    training = TrainingCfg(algo=agent, env_name="", batch_size=batch_size)
    sizes = (data[name].shape[-1] for name in ("observations", "actions"))
    algorithm = ALGORITHMS[agent](*sizes, training, ModelCfg(hidden_dims=(256, 256)), AlgoCfg())
    key, mine = jax.random.split(jax.random.PRNGKey(0))
    state = algorithm.init(mine)

    def updates(count: int) -> int:
        nonlocal state, key
        for _ in range(count):
            key, batch_key = jax.random.split(key)
            batch = buffer.sample(batch_size, batch_key)
            key, update_key = jax.random.split(key)
            state, metrics = algorithm.update(state, batch, update_key)
        jax.block_until_ready((state, metrics))
        return count

    return updates


def main() -> None:
    arguments = command_line(__doc__, PEERS["orlax"].agents).parse_args()
    with on_cores(arguments.threads):
        updates = make_updates(arguments.agent, arguments.data, arguments.batch_size)
        answer(f"orlax {__version__}", updates)


if __name__ == "__main__":
    main()
