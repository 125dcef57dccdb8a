"""Fit targets with equal-parameter MLPs of every activation, and say which differences are more than chance.

    python scripts/benchmarks/difference.py

What a run has finished is kept in difference.json, so that it can be stopped and started again.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlrat.errors import InputError, one_line_errors
from rlrat.networks.activations import check_activation, make_activation, names
from rlrat.networks.layers import MLP, initialize
from rlrat.runs.files import replace
from rlrat.updates import Adam, SeedGuard, Stream
from targets import TARGETS

_FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
_BLOCK = 100  # updates whose points are drawn at once
NORMS = ("rms", "max")
_KINDS = ("starts", "rates", "cells")


@dataclass(frozen=True)
class Study:
    """What is fitted, and how."""

    targets: tuple[str, ...] = tuple(TARGETS)
    widths: tuple[int, ...] = (8, 16, 32)
    """Of both hidden layers, without trained activations; rates are chosen at the middle one."""
    seeds: int = 20
    updates: int = 1500
    batch: int = 128
    """Points of an update, drawn anew in each."""
    every: int = 125
    """Updates between two looks at the held-out grid."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """The first of Adam, which falls to 0 by a cosine."""
    rate_seeds: int = 3
    """Other seeds, on which each activation's rate is chosen for each target."""
    starts: int = 3
    """How many rational:<name> are compared, those that do best on `rate_seeds` in a quarter of the updates."""


QUICK = Study(targets=("kinks", "control"), widths=(8, 16), seeds=5, updates=200, every=50, rate_seeds=2, starts=1)


def starts() -> tuple[str, ...]:
    """List every rational:<name>, but for rational:relu, which is `rational`."""
    found = []
    for name in names():
        try:
            check_activation(f"rational:{name}")
        except InputError:
            continue
        found.append(f"rational:{name}")
    return tuple(name for name in found if name != "rational:relu")


# ---- one cell: an activation on a target


def hidden_dims(inputs: int, width: int, activation: str) -> tuple[tuple[int, int], int]:
    """Choose two hidden widths so that all parameters, the activations' too, are as many as a fixed one's with `width`.

    Return them and the number of parameters.
    """
    extra = 2 * sum(parameter.numel() for parameter in make_activation(activation, features=width).parameters())

    def count(first: int, second: int) -> int:
        return (inputs + 1) * first + (first + 1) * second + second + 1

    pairs = [(a, b) for a in range(1, width + 1) for b in range(1, width + 1) if abs(a - b) <= 1]
    dims = min(pairs, key=lambda pair: (abs(count(*pair) + extra - count(width, width)), abs(pair[0] - pair[1])))
    return dims, count(*dims) + extra


@functools.lru_cache(maxsize=1)
def draw_points(target: str, seeds: tuple[int, ...], study: Study) -> tuple[Tensor, Tensor]:
    """Draw every update's points `[updates, S, batch, inputs]` and their values, the same for each activation."""
    stream, function = Stream(seeds, f"points of {target}"), TARGETS[target]
    blocks = (range(start, min(start + _BLOCK, study.updates)) for start in range(0, study.updates, _BLOCK))
    x = torch.cat([stream.uniform(block, (study.batch, function.inputs), signed=True) for block in blocks])
    return x, torch.cat([function.standardized(part) for part in x.split(_BLOCK)])


def fit(
    target: str, activation: str, width: int, seeds: Sequence[int], rates: Sequence[float], study: Study
) -> tuple[np.ndarray, int]:
    """Train a network for each seed, each with its rate, and return correct digits and how many seeds diverged.

    The digits `[looks, 2, S]` are -log10 of the error's root mean square, and of its maximum, on the held-out grid;
    the target's standard deviation there is 1. A seed that diverges stays as it was before.
    """
    function = TARGETS[target]
    dims, _ = hidden_dims(function.inputs, width, activation)
    network = MLP(function.inputs, dims, 1, batch_shape=(len(seeds),), activation=activation)
    initialize(network, seeds, "fit", "pytorch")
    guard = SeedGuard(len(seeds))
    optimizer = Adam(network, rates, guard=guard, name="fit", cosine_updates=study.updates)
    grid = function.grid().float()
    there, expected = grid.expand(len(seeds), -1, -1), function.standardized(grid)

    @torch.no_grad()
    def look() -> Tensor:
        error = (network(there).squeeze(-1) - expected).double()
        return torch.stack([error.square().mean(-1).sqrt(), error.abs().amax(-1)])

    x, y = draw_points(target, tuple(seeds), study)
    looks = [look()]
    for update in range(study.updates):
        guard.update += 1
        optimizer.step((network(x[update]).squeeze(-1) - y[update]).square().mean(-1))
        if (update + 1) % study.every == 0:
            looks.append(look())
    return -torch.stack(looks).log10().numpy(), int((~guard.alive).sum())


def choose_rate(target: str, activation: str, study: Study) -> dict:
    """Try every rate on seeds of their own, at the middle width; `digits` are the means of the last look."""
    width = study.widths[len(study.widths) // 2]
    seeds = [*range(study.seeds, study.seeds + study.rate_seeds)] * len(study.rates)
    digits, _ = fit(target, activation, width, seeds, np.repeat(study.rates, study.rate_seeds), study)
    means = np.nan_to_num(digits[-1, 0], nan=-np.inf).reshape(len(study.rates), -1).mean(1)
    rate = study.rates[int(means.argmax())]
    return {"target": target, "activation": activation, "rate": rate, "digits": [_number(mean) for mean in means]}


def measure(target: str, activation: str, width: int, rate: float, study: Study) -> dict:
    """Fit with every seed. `final` is the last look's digits, `area` their mean over training, `curve` over seeds."""
    began = time.process_time()
    digits, diverged = fit(target, activation, width, range(study.seeds), [rate] * study.seeds, study)
    area = (digits[1:] + digits[:-1]).mean(0) / 2
    dims, parameters = hidden_dims(TARGETS[target].inputs, width, activation)
    cell = {"target": target, "activation": activation, "width": width, "dims": dims, "parameters": parameters}
    cell |= {"rate": rate, "seconds": round(time.process_time() - began, 2), "diverged": diverged}
    for name, values in {"final": digits[-1], "area": area, "curve": digits.mean(2).T}.items():
        cell[name] = {norm: [_number(v) for v in row] for norm, row in zip(NORMS, values, strict=True)}
    return cell


def _number(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


# ---- all of them


def run(study: Study, file: Path) -> dict:
    """Measure what `file` does not have yet, target by target."""
    told = json.loads(json.dumps(dataclasses.asdict(study)))
    found = json.loads(file.read_text()) if file.exists() else {"study": told, "starts": [], "rates": [], "cells": []}
    if found["study"] != told:
        raise InputError(f"{file} is of another study, {found['study']}: give another --output")
    for kind, compute in _work(study, found):
        found[kind].append(compute())
        replace(file, _text(found).encode())
    return found


def _text(found: dict) -> str:
    """Write JSON with an entry a line."""
    lists = [f' "{kind}": [\n' + ",\n".join(map(json.dumps, found[kind])) + "\n ]" for kind in _KINDS]
    return ",\n".join([f'{{\n "study": {json.dumps(found["study"])}', *lists]) + "\n}\n"


def _work(study: Study, found: dict) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield what is missing; the results before must be in `found` when the next is asked for."""
    known = {(kind, e["target"], e["activation"], e.get("width")): e for kind in _KINDS for e in found[kind]}
    short = dataclasses.replace(study, updates=study.updates // 4)
    for target, name in itertools.product(study.targets, starts()):
        if ("starts", target, name, None) not in known:
            yield "starts", functools.partial(choose_rate, target, name, short)
    compared = (*names(), *best_starts(study, found))
    for target in study.targets:
        for name in compared:
            if ("rates", target, name, None) not in known:
                yield "rates", functools.partial(choose_rate, target, name, study)
        rates = {(e["target"], e["activation"]): e["rate"] for e in found["rates"]}
        for width, name in itertools.product(study.widths, compared):
            if ("cells", target, name, width) not in known:
                yield "cells", functools.partial(measure, target, name, width, rates[target, name], study)


def best_starts(study: Study, found: dict) -> tuple[str, ...]:
    """Name the rational:<name> with the most digits at their best rates, mean over targets."""

    def digits(name: str) -> float:
        return sum(max(d for d in e["digits"] if d is not None) for e in found["starts"] if e["activation"] == name)

    return tuple(sorted(starts(), key=digits, reverse=True)[: study.starts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two targets, two widths, five seeds, 200 updates")
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks, with --quick the current folder")
    chosen = parser.parse_args()
    folder = chosen.output or (Path() if chosen.quick else _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small networks
    run(QUICK if chosen.quick else Study(), folder / "difference.json")


if __name__ == "__main__":
    with one_line_errors():
        main()
