"""Show a sweep: a live table on a terminal, else one line per event; its plan, its status and its summary.

Consoles have no markup, emoji or highlighting: names and paths are shown as they are.
"""

import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlrat.errors import printable
from rlrat.json_files import as_number
from rlrat.runs.locks import Owner
from rlrat.runs.schema import DIVERGED, DONE, FAILED, FINISHED, MISSING, UNFINISHED
from rlrat.sweeps.checks import DataCheck
from rlrat.sweeps.conductor import Conductor, Entry
from rlrat.sweeps.estimate import Probe, probe_name
from rlrat.sweeps.folder import SeedProgress, SweepFolder, is_done, read_progress, read_summary, seed_status
from rlrat.sweeps.grid import Cell, Job, Process
from rlrat.sweeps.records import fits

_ROWS = 20  # rows of running processes, and of a plan's cells
_SUMMARY_ROWS = 60
_REFRESH_SECONDS = 1.0
_LINE_SECONDS = 60.0  # between lines about the progress, where there is no terminal


class Display:
    """Show the events and the state of a conductor."""

    def __init__(self, console: Console, cells: int, diverged: int = 0) -> None:
        """Take the number of `cells` of the whole plan, and of its runs that have `diverged` before."""
        self._console, self._cells, self._diverged = console, cells, diverged
        self._shown = self._line = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._seconds: dict[str, float] = {}  # the time of a whole process, by agent

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(f"{datetime.now():%H:%M:%S} {text}", soft_wrap=True)

    def show(self, conductor: Conductor) -> None:
        """Redraw the table each second or, where there is no terminal, print a line each minute."""
        now = time.monotonic()
        if self._live is not None and now - self._shown >= _REFRESH_SECONDS:
            self._shown = now
            self._live.update(self._table(conductor), refresh=True)
        elif self._live is None and now - self._line >= _LINE_SECONDS:
            self._line = now
            self._looks(conductor)
            self.say(self._counts(conductor))

    def _table(self, conductor: Conductor) -> Group:
        table = Table("running", "update", "updates/s", "score, return or value", box=None, pad_edge=False)
        running = self._looks(conductor)
        for entry, progress in running[:_ROWS]:
            total = entry.job.total_updates
            if progress is None:
                table.add_row(entry.job.label, f"0/{total:,}", "", "")
                continue
            speed = progress.update / progress.train_seconds if progress.train_seconds else 0.0
            value = next((v for v in (progress.score, progress.return_mean, progress.value) if v is not None), None)
            shown = "" if value is None else f"{value:.1f}" if progress.value is None else f"{value:.3g} (FQE)"
            table.add_row(entry.job.label, f"{progress.update:,}/{total:,}", f"{speed:.0f}", shown)
        more = len(running) - _ROWS
        rows = [Text(self._counts(conductor))] + ([table] if running else [])
        return Group(*rows, *([Text(f"and {more} more")] if more > 0 else []))

    def _looks(self, conductor: Conductor) -> list[tuple[Entry, SeedProgress | None]]:
        """Return the running processes with their newest evaluation; keep the time of a whole process that follows."""
        running = []
        for entry in conductor.entries.values():
            if entry.state != "running":
                continue
            progress = read_progress(entry.job.folders[0])
            if progress is not None and progress.update:
                share = progress.update / entry.job.total_updates
                self._seconds[entry.job.cell.agent.name] = progress.wall_seconds / share
            running.append((entry, progress))
        return running

    def _counts(self, conductor: Conductor) -> str:
        open_cells, failed_cells = set(), set()
        for entry in conductor.entries.values():
            if entry.state != "done":
                (failed_cells if entry.state == "given up" else open_cells).add(entry.job.cell)
        done = self._cells - len(open_cells | failed_cells)
        parts = [f"{done:,} of {self._cells:,} cells done", f"{conductor.count('running')} processes running"]
        if elsewhere := conductor.count("elsewhere"):
            parts.append(f"{elsewhere} in other hands")
        if failed := len(failed_cells):
            parts.append(f"{failed} failed")
        if diverged := self._diverged + conductor.diverged:
            parts.append(f"{diverged} runs diverged")
        if conductor.paused_by is not None:
            parts.append("paused: the disk is full")
        if left := self._left(conductor):
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _left(self, conductor: Conductor) -> float | None:
        """Estimate the seconds left from the times of each agent's processes until now; None before any is known."""
        if not self._seconds:
            return None
        typical, left, running = statistics.mean(self._seconds.values()), 0.0, conductor.count("running")
        for entry in conductor.entries.values():
            if entry.state in ("waiting", "running"):
                progress = read_progress(entry.job.folders[0]) if entry.state == "running" else None
                share = 1 - progress.update / entry.job.total_updates if progress else 1.0
                left += share * self._seconds.get(entry.job.cell.agent.name, typical)
        return left / max(running, 1)


def show_plan(
    console: Console,
    cells: Sequence[Cell],
    jobs: Sequence[Job],
    probes: dict[str, Probe],
    missing: Sequence[str],
    where: str,
) -> None:
    """Print the plan for `--dry-run`; `where` is the launcher's own description."""
    done = {job: is_done(job) for job in jobs}
    table = Table("cell", "seeds", "processes", "finished", box=None, pad_edge=False)
    by_cell: dict[Cell, list[Job]] = {}
    for job in jobs:
        by_cell.setdefault(job.cell, []).append(job)
    for cell in cells[:_ROWS]:
        own = by_cell[cell]
        groups = " ".join(f"{job.seeds[0]}-{job.seeds[-1]}" if len(job.seeds) > 1 else str(job.seeds[0]) for job in own)
        table.add_row(cell.label, groups, str(len(own)), str(sum(done[job] for job in own)))
    console.print(table)
    if len(cells) > _ROWS:
        console.print(f"and {len(cells) - _ROWS:,} more cells")
    runs = sum(len(job.seeds) for job in jobs)
    console.print(
        f"{len(cells):,} cells, {runs:,} runs in {len(jobs):,} processes; {sum(done.values()):,} are finished"
    )
    if missing:
        console.print(f"to be downloaded: {', '.join(missing)}", soft_wrap=True)
    console.print(where, soft_wrap=True)
    for name, probe in probes.items():
        gpu = f", {probe.gpu_memory / 2**30:.2f} GiB of a GPU" if probe.gpu_memory is not None else ""
        console.print(
            f"{name}: {1 / probe.update_seconds:.0f} updates/s, {probe.memory / 2**30:.2f} GiB{gpu} a process "
            f"(probed: {probe.label})", soft_wrap=True,
        )  # fmt: skip


def show_estimate(
    console: Console, jobs: Sequence[Job], probes: dict[str, Probe], data: DataCheck, at_once: int
) -> None:
    """Print the time and the memory that the rest takes, if `at_once` processes run at a time."""
    open_jobs = [job for job in jobs if not is_done(job)]
    if not open_jobs:
        return
    own = [probes[probe_name(job, data)] for job in open_jobs]
    seconds = [probe.seconds(job) for probe, job in zip(own, open_jobs, strict=True)]
    at_once = min(at_once, len(open_jobs))
    total = max(sum(seconds) / at_once, max(seconds))
    memory = at_once * max(probe.memory for probe in own)
    console.print(f"about {duration(total)} with {at_once} processes at a time, and up to {memory / 2**30:.1f} GiB")
    judged = {job.cell in data.without_environment for job in open_jobs}
    evaluations = "episodes last 1000 steps, " * (False in judged)
    evaluations += "fitted Q evaluation takes as long as it has updates, " * (True in judged)
    console.print(
        "assumed: every process of an agent is like the probed one, none slows another down, "
        f"{evaluations}nothing is judged for --keep-best, nothing was begun, "
        "and no update is compiled (on a CPU half the time, 0.7 GiB more each)", soft_wrap=True,
    )  # fmt: skip


def show_status(console: Console, jobs: Sequence[Process], folder: SweepFolder, running: dict[Process, Owner]) -> None:
    """Print the state of every run; `running` has the owners of the locks."""
    counts = dict.fromkeys((FINISHED, DIVERGED, "running", FAILED, UNFINISHED, MISSING), 0)
    cells, failed, diverged, unscored = set(), [], [], []
    for job in jobs:
        cells.add(job.folder)
        folders = job.folders
        states = [seed_status(path) for path in folders]
        is_open = not DONE.issuperset(states)
        failure = folder.failure(job) if is_open and job not in running else None
        for path, state in zip(folders, states, strict=True):
            if state == FAILED and failure is None and job not in running:
                unscored.append(path)
            if state not in DONE:
                state = "running" if job in running else FAILED if failure is not None else state
            counts[state] += 1
            if state == DIVERGED:
                diverged.append(path)
        if failure is not None:
            failed.append((job, failure))
    runs = sum(counts.values())
    console.print(
        f"{len(cells):,} cells, {runs:,} runs: " + ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    )
    for job, owner in list(running.items())[:_ROWS]:
        progress = read_progress(job.folders[0])
        far = f"update {progress.update:,} of {job.total_updates:,}" if progress else "at its beginning"
        console.print(f"running: {job.label}: {far}, {owner}", soft_wrap=True)
    for path in diverged[:_ROWS]:
        update = (read_summary(path) or {}).get("diverged_at")
        at = f" at update {update}" if fits(update, int) else ""
        console.print(f"diverged: {printable(str(path))}{at}", soft_wrap=True)
    for path in unscored[:_ROWS]:
        console.print(f"failed: {printable(str(path))}: no evaluation of what it trained worked", soft_wrap=True)
    for job, failure in failed[:_ROWS]:
        console.print(f"failed: {job.label}: {failure.reason} on {failure.host}; its log ends with", soft_wrap=True)
        for line in failure.lines:
            console.print(f"    {line}", soft_wrap=True)


def show_summary(console: Console, cells: Sequence[Cell], run_dir: Path) -> None:
    """Print the final scores, returns and success rates: mean and spread over seeds.

    Runs without an environment have estimated values. The spread is the population standard deviation.
    """
    shown = [
        (cell, [s for seed in cell.seeds if (s := read_summary(cell.run_folder(seed))) is not None])
        for cell in cells[:_SUMMARY_ROWS]
    ]
    measures = {"final_score": ("score", ".1f"), "final_return": ("return", ".1f")}
    if any("final_success_rate" in summary for _, summaries in shown for summary in summaries):
        measures["final_success_rate"] = ("success rate", ".2f")
    if any("final_value" in summary for _, summaries in shown for summary in summaries):
        measures["final_value"] = ("estimated value (FQE)", ".3g")
    names = (name for name, _ in measures.values())
    table = Table("dataset", "agent", "run", "seeds", *names, "diverged", box=None, pad_edge=False)
    for cell, summaries in shown:
        finished = [s for s in summaries if s.get("status") == FINISHED]
        numbers = []
        for name, (_, digits) in measures.items():
            values = [value for s in finished if (value := as_number(s.get(name))) is not None]
            spread = (statistics.mean(values), statistics.pstdev(values)) if values else ()
            numbers.append(" ± ".join(f"{number:{digits}}" for number in spread))
        diverged = sum(s.get("status") == DIVERGED for s in summaries)
        seeds = f"{len(finished)}/{len(cell.seeds)}"
        table.add_row(*cell.folder.parts[-3:], seeds, *numbers, str(diverged) if diverged else "")
    console.print(table)
    if len(cells) > _SUMMARY_ROWS:
        console.print(f"and {len(cells) - _SUMMARY_ROWS:,} more cells")
    console.print(f"compare them: python scripts/compare.py {run_dir}", soft_wrap=True)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
