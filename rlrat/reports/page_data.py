"""Make the data of the charts of `report.html`, for JSON: curves, seeds, learned activations; thinned for drawing."""

from itertools import pairwise
from typing import Any

import numpy as np

from rlrat.reports.curves import thinned
from rlrat.reports.learned import Layer, join_seeds, learned_groups, read_learned, seeds_shown
from rlrat.reports.plots import COLOURS
from rlrat.reports.read import RunRecord, is_of_success
from rlrat.reports.report import SUCCESS, VALUE, Curve, Report, RunGroup, Task
from rlrat.runs.schema import CUSTOM

DASHES = ("solid", "dash", "dashdot", "longdashdot", "dot")
"""In the order in which the figures use them."""
_SEED_POINTS = 150_000  # of all runs together: some 3 MB
_LEARNED_STEPS = 400  # of the slider, over all groups together: some 2 MB
_LEARNED_SEEDS = 5  # drawn of a group
_LEARNED_BINS = 40
_LEARNED_POINTS = 61  # of functions of the user's


def page_data(report: Report) -> dict[str, Any]:
    """Return all that the page's scripts need."""
    labels = [{"name": label, **_look(place)} for place, label in enumerate(report.labels)]
    return {"labels": labels, **curve_data(report), "learned": learned_data(report)}


def _look(place: int) -> dict[str, str]:
    """Return colour and dashes as in the figures; "" stands for their black and is the colour of the page's text."""
    colour = COLOURS[place % len(COLOURS)]
    dash = DASHES[(place + place // len(COLOURS)) % len(DASHES)]
    return {"colour": "" if colour == "#000000" else colour, "dash": dash}


def curve_data(report: Report) -> dict[str, Any]:
    """Return what the curve charts draw. Updates that many runs have in common are there once, under `updates`."""
    pool: dict[bytes, int] = {}
    arrays: list[list[int]] = []

    def pooled(updates: np.ndarray) -> int:
        key = updates.astype(np.int64).tobytes()
        if key not in pool:
            pool[key] = len(arrays)
            arrays.append(updates.tolist())
        return pool[key]

    count = sum(len(group.runs) for task in report.tasks for group in task.groups)
    most = int(np.clip(_SEED_POINTS // max(count * (1 + len(report.metrics)), 1), 50, 400))

    def run_data(run: RunRecord, updates: np.ndarray) -> dict[str, Any]:
        at = drawn_points(run.updates, known_heights(run), updates, most)
        data = {"seed": run.seed, "status": run.status, "updates": pooled(run.updates[at])}
        data["seconds"] = _numbers(run.train_seconds[at])
        for name, values in (
            *(("score", run.scores), ("return", run.returns)),
            *((SUCCESS, run.successes), (VALUE, run.values)),
        ):
            if values is not None and np.isfinite(values).any():
                data[name] = _numbers(values[at])
        return data

    def metric_data(run: RunRecord, name: str, updates: np.ndarray) -> dict[str, Any]:
        line = run.metrics[name]
        at = drawn_points(line.updates, line.values, updates, most)
        numbers = {"values": _numbers(line.values[at]), "seconds": _numbers(line.train_seconds[at])}
        return {"seed": run.seed, "status": run.status, "updates": pooled(line.updates[at]), **numbers}

    def curve(curve: Curve) -> dict[str, Any]:
        data = {name: _numbers(getattr(curve, name)) for name in ("seconds", "mean", "low", "high")}
        return {"updates": pooled(curve.updates), "seeds": curve.seeds.tolist(), **data}

    def group_data(group: RunGroup) -> dict[str, Any]:
        drawn = thinned(next(iter(group.curves.values())).updates, most) if group.curves else np.empty(0, np.int64)
        return {
            "label": report.labels.index(group.label),
            "agents": sorted({run.agent for run in group.runs}),
            "datasets": sorted({run.dataset for run in group.runs}),
            "curves": {name: curve(value) for name, value in group.curves.items()},
            "runs": [run_data(run, drawn) for run in group.runs if len(run.updates)],
            "metrics": {
                name: {
                    "curve": curve(value),
                    "runs": [
                        metric_data(run, name, thinned(value.updates, most))
                        for run in group.runs
                        if name in run.metrics
                    ],
                }
                for name, value in group.metrics.items()
            },
        }

    tasks = []
    for task in report.tasks:
        runs = [run for group in task.groups for run in group.runs]
        longest = max(len(run.updates) for run in runs)
        points = max((len(line.updates) for run in runs for line in run.metrics.values()), default=0)
        tasks.append(
            {
                "name": task.name,
                "data": _data_levels(task),
                "seconds": task.seconds_differ and f"Seconds cannot be compared here: {task.seconds_differ}.",
                "thinned": f"Drawn are some of {longest:,} evaluations; statistics use all." if longest > most else "",
                "thinned_metrics": f"Drawn are some of {points:,} points." if points > most else "",
                "groups": [group_data(group) for group in task.groups],
            }
        )
    if report.aggregate_curves:
        measure = report.aggregate_measure
        groups = [
            {
                "label": report.labels.index(label),
                "agents": [],
                "datasets": [],
                "runs": [],
                "curves": {measure: curve(value)},
                "metrics": {},
            }
            for label, value in report.aggregate_curves.items()
        ]
        name = f"{len(report.aggregate_tasks)} tasks together, interquartile mean"
        quiet = {"data": {}, "seconds": None, "thinned": "", "thinned_metrics": ""}
        tasks.insert(0, {"name": name, **quiet, "groups": groups})
    return {"updates": arrays, "tasks": tasks}


def known_heights(run: RunRecord) -> np.ndarray:
    """Return a run's returns, or its scores where only these are known; without an environment its estimated values."""
    if run.values is not None:
        return run.values
    return run.returns if np.isfinite(run.returns).any() else run.scores


def drawn_points(own: np.ndarray, values: np.ndarray, updates: np.ndarray, most: int) -> np.ndarray:
    """Return the places of the points that a seed's line is drawn through: all, or those at `updates` and the extremes.

    A longer run keeps the lowest and the highest value in each of `most // 2` stretches, so that no collapse is
    smoothed away.

    Args:
        own, values: of the run, `[N]` each.
        updates: of the mean's curve.
    """
    if len(own) <= most:
        return np.arange(len(own))
    finite = np.isfinite(values)
    values = np.where(finite, values, values[finite].mean() if finite.any() else 0.0)
    edges = np.linspace(0, len(values), most // 2 + 1).round().astype(int)
    stretches = [(low, values[low:high]) for low, high in pairwise(edges)]
    extremes = [low + end for low, part in stretches for end in (part.argmin(), part.argmax())]
    there = np.flatnonzero(np.isin(own, updates))
    return np.unique(np.concatenate([there, extremes, [0, len(values) - 1]])).astype(int)


def learned_data(report: Report) -> list[dict[str, Any]]:
    """Return what the slider shows of every group that has learned activations."""
    groups = list(learned_groups(report, _LEARNED_SEEDS))
    steps = int(np.clip(_LEARNED_STEPS // max(len(groups), 1), 6, 41))
    found = []
    for task, group, runs in groups:
        common = np.array(sorted(set.intersection(*(set(run.updates.tolist()) for run in runs))), dtype=np.int64)
        wanted = frozenset(thinned(common, steps).tolist())
        layers = join_seeds([read_learned(run.path, wanted) for run in runs])
        updates = next(iter(layers.values())).updates if layers else ()
        alike = [layer for layer in layers.values() if np.array_equal(layer.updates, updates)]
        if alike:
            found.append(
                {
                    "title": f"{group.label}, {task.name}",
                    "label": report.labels.index(group.label),
                    "updates": updates.tolist(),
                    "layers": [_layer_data(layer, group, [run.seed for run in runs]) for layer in alike],
                }
            )
    return found


def _layer_data(layer: Layer, group: RunGroup, seeds: list[int]) -> dict[str, Any]:
    low, high = layer.range()
    times, *shape = layer.numerator.shape[:-1]
    names = []
    for seed, part, features in np.ndindex(*shape):
        name = f"seed {seeds[seed]}" if shape[0] == len(seeds) else f"run {seed + 1}"
        name += f", critic {part + 1}" if shape[1] > 1 else ""
        names.append(name + (f", group {features + 1}" if shape[2] > 1 else ""))
    shown = seeds_shown(group, seeds) if shape[0] == len(seeds) else f"{shape[0]} of {len(group.runs)} runs"
    return {
        "name": layer.name,
        "version": layer.version,
        "low": low,
        "high": high,
        "lines": names,
        "shown": shown,
        **{
            name: [[_numbers(line, 4) for line in step] for step in numbers.reshape(times, len(names), -1)]
            for name, numbers in _functions(layer, low, high).items()
        },
        "histogram": [_numbers(step, 3) for step in layer.histogram(np.linspace(low, high, _LEARNED_BINS + 1))],
    }


def _functions(layer: Layer, low: float, high: float) -> dict[str, np.ndarray]:
    """Return what the page computes functions from; a user's have values at equal steps of all inputs instead."""
    if layer.version.startswith(CUSTOM):
        values = layer.values(np.linspace(low, high, _LEARNED_POINTS))
        return {"numerator": values[..., :0], "denominator": values}
    return {"numerator": layer.numerator, "denominator": layer.denominator}


def _data_levels(task: Task) -> dict[str, float | None]:
    """Return the mean episode return of the data, raw and as a score where all runs have one reference.

    Beside estimated values it is the data's own.
    """
    if task.measure == VALUE:
        return {VALUE: task.data_value}
    runs = [run for group in task.groups for run in group.runs]
    of_success = any(is_of_success(run.reference) for run in runs)
    references = {(r["random"], r["expert"]) if (r := run.reference) else None for run in runs}
    level, score = task.data_return, None
    if level is not None and len(references) == 1 and (reference := references.pop()) is not None and not of_success:
        random, expert = reference
        score = 100.0 * (level - random) / (expert - random)
    return {"return": level, "score": score}


def _numbers(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Return numbers for JSON, rounded to what can be seen; None (null) where they are not finite."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float).tolist()]
