"""Measure the v5 reference returns and write them to rlrat/evaluation/reference_scores.json.

The return of a uniform-random policy is measured here; the expert's is quoted from the model card of the policy behind
Minari's expert dataset. A new measurement gets a new name (v5-<year>.<month>): scores compare within one name only.

    python scripts/benchmarks/reference_scores.py
"""

import json
import platform
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

import rlrat
from rlrat.errors import InputError, one_line_errors
from rlrat.evaluation.evaluator import Evaluator
from rlrat.runs.arguments import read_command_line

CARDS = "https://huggingface.co/farama-minari/"
EXPERTS = {  # mean and standard deviation of the return, model card
    "HalfCheetah-v5": (17641.80, 61.88, CARDS + "HalfCheetah-v5-TQC-expert"),
    "Hopper-v5": (4098.17, 247.70, CARDS + "Hopper-v5-SAC-expert"),
    "Walker2d-v5": (6956.61, 15.95, CARDS + "Walker2d-v5-SAC-expert"),
}
EPISODES_PER_SEED = 50
OUTPUT = Path(rlrat.__file__).parent / "evaluation" / "reference_scores.json"


@dataclass
class Arguments:
    episodes: int = 1000
    """Random episodes per environment, a multiple of 50."""
    num_threads: int | None = None
    """Threads that step the environments; all cores by default."""
    output: Path = OUTPUT
    """The file to write."""


def measure_random(env_id: str, num_seeds: int, num_threads: int | None = None) -> dict[str, float]:
    """Returns of actions drawn uniformly between the bounds, EPISODES_PER_SEED episodes for each of seeds 0, 1, ..."""
    returns, lengths = [], []
    for seed in range(num_seeds):
        with Evaluator(env_id, seed, EPISODES_PER_SEED, num_threads=num_threads) as evaluator:
            space, random = evaluator.action_space, np.random.default_rng(seed)
            result = evaluator.run(lambda o, s=space, r=random: r.uniform(s.low, s.high, (*o.shape[:2], *s.shape)))
        returns.append(result.returns)
        lengths.append(result.lengths)
    return {
        "return_mean": round(float(np.mean(returns)), 6),
        "return_std": round(float(np.std(returns)), 6),
        "length_mean": round(float(np.mean(lengths)), 6),
        "episodes": np.size(returns),
    }


def main(arguments: Arguments) -> None:
    episodes, output = arguments.episodes, arguments.output
    num_seeds, rest = divmod(episodes, EPISODES_PER_SEED)
    if rest or num_seeds < 1:
        raise InputError(f"--episodes {episodes}: choose a multiple of {EPISODES_PER_SEED}")
    environments = {}
    for env_id, (mean, std, source) in EXPERTS.items():
        random = measure_random(env_id, num_seeds, arguments.num_threads)
        environments[env_id] = {
            "random": random,
            "expert": {"return_mean": mean, "return_std": std, "source": source},
        }
        print(f"{env_id}: random {random['return_mean']:.3f} +- {random['return_std']:.3f} over {episodes} episodes")
    today = date.today()
    table = {
        "name": f"v5-{today:%Y.%m}",
        "date": today.isoformat(),
        "random_source": f"scripts/benchmarks/reference_scores.py, {episodes} episodes of uniform-random actions, "
        f"seeds 0 to {num_seeds - 1}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("gymnasium", "mujoco", "numpy")},
        },
        "environments": environments,
    }
    output.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    with one_line_errors():
        main(read_command_line(Arguments, __doc__))
