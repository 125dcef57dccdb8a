"""Seconds and memory that a report of many runs takes, and its first paint; the runs are made up."""

from dataclasses import dataclass

from rlrat.runs.arguments import read_command_line


@dataclass
class Arguments:
    """How many of each; their product is the number of evaluations."""

    datasets: int = 10
    activations: int = 20
    seeds: int = 5
    evaluations: int = 100


if __name__ == "__main__":  # before reports are imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

import json
import resource
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.table import Table

from rlrat.console import Console
from rlrat.reports.build import build_report
from rlrat.reports.html import write_report
from rlrat.reports.plots import write_figures
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from rlrat.runs.schema import COLUMNS, CONFIG, EVALUATIONS, FINISHED, SUMMARY

_REFERENCE = {"name": "made up", "env_id": "Hopper-v5", "random": 20.0, "expert": 4100.0}


def write_runs(root: Path, arguments: Arguments) -> None:
    random = np.random.default_rng(0)
    time = np.linspace(0, 1, arguments.evaluations)
    for place in np.ndindex(arguments.datasets, arguments.activations, arguments.seeds):
        dataset, activation, seed = f"dataset{place[0]}", f"activation{place[1]}", int(place[2])
        folder = root / dataset / "iql" / activation / f"seed{seed}"
        folder.mkdir(parents=True)
        config = {
            "agent": "iql",
            "seed": seed,
            "identity": {"dataset": dataset, "activation": activation, "learning_rate": 3e-4, "eval_episodes": 10},
            "arguments": {"num_seeds": arguments.seeds},
            "dataset": {"return_mean": 1500.0},
            "reference": _REFERENCE,
            "versions": {"torch": "2.13.0"},
        }
        (folder / CONFIG).write_text(json.dumps(config))
        (folder / SUMMARY).write_text(json.dumps({"status": FINISHED}))
        height, rate = random.normal(60, 5), random.lognormal(1.6, 0.2)
        scores = height * (1 - np.exp(-rate * time)) + random.normal(0, 3, len(time))
        lines = [
            f"{1000 * n},{5.0 * n:.3f},{7.0 * n:.3f},,10,{20 + 40.8 * score},1.0,500.0,{score},"
            for n, score in enumerate(scores)
        ]
        (folder / EVALUATIONS).write_text("\n".join([",".join(COLUMNS[EVALUATIONS]), *lines]) + "\n")


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


def main(arguments: Arguments) -> None:
    marks = []  # what was done, and when

    def done(part: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        marks.append((part, time.perf_counter(), peak))

    with tempfile.TemporaryDirectory() as folder:
        runs, output = Path(folder) / "runs", Path(folder) / "report"
        output.mkdir()
        write_runs(runs, arguments)
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
