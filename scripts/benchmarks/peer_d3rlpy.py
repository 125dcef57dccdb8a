"""d3rlpy beside rlrat, run by a Python that has d3rlpy, h5py, filelock and rich; rlrat is found in PYTHONPATH.

`speed` reads a number of updates from each line of standard input, performs them as d3rlpy's own `fit` does, sampling
included, and prints the wall's and the processor's seconds: a peer of `benchmark.py agents`. `train` trains, evaluates
as rlrat's agents do, and leaves run folders for `scripts/compare.py`; rlrat's equal settings are

    agents/td3_bc.py --initialization pytorch --observation-floor 1e-3
    agents/iql.py --policy tanh_gaussian --actor-schedule constant --initialization pytorch --observation-floor 1e-3
    agents/rebrac.py --initialization pytorch       # and --batch-size 1024 here
    agents/awac.py                                  # whose weights d3rlpy divides by their sum
"""

import argparse
import time
from pathlib import Path

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos.utility import build_scalers_with_trajectory_slicer, build_scalers_with_transition_picker
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler

from peers import PEERED, answer, on_cores
from rlrat import load_dataset
from rlrat.evaluation.evaluator import Evaluator
from rlrat.runs.folder import RunFolder

DATASET = "rlrat/hopper/mixed-v0"


def make_algorithm(agent: str, batch_size: int):
    """d3rlpy's agent with hidden layers 256 and 256 and ReLU; ReBRAC and AWAC have three, as ours.

    Decision Transformer has d3rlpy's defaults, which are CORL's sizes.
    """
    encoder = VectorEncoderFactory([256, 256])
    settings = {"batch_size": batch_size, "observation_scaler": StandardObservationScaler()}
    if agent == "decision_transformer":
        config = d3rlpy.algos.DecisionTransformerConfig(
            **settings,
            context_size=20,
            encoder_factory=VectorEncoderFactory([128], exclude_last_activation=True),
            activation_type="gelu",
            max_timestep=1000,
        )
        return config.create(device="cpu")
    settings |= {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    if agent == "iql":
        scaler = ReturnBasedRewardScaler(multiplier=1000.0)
        config = d3rlpy.algos.IQLConfig(**settings, value_encoder_factory=encoder, reward_scaler=scaler)
    elif agent == "td3_bc":
        config = d3rlpy.algos.TD3PlusBCConfig(**settings)
    elif agent == "cql":
        config = d3rlpy.algos.CQLConfig(**settings, alpha_learning_rate=0.0)  # no Lagrange multiplier, as CORL
    elif agent == "rebrac":
        deep, normalized = (VectorEncoderFactory([256, 256, 256], use_layer_norm=norm) for norm in (False, True))
        settings |= {"actor_encoder_factory": deep, "critic_encoder_factory": normalized, "observation_scaler": None}
        config = d3rlpy.algos.ReBRACConfig(**settings, actor_beta=0.01, critic_beta=0.01)
    elif agent == "awac":
        deep = VectorEncoderFactory([256, 256, 256])
        settings |= {"actor_encoder_factory": deep, "critic_encoder_factory": deep}
        config = d3rlpy.algos.AWACConfig(**settings, lam=0.3333)
    else:
        raise ValueError(f"make_algorithm does not say how d3rlpy's {agent} is made")
    return config.create(device="cpu")


def make_dataset(dataset) -> d3rlpy.dataset.MDPDataset:
    fields = (dataset.observations, dataset.actions, dataset.rewards, dataset.terminations, dataset.truncations)
    observations, actions, rewards, terminations, truncations = (np.array(field) for field in fields)
    return d3rlpy.dataset.MDPDataset(
        observations, actions, rewards[:, None], terminations.astype(np.float32), truncations.astype(np.float32)
    )


class Trainer:
    """One agent of d3rlpy on the packaged Hopper data."""

    def __init__(self, agent: str, batch_size: int, seed: int) -> None:
        d3rlpy.seed(seed)
        self.data = load_dataset(DATASET)
        self.transitions = make_dataset(self.data)
        self.algorithm = make_algorithm(agent, batch_size)
        self.batch_size, self.sequences = batch_size, agent == "decision_transformer"
        build = build_scalers_with_trajectory_slicer if self.sequences else build_scalers_with_transition_picker
        build(self.algorithm, self.transitions)  # which `fit` would do
        self.algorithm.build_with_dataset(self.transitions)

    def update(self) -> None:
        if self.sequences:
            batch = self.transitions.sample_trajectory_batch(self.batch_size, length=20)
        else:
            batch = self.transitions.sample_transition_batch(self.batch_size)
        self.algorithm.update(batch)


def speed(agent: str, threads: int, batch_size: int) -> None:
    torch.set_num_threads(threads)
    trainer = Trainer(agent, batch_size, seed=0)

    def updates(count: int) -> int:
        for _ in range(count):
            trainer.update()
        return count

    answer(f"d3rlpy {d3rlpy.__version__}", updates)


def train(
    agent: str, batch_size: int, seeds: list[int], updates: int, every: int, episodes: int, threads: int, run_dir: Path
) -> None:
    torch.set_num_threads(threads)
    for seed in seeds:
        trainer = Trainer(agent, batch_size, seed)
        folder = RunFolder(run_dir / DATASET.replace("/", "-") / agent / "d3rlpy" / f"seed{seed}")
        config = {"seed": seed, "identity": {}, "versions": {"d3rlpy": d3rlpy.__version__}}
        config["dataset"] = {"id": DATASET, "return_mean": float(trainer.data.episode_returns.mean())}
        folder.delete()
        folder.create(config)

        def act(observations: np.ndarray, algorithm=trainer.algorithm) -> np.ndarray:
            return algorithm.predict(observations[0].astype(np.float32))[None]

        train_seconds, began = 0.0, time.perf_counter()
        with Evaluator(trainer.data.env_id, seed, episodes, num_threads=threads) as evaluator:
            for update in range(0, updates + 1, every):
                result = evaluator.run(act)
                row = {
                    "update": update,
                    "train_seconds": f"{train_seconds:.3f}",
                    "wall_seconds": f"{time.perf_counter() - began:.3f}",
                    "episodes": episodes,
                    "return_mean": float(result.return_mean[0]),
                    "return_std": float(result.return_std[0]),
                    "length_mean": float(result.length_mean[0]),
                }
                folder.append_evaluation([row], [])
                print(agent, seed, update, f"{row['return_mean']:.1f}", flush=True)
                started = time.perf_counter()
                for _ in range(every if update < updates else 0):
                    trainer.update()
                train_seconds += time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "train"))
    parser.add_argument("agent", choices=PEERED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="train only, as all that follow")
    parser.add_argument("--updates", type=int, default=30_000)
    parser.add_argument("--eval-every", type=int, default=2500)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--run-dir", type=Path, default=Path("runs"))
    args = parser.parse_args()
    if args.what == "train" and args.agent == "decision_transformer":
        parser.error("d3rlpy's Decision Transformer is only timed here: give another agent")
    if args.what == "speed":
        with on_cores(args.threads):
            speed(args.agent, args.threads, args.batch_size)
    else:
        run = args.seeds, args.updates, args.eval_every, args.episodes, args.threads, args.run_dir
        train(args.agent, args.batch_size, *run)
