"""d3rlpy's IQL for `scripts/benchmark.py iql`, run by a Python that has d3rlpy and not necessarily rlrat.

Reads a number of updates from each line of standard input, performs them as d3rlpy's own `fit` does, sampling included,
and prints the seconds.
"""

import sys
import time

import d3rlpy
import numpy as np
import torch


def main(transitions: str, threads: int, batch_size: int) -> None:
    torch.set_num_threads(threads)
    d3rlpy.seed(0)
    arrays = np.load(transitions)
    dataset = d3rlpy.dataset.MDPDataset(
        arrays["observations"], arrays["actions"], arrays["rewards"], arrays["terminations"], arrays["truncations"]
    )
    algorithm = d3rlpy.algos.IQLConfig(batch_size=batch_size).create(device="cpu")  # hidden layers 256 and 256, ReLU
    algorithm.build_with_dataset(dataset)
    print(f"ready d3rlpy {d3rlpy.__version__}", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            algorithm.update(dataset.sample_transition_batch(batch_size))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
