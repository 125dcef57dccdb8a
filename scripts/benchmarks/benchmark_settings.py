"""The settings of each benchmark, by the subcommands of `benchmark.py`, which answers --help with them before torch."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peers import PEERED


@dataclass
class Agents:
    """Updates of each agent per second, and per second of the processor, sampling included, beside other libraries'."""

    peer: tuple[str, ...] = ()
    """NAME=PYTHON of each peer: d3rlpy, jax, orlax or torchrl, and a Python that has it (see peer_NAME.py)."""
    agents: tuple[str, ...] = PEERED
    """Which agents; bc has no peer, and only d3rlpy has more than iql and td3_bc."""
    activations: tuple[str, ...] = ()
    """What to measure, the first beside the peers: by default relu (Decision Transformer: gelu), and a rational that
    starts as it."""
    num_seeds: tuple[int, ...] = (1,)
    """Seeds side by side; the peers have one."""
    compile: bool = False
    """Measure each contender of rlrat compiled, too (after the seconds that this takes), and TorchRL."""
    rounds: int = 11
    """Each contender has one turn a round, the first not counted; the median counts."""
    seconds: float = 1.0
    """About how long a turn lasts."""
    threads: tuple[int, ...] = (2,)
    """CPU threads of each contender, and cores that it is kept on; each number is a rotation of its own."""
    device: str = "cpu"
    """Of rlrat: cpu, cuda, ...; the peers stay on the CPU."""


@dataclass
class Load:
    """Seconds to load episodes from a Minari dataset, cold (no cache) and warm, from arrays and from an .npz file."""

    episodes: int = 1000
    """Episodes with Hopper's shapes, observations in float64."""
    steps: int = 1000
    """Steps of each episode."""


@dataclass
class Startup:
    """Seconds until Python, `import rlrat`, every command's --help and `import torch` are done, in turns."""

    rounds: int = 7
    """Each command is timed this often, in turns; the median counts."""


@dataclass
class Evaluate:
    """Environment steps per second of `rlrat.evaluate` beside Gymnasium's SyncVectorEnv: random actions, a policy.

    Checks that returns, lengths and successes equal those of a plain loop bit for bit.
    """

    env_ids: tuple[str, ...] = ("Hopper-v5",)
    """Environments that are stepped natively; no episode ends before its last step."""
    environments: int = 20
    """Stepped side by side."""
    steps: int = 1000
    """Steps of each environment in a turn, at most its time limit."""
    rounds: int = 5
    """Each contender has one turn a round; the median counts."""
    threads: int = 2
    """Threads of rlrat, and of PyTorch."""
    network: bool = True
    """Also with a policy of 256 x 256."""


@dataclass
class Growth:
    """Updates per second of IQL against seeds, width, batch and dataset; memory; logging's share of a run's time.

    Writes growth.json and growth.png. Given again after an interruption, it measures only what is still missing.
    """

    output: Path = Path(__file__).parents[2] / "docs" / "benchmarks"
    """Folder of the results."""
    num_seeds: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Seeds side by side; compiled, of this and the next two only the first and the last, as compiling takes long."""
    hidden_dims: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Widths of both hidden layers."""
    batch_size: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    """Transitions per seed and update."""
    transitions: tuple[int, ...] = (100_000, 1_000_000, 10_000_000, 100_000_000)
    """Of synthetic datasets with Hopper's shapes, 106 bytes each on the disk."""
    run_updates: int = 10_000
    """Of the run that is timed as a whole; 10,000 are one of the paper's intervals."""
    compile: bool = True
    """Measure compiled updates, too."""
    folder: Path | None = None
    """Where the datasets lie meanwhile; by default where temporary files go."""
    seconds: float = 0.4
    """About how long a turn lasts; each point has three, the median counts."""
    threads: int = 2
    """CPU threads."""
    device: str = "cpu"
    """cpu, cuda, ..."""


@dataclass
class Rational:
    """A rational activation, version A, degrees (5, 4), beside PyTorch's activations.

    On a CPU, microseconds of a call: dispatch included; inputs are random and taken in turn from more memory than the
    caches hold. On a GPU, bandwidths, ratios and what was aimed at. The package rational-activations is measured where
    it is installed.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    """With cuda only `output` and `tune` count."""
    elements: int = 65_536
    """Of a call, in rows of 256."""
    large: int = 2**24
    """Elements of the forward pass into an output that exists."""
    rounds: int = 9
    """Each contender has one turn a round; the median counts."""
    calls: int = 100
    """Calls in a turn."""
    threads: int = 1
    """CPU threads."""
    output: Path | None = None
    """On a GPU: a folder for rational_gpu.json."""
    tune: bool = False
    """On a GPU: at last find the fastest tiles, a minute or two, and measure bandwidths with them."""


@dataclass
class Table:
    """Every cell of the paper's table for a share of its updates, in runs of the agents as users start them.

    The data is random, of the real sets' shapes and size, and no episode ends before its 1000 steps: as many are
    evaluated as trained policies would take.
    """

    share: float = 0.1
    """Of the 300,000 updates."""
    agents: tuple[str, ...] = ("iql", "td3_bc")
    env_ids: tuple[str, ...] = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    activations: tuple[str, ...] = ("relu", "silu", "gelu", "rational")
    num_seeds: int = 5
    """Side by side in each process."""
    eval_every: int = 10_000
    eval_episodes: int = 20
    transitions: int = 1_000_000
    processes: int = 1
    """Cells that run at once."""
    device: str = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    capture: bool = True


@dataclass
class Threads:
    """Milliseconds of an update of IQL by its size and the number of CPU threads, and how many a run would take."""

    sizes: tuple[tuple[int, int, int], ...] = (
        *((1, 32, 32), (1, 64, 256), (1, 256, 64), (1, 128, 256), (5, 64, 256)),
        *((1, 256, 256), (2, 256, 256), (5, 256, 256), (1, 1024, 256), (16, 256, 256)),
    )
    """Seeds, width of both hidden layers, and batch size."""
    threads: tuple[int, ...] = field(
        default_factory=lambda: tuple(2**power for power in range((os.cpu_count() or 1).bit_length()))
    )
    """Numbers of threads; by default the powers of two up to the cores."""
    activation: str = "relu"
    """Of all networks."""
    seconds: float = 0.15
    """About how long a turn lasts."""
    rounds: int = 7
    """Each number of threads has one turn a round; the median counts."""


@dataclass
class Shared:
    """Updates/s of each of several runs at once on this machine's cores, with as many threads as a run takes."""

    counts: tuple[int, ...] = (1, 2, 4)
    """How many runs at once."""
    builds: tuple[Path, ...] = ()
    """Other clones, whose kernels are built, that take turns with this one."""
    agent: str = "iql"
    activation: str = "relu"
    compile: bool = True
    options: tuple[str, ...] = ()
    """More of each run's command line."""
    startup: float = 300.0
    """Seconds in which all runs must have begun to train."""
    settle: float = 6.0
    """Seconds of training before those that count."""
    seconds: float = 8.0
    """How long updates are counted, at least."""
    rounds: int = 1
