"""TorchRL beside rlrat, run by a Python that has torchrl. DATA is a file of `agent_speed.write_data`.

Networks, losses, optimizers and updates are those of TorchRL's own examples (sota-implementations/iql/iql_offline.py
and td3_bc/td3_bc.py) with the settings of these, which are rlrat's where both have them; --compile compiles the update,
as there. Batches come from its replay buffer in memory, without replacement.

What differs: IQL's gradients are all of one backward pass, before any network moves; the policy's standard deviation
depends on the state; learning rates are constant; TD3+BC's actor learns in even updates.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchrl
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.modules import MLP, ProbabilisticActor, TanhModule, TanhNormal, ValueOperator
from torchrl.objectives import IQLLoss, SoftUpdate, TD3BCLoss, group_optimizers

from peers import PEERS, answer, command_line, on_cores


def read_buffer(file: str, batch_size: int) -> TensorDictReplayBuffer:
    with np.load(file) as found:
        columns = {
            name: torch.from_numpy(found[name])
            for name in ("observations", "actions", "rewards", "next_observations", "terminations")
        }
    ends = columns["terminations"].bool().unsqueeze(-1)
    following = {"observation": columns["next_observations"], "reward": columns["rewards"].unsqueeze(-1)}
    data = TensorDict(
        {
            **{"observation": columns["observations"], "action": columns["actions"]},
            "next": {**following, "done": ends, "terminated": ends.clone()},
        },
        batch_size=[len(ends)],
    )
    sampler = SamplerWithoutReplacement(drop_last=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(data)), sampler=sampler, batch_size=batch_size)
    buffer.extend(data)
    return buffer


def network(inputs: int, outputs: int) -> MLP:
    return MLP(in_features=inputs, out_features=outputs, num_cells=[256, 256], activation_class=nn.ReLU)


def adam(parameters: TensorDict, **settings: float) -> torch.optim.Adam:
    return torch.optim.Adam(list(parameters.flatten_keys().values()), lr=3e-4, **settings)


def iql(observations: int, actions: int) -> Callable[[TensorDict, bool], TensorDict]:
    extractor = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=0.1)
    policy = nn.Sequential(network(observations, 2 * actions), extractor)
    actor = ProbabilisticActor(
        module=TensorDictModule(policy, in_keys=["observation"], out_keys=["loc", "scale"]),
        **{"in_keys": ["loc", "scale"], "spec": Bounded(-1.0, 1.0, (actions,)), "distribution_class": TanhNormal},
        distribution_kwargs={"low": -torch.ones(actions), "high": torch.ones(actions), "tanh_loc": False},
    )
    q = ValueOperator(network(observations + actions, 1), in_keys=["observation", "action"])
    v = ValueOperator(network(observations, 1), in_keys=["observation"])
    loss = IQLLoss(actor, q, value_network=v, loss_function="l2", temperature=3.0, expectile=0.7)
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, tau=0.005)
    trained = (loss.actor_network_params, loss.qvalue_network_params, loss.value_network_params)
    optimizer = group_optimizers(*map(adam, trained))

    def update(batch: TensorDict, actor_step: bool) -> TensorDict:
        optimizer.zero_grad(set_to_none=True)
        found = loss(batch)
        (found["loss_actor"] + found["loss_value"] + found["loss_qvalue"]).backward()
        optimizer.step()
        target.step()
        return found.detach()

    return update


def td3_bc(observations: int, actions: int) -> Callable[[TensorDict, bool], tuple[Tensor, Tensor | None]]:
    spec = Bounded(-1.0, 1.0, (actions,))
    actor = TensorDictSequential(
        TensorDictModule(network(observations, actions), in_keys=["observation"], out_keys=["param"]),
        TanhModule(in_keys=["param"], out_keys=["action"], spec=spec),
    )
    q = ValueOperator(network(observations + actions, 1), in_keys=["action", "observation"])
    noise = {"policy_noise": 0.2, "noise_clip": 0.5}
    loss = TD3BCLoss(actor, q, loss_function="l2", action_spec=spec, alpha=2.5, **noise)
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, eps=0.995)
    q_optimizer, actor_optimizer = (adam(p, eps=1e-4) for p in (loss.qvalue_network_params, loss.actor_network_params))

    def update(batch: TensorDict, actor_step: bool) -> tuple[Tensor, Tensor | None]:
        q_loss, _ = loss.qvalue_loss(batch)
        q_loss.backward()
        q_optimizer.step()
        q_optimizer.zero_grad(set_to_none=True)
        if not actor_step:
            return q_loss.detach(), None
        actor_loss, _ = loss.actor_loss(batch)
        actor_loss.backward()
        actor_optimizer.step()
        actor_optimizer.zero_grad(set_to_none=True)
        target.step()
        return q_loss.detach(), actor_loss.detach()

    return update


def make_updates(agent: str, file: str, batch_size: int, compile: bool) -> Callable[[int], int]:
    torch.manual_seed(0)
    buffer, number = read_buffer(file, batch_size), 0
    first = buffer[:1]
    update = {"iql": iql, "td3_bc": td3_bc}[agent](first["observation"].shape[-1], first["action"].shape[-1])
    if compile:
        update = torch.compile(update)

    def updates(count: int) -> int:
        nonlocal number
        for _ in range(count):
            update(buffer.sample(), number % 2 == 0)
            number += 1
        return count

    updates(2)  # of each kind, which may be compiled
    return updates


def main() -> None:
    parser = command_line(__doc__, PEERS["torchrl"].agents)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    with on_cores(arguments.threads):
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        updates = make_updates(arguments.agent, arguments.data, arguments.batch_size, arguments.compile)
        answer(f"TorchRL {torchrl.__version__}" + (", compiled" if arguments.compile else ""), updates)


if __name__ == "__main__":
    main()
