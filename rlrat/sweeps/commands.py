"""Do what a sweep's command line asks: carry out a grid or only plan it, report how far it is, stop it, try again."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from rlrat.errors import InputError, warn
from rlrat.runs.locks import Watch
from rlrat.runs.schema import DIVERGED, DONE, FAILED
from rlrat.sweeps.checks import DataCheck, check_datasets, check_device, check_folders, check_settings, check_together
from rlrat.sweeps.conductor import Conductor
from rlrat.sweeps.display import Display, show_estimate, show_plan, show_status, show_summary
from rlrat.sweeps.estimate import probe
from rlrat.sweeps.folder import SweepFolder, is_done, seed_status
from rlrat.sweeps.grid import Cell, Grid, Job, Process, expand, make_jobs
from rlrat.sweeps.launcher import Launcher
from rlrat.sweeps.local import LocalLauncher, find_gpus, fitting
from rlrat.sweeps.named import Named
from rlrat.sweeps.options import Options, admit_sweep, kept_options, recall_options
from rlrat.sweeps.records import fits
from rlrat.sweeps.remembered import Sweep, recall, remember
from rlrat.sweeps.slurm import cancel_waiting


def plan(grid: Grid, options: Options) -> tuple[list[Cell], list[Job]]:
    """Return the cells and their processes; check names and folders, but do not look at files yet."""
    cells = expand(grid, options.run_dir)
    return cells, make_jobs(cells, options.seeds_per_process)


def extra_settings(options: Options) -> dict[str, Any]:
    """Return the settings that every process gets in addition to its cell's."""
    given = {"device": options.device} if options.device != "auto" else {}
    return {"num_threads": options.threads, **given, **({"env_modules": m} if (m := options.env_modules) else {})}


def make_launcher(options: Options, jobs: list[Job], folder: SweepFolder, data: DataCheck) -> Launcher:
    """Make the launcher; raise `InputError` if its package or its cluster is missing."""
    if options.launcher == "ray":
        from rlrat.sweeps.ray import RayLauncher

        return RayLauncher(options.ray.address, options.threads, options.ray.gpus, options.ray.memory_gb)
    if options.launcher == "slurm":
        from rlrat.sweeps.slurm import SlurmLauncher

        return SlurmLauncher(folder, threads=options.threads, **asdict(options.slurm))
    gpus = [] if options.device == "cpu" else find_gpus()
    per_gpu = None
    if gpus and options.workers is None and jobs:
        probes = probe(jobs, folder, extra_settings(options), data)
        memory = max(found.gpu_memory or 0 for found in probes.values())
        if memory:
            per_gpu = min(fitting(gpu, memory) for gpu in gpus)
        else:  # this PyTorch does not use GPUs
            gpus = []
    return LocalLauncher(options.workers, options.threads, gpus, per_gpu)


def sweep(options: Options, grid: Grid, console: Console, only: set[str] | None = None) -> int:
    """Plan, check and carry out a sweep; return the exit code. `only` has the processes' ids to do, by default all."""
    cells, jobs = plan(grid, options)
    check_settings(cells)
    check_folders(cells)
    check_together(jobs)
    check_device(options.device, here=options.launcher == "local")
    folder = SweepFolder(options.run_dir)
    data = check_datasets(cells, fetch=not options.dry_run, env_modules=options.env_modules)
    if data.without_environment:
        many = f"{len(data.without_environment):,} of {len(cells):,} cells have"
        console.print(f"{many} no environment: their policies are judged on data alone", soft_wrap=True)
    if options.dry_run:
        _dry_run(options, cells, jobs, data, folder, console)
        return 0
    remember(folder, grid.absolute(), kept_options(options), jobs)
    diverged = sum(seed_status(path) == DIVERGED for job in jobs for path in job.folders)
    jobs = [job for job in jobs if (only is None or job.id in only) and not is_done(job)]
    if not jobs:
        return finish(0, options, cells, console)
    launcher = make_launcher(options, jobs, folder, data)
    with Display(console, len(cells), diverged) as display:
        display.say(f"{len(cells):,} cells in {len(jobs):,} processes; {launcher.describe()}")
        conductor = Conductor(
            jobs, launcher, folder, extra=extra_settings(options), retries=options.retries,
            say=display.say, show=display.show,
        )  # fmt: skip
        with listening(conductor, detach=options.launcher == "slurm"):
            conductor.run()
    if conductor.detaching:
        console.print("left: the jobs go on; the same command watches them again, and stop ends them")
        return 128 + signal.SIGINT
    if conductor.stopping:
        console.print("stopped; the same command goes on from here", soft_wrap=True)
        return 128 + signal.SIGINT
    return finish(conductor.count("given up"), options, cells, console)


def _dry_run(
    options: Options, cells: list[Cell], jobs: list[Job], data: DataCheck, folder: SweepFolder, console: Console
) -> None:
    probes = probe(jobs, folder, extra_settings(options), data)
    launcher = make_launcher(options, jobs, folder, data) if options.launcher == "local" else None
    where = launcher.describe() if launcher is not None else f"on {options.launcher}"
    show_plan(console, cells, jobs, probes, data.missing, where)
    at_once = {"local": launcher.room() if launcher else 0, "ray": len(jobs), "slurm": options.slurm.at_once}
    show_estimate(console, jobs, probes, data, at_once[options.launcher])


@contextmanager
def listening(conductor: Conductor, *, detach: bool) -> Iterator[None]:
    """Stop (or, with `detach`, leave) the sweep at the first Ctrl-C or SIGTERM; at the second, do not wait."""

    def on_signal(_number: int, _frame) -> None:
        if detach:
            conductor.detaching = True
        elif conductor.stopping:
            conductor.killing = True
        else:
            conductor.stopping = True

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(failed: int, options: Options, cells: list[Cell], console: Console) -> int:
    """Print the summary and return the exit code."""
    show_summary(console, cells, options.run_dir)
    if failed:
        console.print(f"{failed} processes failed: see status, mend it, and give the same command again, or retry")
    return 1 if failed else 0


def processes(folder: SweepFolder, sweep: Sweep, files: Sequence[str]) -> Sequence[Process]:
    """Return the processes of a sweep that was begun in a folder, without any agent's code.

    A sweep of an older version did not write them down. Only then the agents are loaded: those of rlrat by their names,
    and `files` that this command line names.

    Raises:
        InputError: a sweep of an older version has other agents, or is damaged.
    """
    if sweep.processes is not None:
        return sweep.processes
    size = sweep.options.get("seeds_per_process")
    if size is not None and not (fits(size, int) and size > 0):
        raise InputError(f"the sweep in {folder.run_dir} is damaged: give its command again")
    grid = Named(tuple(files)).admit_agents(sweep.grid, _title(folder))
    return make_jobs(expand(grid, folder.run_dir), size)


def _title(folder: SweepFolder) -> str:
    return f"the sweep in {folder.run_dir}"


def status(run_dir: Path, console: Console, files: Sequence[str] = ()) -> int:
    """Show the status of the sweeps in a folder. `files` are the command line's agents, needed only for old sweeps."""
    folder, watch = SweepFolder(run_dir), Watch()
    for sweep in recall(folder):
        jobs, running = processes(folder, sweep, files), {}
        locked = folder.locked()
        for job in jobs:
            for path in job.folders:
                if path in locked and (owner := watch.holder(folder.lock(path))) is not None:
                    running[job] = owner
        show_status(console, jobs, folder, running)
    for owner in folder.sweeps():
        console.print(f"a sweep is under way: {owner}")
    return 0


def stop(run_dir: Path, console: Console) -> int:
    folder = SweepFolder(run_dir)
    folder.grid_files()  # raises if there is nothing to stop
    if not folder.sweeps():
        console.print(f"no sweep is under way in {folder.run_dir}")
    folder.stop()
    code = 0
    try:
        cancel_waiting(folder)
    except InputError as error:
        console.print(f"error: {error}", soft_wrap=True)
        code = 2
    watch = Watch()
    before = 0
    while held := sum(watch.holder(folder.lock(path)) is not None for path in folder.locked()):
        if held != before:
            console.print(f"waiting for {held} runs to save a checkpoint")
        before = held
        time.sleep(0.5)
    console.print("stopped; the sweep's command goes on from here")
    return code


def retry(run_dir: Path, console: Console, named: Named) -> int:
    """Try failed processes again. `named` is the code that the command line names; no other code of the folder runs."""
    folder, code = SweepFolder(run_dir), 0
    again = []
    for begun in recall(folder):
        jobs = processes(folder, begun, named.agents)
        if any(_has_failed(folder, job) for job in jobs):
            options = recall_options(begun.options, run_dir)
            again.append(admit_sweep(named, begun.grid, options, _title(folder)))
    for grid, options in again:
        _, jobs = plan(grid, options)
        failed = {job.id for job in jobs if _has_failed(folder, job)}
        if not failed:
            warn(f"an agent of {_title(folder)} has other settings than then: give the sweep's own command again")
            continue
        code = max(code, sweep(options, grid, console, only=failed))
        if code >= 128:  # stopped by a signal: the rest stops, too
            return code
    if not again:
        console.print(f"nothing has failed in {folder.run_dir}")
    return code


def _has_failed(folder: SweepFolder, job: Process) -> bool:
    states = [seed_status(path) for path in job.folders]
    return FAILED in states or (not DONE.issuperset(states) and folder.failure(job) is not None)
