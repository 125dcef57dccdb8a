"""Run folders as agents leave them, written in no time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADER = (
    "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score\n"
)
SUCCESS_REFERENCE = {
    "name": "success",
    "env_id": "AntMaze_UMaze-v5",
    "random": 0.0,
    "expert": 1.0,
    "measure": "success",
}
REFERENCE = {"name": "v5-test", "env_id": "Hopper-v5", "random": 0.0, "expert": 2000.0, "source": "", "date": ""}
RISING = np.array([0.0, 10, 20, 30, 40, 50, 50, 50, 50, 50])


def line(update: int, value: float, score: float | str, target: str = "") -> str:
    return f"{update},{update / 10:.3f},{update / 5:.3f},{target},10,{value},1.0,100.0,{score}\n"


def write_run(
    root: Path,
    values: Sequence[float],
    seed: int = 0,
    *,
    agent: str = "iql",
    dataset: str = "rlrat/hopper/mixed-v0",
    activation: str = "relu",
    name: str = "",
    every: int = 10,
    status: str | None = "finished",
    reference: dict[str, Any] | None = REFERENCE,
    config: dict[str, Any] | None = None,
    successes: Sequence[float | str] | None = None,
    **identity: Any,
) -> Path:
    """A run whose scores are `values` and whose returns are twenty times them, evaluated each `every` updates.

    With `successes` it has a column of success rates, which older runs do not have.
    `identity` goes into the configuration's identity, `config` into its top level.
    """
    variant = activation.replace(":", "-") + (f"+{name}" if name else "")
    folder = root / dataset.replace("/", "-") / agent / variant / f"seed{seed}"
    folder.mkdir(parents=True)
    content = {
        "agent": agent,
        "seed": seed,
        "identity": {"dataset": dataset, "agent": agent, "activation": activation, "eval_episodes": 10, **identity},
        "arguments": {"num_seeds": 5, "num_threads": 1},
        "dataset": {"id": dataset, "return_mean": 500.0},
        "reference": reference,
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        **(config or {}),
    }
    (folder / "config.json").write_text(json.dumps(content))
    lines = [line(place * every, 20 * value, "" if reference is None else value) for place, value in enumerate(values)]
    header = HEADER
    if successes is not None:
        added = ["success_rate", *successes]
        header, *lines = (f"{line.rstrip()},{cell}\n" for line, cell in zip([HEADER, *lines], added, strict=True))
    (folder / "evaluations.csv").write_text(header + "".join(lines))
    if status is not None:
        (folder / "summary.json").write_text(json.dumps({"status": status}))
    return folder


def write_goal_seeds(root: Path, rates: np.ndarray, seeds: int = 5, scatter: float = 0.01, **settings) -> None:
    """Runs of one label that reach a goal in `rates` of their episodes, give or take; returns of -100 (1 - rate)."""
    for seed in range(seeds):
        own = (rates + scatter * (seed - (seeds - 1) / 2)).clip(0, 1).round(6)
        about = {"reference": None, **settings, "successes": own.tolist()}
        folder = write_run(root, (5 * (own - 1)).tolist(), seed, **about)
        if about["reference"] is not None:  # as a run writes it
            _, *lines = (folder / "evaluations.csv").read_text().splitlines()
            cells = [line.split(",") for line in lines]
            rows = [",".join([*line[:-2], f"{100 * float(line[-1]):.6g}", line[-1]]) for line in cells]
            (folder / "evaluations.csv").write_text("\n".join([f"{HEADER.rstrip()},success_rate", *rows, ""]))


def write_metrics(folder: Path, every: int, **columns: Sequence[float | str]) -> Path:
    """A run's `metrics.csv` with a line each `every` updates, as `losses_q=[...]` says under `losses/q`."""
    names = [name.replace("_", "/", 1) for name in columns]
    rows = [
        ",".join(map(str, (every * (place + 1), *row))) for place, row in enumerate(zip(*columns.values(), strict=True))
    ]
    (folder / "metrics.csv").write_text("\n".join([",".join(["update", *names]), *rows]) + "\n")
    return folder


def write_seeds(root: Path, values: np.ndarray = RISING, seeds: int = 5, scatter: float = 1.0, **settings) -> None:
    """Runs of one label, whose values lie up to half of `scatter` above and below."""
    for seed in range(seeds):
        write_run(root, values + scatter * (seed - (seeds - 1) / 2) / seeds, seed, **settings)


def write_offline(
    root: Path,
    values: Sequence[float | str] | None,
    seed: int = 0,
    *,
    every: int = 10,
    data_value: float = 40.0,
    columns: dict[str, Sequence[float | str]] | None = None,
    **run: Any,
) -> Path:
    """A run without an environment, with estimated values (none of a Decision Transformer's) and held-out losses."""
    columns = {
        **({} if values is None else {"fqe_value": values, "data_value": [data_value] * len(values)}),
        **(columns or {"losses/actor": [3.0 - place / 4 for place in range(6 if values is None else len(values))]}),
    }
    count = len(next(iter(columns.values())))
    folder = write_run(root, [0.0] * count, seed, every=every, reference=None, env_id=None, holdout=0.1, **run)
    times = [f"{place * every},{place * every / 10:.3f},{place * every / 5:.3f}" for place in range(count)]
    (folder / "evaluations.csv").write_text(HEADER + "".join(f"{time},,0,,,,\n" for time in times))
    rows = [",".join(map(str, (place * every, *row))) for place, row in enumerate(zip(*columns.values(), strict=True))]
    (folder / "offline.csv").write_text("\n".join([",".join(["update", *columns]), *rows]) + "\n")
    return folder


def write_offline_seeds(root: Path, values: np.ndarray = RISING, seeds: int = 5, **run: Any) -> None:
    """Runs of one label, whose estimated values lie up to half of 1 above and below."""
    for seed in range(seeds):
        write_offline(root, values + (seed - (seeds - 1) / 2) / seeds, seed, **run)


def write_episodes(folder: Path, returns: Sequence[Sequence[float]], every: int = 10, target: str = "") -> None:
    """A run's `episodes.csv`, of an evaluation each `every` updates, and its curve of their means."""
    rows = [
        f"{place * every},{target},{episode},{episode},{value},100\n"
        for place, evaluation in enumerate(returns)
        for episode, value in enumerate(evaluation)
    ]
    (folder / "episodes.csv").write_text("update,target_return,episode,reset_seed,return,length\n" + "".join(rows))
