"""Time the way from a log of one's own to an exported and judged policy, with no environment; write a JSON file."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Arguments:
    """The log is the packaged medium dataset of Hopper, as flat arrays in an .npz that names no environment."""

    transitions: int = 100_000
    """At most, of whole episodes."""
    total_updates: int = 20_000
    """Of IQL with its defaults and rational activations."""
    fqe_updates: int | None = None
    """Of each fit, while training and of the judgement; their defaults if not given."""
    output: Path | None = None
    """Where to write the figures, such as docs/benchmarks/own_log.json."""


def write_log(path: Path, transitions: int) -> int:
    """Write the log; return how many transitions it has."""
    import numpy as np

    import rlrat

    dataset = rlrat.load_dataset("rlrat/hopper/medium-v0")
    ends = np.append(dataset.episode_starts[1:], len(dataset))
    rows = slice(0, int(ends[ends <= transitions].max()))
    last = np.isin(np.arange(rows.stop), ends - 1)
    arrays = {
        name: getattr(dataset, name)[rows] for name in ("observations", "actions", "rewards", "next_observations")
    }
    terminals = dataset.terminations[rows]
    np.savez(path, **arrays, terminals=terminals, timeouts=last & ~terminals)
    return rows.stop


def measure(arguments: Arguments, folder: Path) -> dict:
    """Do what docs/own_data.md says, each command in a process of its own; return the seconds."""
    transitions = write_log(folder / "my_log.npz", arguments.transitions)
    run = "runs/my_log/iql/rational/seed0"
    judged = [] if arguments.fqe_updates is None else ["--fqe-updates", str(arguments.fqe_updates)]
    train = ["iql", "--dataset", "my_log.npz", "--env-id", "none", "--activation", "rational"]
    commands = {
        "train": [*train, "--total-updates", str(arguments.total_updates), *judged],
        "judge": ["judge", run, *judged],
        "export": ["export", run, "--format", "onnx"],
        "card": ["card", run],
    }
    seconds = {}
    for name, command in commands.items():
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "rlrat.cli", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        seconds[name] = round(time.perf_counter() - started, 1)
        if done.returncode:
            raise SystemExit(f"rlrat {' '.join(command)} ended with exit code {done.returncode}: {done.stderr}")
        print(f"rlrat {' '.join(command)}: {seconds[name]} s\n{done.stdout}", flush=True)
    return {
        "transitions": transitions,
        "settings": {name: str(value) for name, value in vars(arguments).items() if name != "output"},
        "commands": {name: "rlrat " + " ".join(command) for name, command in commands.items()},
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 1),
    }


def main(arguments: Arguments) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    print(f"{found['total_seconds']} s from the log to a judged and exported policy")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
