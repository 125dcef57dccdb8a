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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlrat.errors import InputError, one_line_errors
from rlrat.networks.activations import check_activation, make_activation, names
from rlrat.networks.layers import MLP, initialize
from rlrat.reports.report import Comparison, RunGroup, Task
from rlrat.reports.statistics import Estimate, estimate, mean
from rlrat.reports.verdicts import best_and_tied, compare_all
from rlrat.runs.files import replace
from rlrat.updates import Adam, SeedGuard, Stream
from targets import TARGETS

_FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
_BLOCK = 100  # updates whose points are drawn at once
NORMS = ("rms", "max")
_WORDS = {"rms": "root mean square", "max": "maximum"}
_MARK = "<!-- What follows is written by scripts/benchmarks/difference.py. -->"
_KINDS = ("starts", "rates", "cells")
_FIXED = "relu"  # what CPU times are measured against
_STEPS = ("equal parameters", "3.4 times fewer", "11 times fewer")  # widths of half and of a quarter
_COLOURS = {
    **{"rational": "#D55E00", "relu": "#000000", "gelu": "#0072B2", "tanh": "#009E73", "silu": "#56B4E9"},
    **{"prelu": "#CC79A7"},
}


@dataclass(frozen=True)
class Study:
    """What is fitted, and how."""

    targets: tuple[str, ...] = tuple(TARGETS)
    widths: tuple[int, ...] = (8, 16, 32)
    """Of both hidden layers, without trained activations."""
    seeds: int = 20
    updates: int = 1500
    batch: int = 128
    """Points of an update, drawn anew in each."""
    every: int = 125
    """Updates between two looks at the held-out grid."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """The first of Adam, which falls to 0 by a cosine."""
    rate_seeds: int = 3
    """Other seeds, on which each activation's rate is chosen for each target and width."""
    starts: int = 3
    """How many rational:<name> are compared, those that do best on `rate_seeds` in a quarter of the updates
    at the middle width."""


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


def choose_rate(target: str, activation: str, width: int, study: Study) -> dict:
    """Try every rate on seeds of their own; `digits` are the means of the last look."""
    seeds = [*range(study.seeds, study.seeds + study.rate_seeds)] * len(study.rates)
    digits, _ = fit(target, activation, width, seeds, np.repeat(study.rates, study.rate_seeds), study)
    means = np.nan_to_num(digits[-1, 0], nan=-np.inf).reshape(len(study.rates), -1).mean(1)
    rate = study.rates[int(means.argmax())]
    digits = [_number(mean) for mean in means]
    return {"target": target, "activation": activation, "width": width, "rate": rate, "digits": digits}


def measure(target: str, activation: str, width: int, rate: float, study: Study) -> dict:
    """Fit with every seed. `final` is the last look's digits, `area` their mean over training, `curve` over seeds."""
    began = time.process_time()
    digits, diverged = fit(target, activation, width, range(study.seeds), [rate] * study.seeds, study)
    area = (digits[1:] + digits[:-1]).mean(0) / 2
    dims, parameters = hidden_dims(TARGETS[target].inputs, width, activation)
    cell = {"target": target, "activation": activation, "width": width, "dims": list(dims), "parameters": parameters}
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
    known = {(kind, *_key(**e)) for kind in _KINDS for e in found[kind]}
    short, middle = dataclasses.replace(study, updates=study.updates // 4), study.widths[len(study.widths) // 2]
    for target, name in itertools.product(study.targets, starts()):
        if ("starts", target, name, middle) not in known:
            yield "starts", functools.partial(choose_rate, target, name, middle, short)
    for target in study.targets:
        keys = [*itertools.product([target], (*names(), *best_starts(found)), study.widths)]
        for key in keys:
            if ("rates", *key) not in known:
                yield "rates", functools.partial(choose_rate, *key, study)
        rates = {_key(**e): e["rate"] for e in found["rates"]}
        for key in keys:
            if ("cells", *key) not in known:
                yield "cells", functools.partial(measure, *key, rates[key], study)


def _key(target: str, activation: str, width: int, **_: object) -> tuple[str, str, int]:
    return target, activation, width


def best_starts(found: dict) -> tuple[str, ...]:
    """Name the rational:<name> with the most digits at their best rates, mean over targets."""

    def digits(name: str) -> float:
        return sum(max(d for d in e["digits"] if d is not None) for e in found["starts"] if e["activation"] == name)

    return tuple(sorted(starts(), key=digits, reverse=True)[: found["study"]["starts"]])


# ---- what is shown


def whole_targets(found: dict) -> list[str]:
    """List the targets of which every cell is there."""
    counts = Counter(cell["target"] for cell in found["cells"])
    wanted = len(found["study"]["widths"]) * len(_compared(found))
    return [target for target in found["study"]["targets"] if counts[target] == wanted]


def _compared(found: dict) -> list[str]:
    return list(dict.fromkeys(cell["activation"] for cell in found["cells"]))


def tasks(found: dict, norm: str) -> list[Task]:
    """Put the cells into rlrat's own reports: a task for each target, a label for each `activation width`."""
    by_target = {target: [] for target in whole_targets(found)}
    for cell in found["cells"]:
        if cell["target"] in by_target:
            label = f"{cell['activation']} {cell['width']}"
            missing = sum(value is None for value in cell["final"][norm] + cell["area"][norm])
            why = f"{missing} errors of {label} are not finite" if missing else None
            finals, areas = (np.array(cell[of][norm], float) for of in ("final", "area"))
            known = {"runs": (), "judged": (), "final_counts": np.array([]), "curves": {}}
            band = Estimate(np.nan, np.nan, np.nan)
            group = RunGroup(label, finals=finals, areas=areas, final_band=band, incomparable=why, **known)
            by_target[cell["target"]].append(group)
    settings = {"horizon": found["study"]["updates"], "start": 0, "data_return": None, "differences": ()}
    return [Task(name, "digits", tuple(groups), seconds_differ=None, **settings) for name, groups in by_target.items()]


def outcomes(comparisons: Sequence[Comparison], quantity: str) -> dict[tuple[str, int, str, int], Counter]:
    """Count, by activation and width against activation and width, targets that are won, lost or undecided (None)."""
    found = defaultdict(Counter)
    for comparison in comparisons:
        if comparison.quantity == quantity:
            for label, other in itertools.permutations((comparison.first, comparison.second)):
                sides = (side for text in (label, other) for side in text.rsplit(" ", 1))
                won = None if comparison.winner is None else comparison.winner == label
                found[tuple(sides)][won] += 1
    return {(a, int(n), b, int(m)): counter for (a, n, b, m), counter in found.items()}


def _sum(found: dict, first: str, second: str | None = None, step: int = 0) -> Counter:
    """Sum outcomes of `first` against `second`, or against all, whose width is `step` places further up the list."""
    widths = sorted({key[1] for key in found})
    place = {width: index for index, width in enumerate(widths)}
    chosen = (
        counter
        for (a, n, b, m), counter in found.items()
        if a == first and second in (None, b) and place[m] - place[n] == step
    )
    return sum(chosen, Counter())


def _score(counter: Counter) -> str:
    return f"{counter[True]} / {counter[False]} / {counter[None]}"


def write_verdicts(comparisons: Sequence[Comparison], targets: Sequence[str]) -> str:
    """Write a row for each activation: wins, losses and undecided at equal parameters; by target wins less losses."""
    final, area = (outcomes(comparisons, quantity) for quantity in ("final", "area"))
    by_target = {name: outcomes([c for c in comparisons if c.task == name], "final") for name in targets}
    names = sorted(dict.fromkeys(key[0] for key in final), key=lambda name: _net(_sum(final, name)), reverse=True)
    lines = [f"| | at the end | over training | {' | '.join(targets)} |", "| --- " * (3 + len(targets)) + "|"]
    for name in names:
        nets = " | ".join(f"{_net(_sum(counts, name)):+d}" for counts in by_target.values())
        lines.append(f"| {name} | {_score(_sum(final, name))} | {_score(_sum(area, name))} | {nets} |")
    return "\n".join(lines)


def _net(counter: Counter) -> int:
    return counter[True] - counter[False]


def write_rivals(comparisons: Sequence[Comparison], ours: str) -> str:
    """Write a row for each activation: what `ours` wins, loses, leaves undecided, at equal and at fewer parameters."""
    final = outcomes(comparisons, "final")
    steps = range(len({key[1] for key in final}))
    lines = [f"| {ours} against | {' | '.join(_STEPS[step] for step in steps)} |", "| --- " * (1 + len(steps)) + "|"]
    for rival in dict.fromkeys(key[0] for key in final if key[0] != ours):
        lines.append(f"| {rival} | {' | '.join(_score(_sum(final, ours, rival, step)) for step in steps)} |")
    return "\n".join(lines)


def write_best(judged: Sequence[Task], comparisons: Sequence[Comparison], widths: Sequence[int]) -> str:
    """Write for each target and width the activation with the least error, and those that tests do not tell from it."""
    lines = [f"| | {' | '.join(f'width {width}' for width in widths)} |", "| --- " * (1 + len(widths)) + "|"]
    for task in judged:
        texts = []
        for width in widths:
            groups = tuple(group for group in task.groups if group.label.endswith(f" {width}"))
            labels = {group.label for group in groups}
            best, tied = best_and_tied(
                dataclasses.replace(task, groups=groups),
                "final",
                [c for c in comparisons if {c.first, c.second} <= labels],
            )
            others = [group.label.split()[0] for group in groups if group.label in tied]
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            texts.append(best.split()[0] + (f" (or {', '.join(others[:3])}{more})" if others else ""))
        lines.append(f"| {task.name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def write_errors(found: dict, norm: str, width: int) -> str:
    """Write the error at one width, geometric mean over seeds, for each activation and target, and the CPU's time."""
    targets = whole_targets(found)
    lines = [f"| | {' | '.join(targets)} | CPU time / ReLU's |", "| --- " * (2 + len(targets)) + "|"]
    cells = {(c["target"], c["activation"]): c["final"][norm] for c in found["cells"] if c["width"] == width}
    seconds = Counter()
    for cell in found["cells"]:
        if cell["target"] in targets:
            seconds[cell["activation"]] += cell["seconds"]
    for name in _compared(found):
        values = [cells[target, name] for target in targets]
        texts = ["not finite" if None in digits else f"{10 ** -np.mean(digits):.2g}" for digits in values]
        lines.append(f"| {name} | {' | '.join(texts)} | {seconds[name] / seconds[_FIXED]:.1f} |")
    return "\n".join(lines)


def write_summary(comparisons: Sequence[Comparison]) -> str:
    """Say how many comparisons there are, and how many have a winner, at the end and over training."""
    parts = []
    for words, same in (("of equal", True), ("of different", False)):
        chosen = [c for c in comparisons if (c.first.split()[-1] == c.second.split()[-1]) is same]
        won = {q: sum(c.winner is not None for c in chosen if c.quantity == q) for q in ("final", "area")}
        text = f"Of {len(chosen) // 2} pairs {words} parameters, {won['final']} have a winner at the end"
        parts.append(f"{text}, {won['area']} over training")
    return ". ".join(parts)


def draw(found: dict, file: Path) -> None:
    """Draw for each target the error over parameters, with bootstrap intervals, and below it over updates."""
    from matplotlib.figure import Figure

    targets, widths = whole_targets(found), found["study"]["widths"]
    columns = 3 if len(targets) > 4 else len(targets)
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(3.8 * columns + 1.6, 5.6 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    updates = np.arange(0, found["study"]["updates"] + 1, found["study"]["every"])
    for index, target in enumerate(targets):
        row, column = divmod(index, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        for name in sorted(_compared(found), key=lambda name: name in _COLOURS):
            chosen = (c for c in found["cells"] if (c["target"], c["activation"]) == (target, name))
            cells = sorted(chosen, key=lambda cell: cell["width"])
            style = {"color": _COLOURS.get(name, "0.8"), "linewidth": 1.8 if name in _COLOURS else 0.8}
            label = name if name in _COLOURS else "others" if name == "identity" else None
            counts = [cell["parameters"] for cell in cells]
            finals = [estimate(mean, [np.array(cell["final"]["rms"], float)]) for cell in cells]
            above.loglog(counts, [10**-e.value for e in finals], marker="o", markersize=3, label=label, **style)
            if name in _COLOURS:
                above.vlines(counts, [10**-e.high for e in finals], [10**-e.low for e in finals], _COLOURS[name])
            curve = np.array(cells[len(widths) // 2]["curve"]["rms"], float)
            below.semilogy(updates, 10**-curve, **style)
        above.set(title=f"{target}: {TARGETS[target].inputs}-d", xlabel="parameters")
        ticks = sorted({c["parameters"] for c in found["cells"] if (c["target"], c["activation"]) == (target, "relu")})
        above.set_xticks(ticks, map(str, ticks))
        above.minorticks_off()
        below.set(xlabel=f"updates, width {widths[len(widths) // 2]}")
        for ax in (above, below):
            ax.grid(alpha=0.25)
            if column == 0:
                ax.set_ylabel("error (rms / std of target)")
    for ax in axes.flat:
        ax.set_visible(bool(ax.lines))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(file, dpi=100)


def draw_wins(found: dict, file: Path) -> None:
    """Draw how often the activation of each row beats that of each column at equal parameters."""
    from matplotlib.figure import Figure

    final = outcomes(compare_all(tasks(found, "rms")), "final")
    names = sorted(dict.fromkeys(key[0] for key in final), key=lambda name: _net(_sum(final, name)), reverse=True)
    wins = np.array([[_sum(final, a, b)[True] for b in names] for a in names])
    figure = Figure(figsize=(9.5, 8.5), layout="constrained")
    ax = figure.subplots()
    ax.imshow(wins, cmap="Blues", vmin=0, vmax=1.4 * max(wins.max(), 1))
    for (i, j), value in np.ndenumerate(wins):
        ax.text(j, i, "" if i == j else str(value), ha="center", va="center", fontsize=8)
    ax.set_xticks(range(len(names)), names, rotation=60, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.tick_top()
    most = int(sum(_sum(final, names[0], names[1]).values()))
    ax.set_title(f"the row has less error than the column, in so many of {most} (Holm-corrected)", y=-0.06)
    figure.savefig(file, dpi=100)


def write_tables(found: dict, norm: str) -> str:
    """Write what is said of one norm; all tables for the first."""
    judged, widths = tasks(found, norm), found["study"]["widths"]
    comparisons = compare_all(judged)
    parts = [f"## By the error's {_WORDS[norm]}\n\n{write_summary(comparisons)}."]
    if norm == NORMS[0]:
        verdicts = write_verdicts(comparisons, [task.name for task in judged])
        parts += [
            f"Wins / losses / undecided at equal parameters, and by target wins less losses at the end:\n\n{verdicts}",
            f"The least error, and what tests do not tell from it:\n\n{write_best(judged, comparisons, widths)}",
            f"Rational's wins / losses / undecided at the end:\n\n{write_rivals(comparisons, 'rational')}",
        ]
    parts.append(f"Errors at width {widths[-1]}:\n\n{write_errors(found, norm, widths[-1])}")
    return "\n\n".join(parts)


def write_page(found: dict, file: Path) -> None:
    """Write all tables, below what a person has written in `file`, if anything."""
    above = file.read_text().partition(_MARK)[0] if file.exists() else ""
    tables = "\n\n".join(write_tables(found, norm) for norm in NORMS)
    file.write_text(f"{above}{_MARK}\n\n{tables}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two targets, two widths, five seeds, 200 updates")
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks, with --quick the current folder")
    chosen = parser.parse_args()
    folder = chosen.output or (Path() if chosen.quick else _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small networks
    found = run(QUICK if chosen.quick else Study(), folder / "difference.json")
    draw(found, folder / "difference.png")
    draw_wins(found, folder / "difference_wins.png")
    write_page(found, folder / "difference.md")


if __name__ == "__main__":
    with one_line_errors():
        main()
