"""Seconds and memory that a report of many runs takes, beside another tree's; its first paint. The runs are made up."""

from dataclasses import dataclass
from pathlib import Path

from rlrat.runs.arguments import read_command_line


@dataclass
class Arguments:
    """How many of each; the product of the first four is the number of evaluations."""

    datasets: int = 10
    activations: int = 20
    """Every fifth of them trained: these runs have learned functions to draw."""
    seeds: int = 5
    evaluations: int = 100
    keep_best: bool = False
    """The runs say that they kept their best evaluation, so that the episodes of all are read."""
    before: Path | None = None
    """Another tree of rlrat: time compare.py of both, in turn, and compare all that they write."""
    rounds: int = 3
    """Of both trees, with --before."""
    output: Path | None = None
    """Where to write what --before finds, such as docs/benchmarks/reports.json."""


if __name__ == "__main__":  # before reports are imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise

import numpy as np
from rich.table import Table

from rlrat.console import Console
from rlrat.reports.build import build_report
from rlrat.reports.html import write_report
from rlrat.reports.plots import write_figures
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from rlrat.runs.schema import ACTIVATIONS, COLUMNS, CONFIG, EPISODES, EVALUATIONS, METRICS, SUMMARY

_TREE = Path(__file__).resolve().parents[2]
_REAL = _TREE / "docs" / "gallery" / "runs" / "rlrat-hopper-medium-v0" / "td3_bc"
_SHARED = (ACTIVATIONS, METRICS)  # as large as real ones; all runs of an activation have the same
_PRINTED = ("summary.md",)  # what a terminal shows, and so no statistic


def write_runs(root: Path, arguments: Arguments) -> None:
    """Write run folders with the files, columns and settings of real ones; only their scores are made up."""
    random = np.random.default_rng(0)
    rise = np.linspace(0, 1, arguments.evaluations)
    updates = 1000 * np.arange(arguments.evaluations)
    shared = root / "shared"
    for place in np.ndindex(arguments.datasets, arguments.activations, arguments.seeds):
        dataset, seed = f"dataset{place[0]}", int(place[2])
        trained = place[1] % 5 == 1
        activation = f"rational:{place[1]}" if trained else f"activation{place[1]}" if place[1] else "relu"
        real = _REAL / ("rational" if trained else "relu") / f"seed{seed % 5}"
        folder = root / dataset / "td3_bc" / activation.replace(":", "-") / f"seed{seed}"
        folder.mkdir(parents=True)
        _write_settings(folder, real, dataset, activation, seed, arguments)
        height, rate = random.normal(60, 5), random.lognormal(1.6, 0.2)
        scores = height * (1 - np.exp(-rate * rise)) + random.normal(0, 3, len(rise))
        lines, episodes = [",".join(COLUMNS[EVALUATIONS])], [",".join(COLUMNS[EPISODES])]
        for update, score in zip(updates.tolist(), scores, strict=True):
            returns = 20 + 40.8 * (score + random.normal(0, 4, 10))
            mean = float(returns.mean())
            lines.append(
                f"{update},{update / 200:.3f},{update / 140:.3f},,10,{mean},{returns.std()},500.0,{(mean - 20) / 40.8},"
            )
            episodes += [f"{update},,{n},{2968811710 + n},{value},500," for n, value in enumerate(returns)]
        (folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
        (folder / EPISODES).write_text("\n".join(episodes) + "\n")
        for name in _SHARED:
            if (real / name).exists():
                source = shared / f"{real.parent.name}-{real.name}-{name}"
                if not source.exists():
                    shared.mkdir(exist_ok=True)
                    source.write_text(_prolonged((real / name).read_text(), updates.tolist()))
                os.link(source, folder / name)


def _write_settings(folder: Path, real: Path, dataset: str, activation: str, seed: int, arguments: Arguments) -> None:
    config = json.loads((real / CONFIG).read_text())
    config["seed"] = seed
    for part in ("identity", "arguments"):
        config[part] |= {"dataset": dataset, "activation": activation, "total_updates": 1000 * arguments.evaluations}
    config["dataset"]["id"] = dataset
    config["reference"] |= {"random": 20.0, "expert": 4100.0}
    summary = json.loads((real / SUMMARY).read_text())
    if arguments.keep_best:
        summary["best"] = {"by": "return", "value": 0.0, "update": 1000 * (arguments.evaluations - 1)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2))


def _prolonged(text: str, updates: list[int]) -> str:
    """Return a real run's table with lines for each of `updates`: those that it has, again and again."""
    header, *lines = text.splitlines()
    by_update: dict[str, list[str]] = {}
    for line in lines:
        update, _, rest = line.partition(",")
        by_update.setdefault(update, []).append(rest)
    blocks = list(by_update.values())
    found = [f"{update},{rest}" for n, update in enumerate(updates) for rest in blocks[n % len(blocks)]]
    return "\n".join([header, *found]) + "\n"


def compare_trees(runs: Path, folder: Path, arguments: Arguments) -> dict:
    """Time compare.py of the other tree and of this one, in turn; return seconds, memory and which files differ.

    Every table, the curves and the page's data have to be equal to the last digit.
    """
    trees = {"before": arguments.before.resolve(), "after": _TREE}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(arguments.rounds):
        for name, tree in trees.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            found[name].append(_timed([str(tree / "scripts" / "compare.py"), str(runs)], tree, folder / name))
    medians = {
        name: {part: round(statistics.median(turn[part] for turn in turns), 2) for part in turns[0]}
        for name, turns in found.items()
    }
    same, differing = compare_outputs(folder / "before", folder / "after")
    settings = {name: value for name, value in asdict(arguments).items() if name not in ("before", "output")}
    times = {part: round(medians["before"][part] / medians["after"][part], 2) for part in ("wall", "cpu")}
    return {**settings, "medians": medians, "turns": found, "times": times, "equal": len(same), "differing": differing}


def _timed(command: list[str], tree: Path, output: Path) -> dict[str, float]:
    """Run a script of a tree in a process of its own; return its wall and CPU seconds and its peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, "--output", str(output)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}")
    return {
        "wall": round(time.perf_counter() - started, 2),
        "cpu": round(used.ru_utime + used.ru_stime, 2),
        "memory": round(used.ru_maxrss / 1024),
    }


def compare_outputs(before: Path, after: Path) -> tuple[list[str], list[str]]:
    """Return the names of what both wrote alike, and of what differs or is there once: tables, curves, page data."""
    texts = {}
    for folder in (before, after):
        texts[folder] = {
            path.name: path.read_text()
            for path in folder.iterdir()
            if path.suffix in (".csv", ".md", ".tex") and path.name not in _PRINTED
        }
        page = (folder / "report.html").read_text()
        texts[folder]["data of report.html"] = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    ours, theirs = texts[after], texts[before]
    same = sorted(name for name in theirs if ours.get(name) == theirs[name])
    return same, sorted((theirs.keys() | ours.keys()) - set(same))


def first_paint(page: Path, rounds: int = 5) -> tuple[float, float] | None:
    """Median seconds until a headless Chromium paints and until a chart is drawn, None without chromium-driver."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        return None
    from selenium import webdriver  # of the test extra

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    seen = []
    for _ in range(rounds):  # each in a browser that has not seen the page
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            browser.get(page.as_uri())
            seen.append(browser.execute_async_script(_PAINTED))
        finally:
            browser.quit()
    return tuple(statistics.median(times) / 1000 for times in zip(*seen, strict=True))


# Milliseconds since the navigation began.
_PAINTED = """
const done = arguments[0];
document.querySelector("#panels").scrollIntoView();  // charts are drawn once they are in view
const look = () => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  if (paint && document.querySelector("#panels .main-svg")) done([paint.startTime, performance.now()]);
  else setTimeout(look, 5);
};
look();
"""


def show(found: dict, output: Path | None) -> None:
    table = Table("compare.py", "wall seconds", "CPU seconds", "peak memory, MiB")
    for name, medians in found["medians"].items():
        table.add_row(name, *(f"{medians[part]:.2f}" for part in ("wall", "cpu")), f"{medians['memory']:.0f}")
    table.add_row("times as fast", *(f"{found['times'][part]:.2f}" for part in ("wall", "cpu")), "")
    Console().print(table)
    print(
        f"{found['equal']} of what both wrote are equal to the last digit; not: {', '.join(found['differing']) or '-'}"
    )
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: Arguments) -> None:
    marks = []  # what was done, and when

    def done(part: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        marks.append((part, time.perf_counter(), peak))

    with tempfile.TemporaryDirectory() as folder:
        runs, output = Path(folder) / "runs", Path(folder) / "report"
        output.mkdir()
        write_runs(runs, arguments)
        if arguments.before is not None:
            show(compare_trees(runs, Path(folder), arguments), arguments.output)
            return
        done("")
        records = read_runs([runs])
        done(f"reading {len(records)} runs")
        report = build_report(records)
        done("statistics")
        for table in make_tables(report).values():
            (output / "table").write_text(table.markdown() + table.csv() + table.latex())
        done("tables")
        write_figures(report, output)
        done("figures")
        write_report(report, output / "report.html")
        size = (output / "report.html").stat().st_size / 1e6
        done(f"report.html, {size:.1f} MB")
        painted = first_paint(output / "report.html")

    shown = Table("part", "seconds", "peak memory so far, MiB")
    for (_, before, _), (part, after, peak) in pairwise(marks):
        shown.add_row(part, f"{after - before:.1f}", f"{peak:.0f}")
    shown.add_row("all", f"{marks[-1][1] - marks[0][1]:.1f}", f"{marks[-1][2]:.0f}")
    Console().print(shown)
    if painted is None:
        print("first paint: not measured, it needs Debian's chromium and chromium-driver")
    else:
        print(f"first paint after {painted[0]:.2f} s, a chart after {painted[1]:.2f} s")


if __name__ == "__main__":
    main(ARGUMENTS)
