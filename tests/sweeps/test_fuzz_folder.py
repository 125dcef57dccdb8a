"""A sweep's folder whose files are damaged, or written by somebody who means harm."""

import json
import os
import random
from dataclasses import asdict

import pytest
from rich.console import Console

from rlrat.errors import InputError, heard_warnings
from rlrat.runs.locks import Owner, Watch
from rlrat.sweeps import commands, grid, slurm
from rlrat.sweeps.agents import read_agent
from rlrat.sweeps.estimate import Probe, recalled
from rlrat.sweeps.folder import Failure, SweepFolder, clash, newest_updates
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.launcher import WorkerTask, read_outcome
from rlrat.sweeps.named import Named
from rlrat.sweeps.options import Options, settings
from rlrat.sweeps.remembered import recall, remember
from tests.sweeps.whole_sweeps import TOY_FILE, write_record

ODD = (
    *(
        None,
        True,
        0,
        -1,
        10**30,
        10**400,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "\x1b[2J",
        "../..",
        "\ud800",
        "\0",
        [],
        {},
    ),
    *([None], {"a": []}, "x" * 5000, "finished", "9" * 30, [[[[]]]]),
)
HEADER = "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score"


class Prepared:
    """Two cells of two seeds, of which one process has failed and one is finished, with a file of every kind."""

    def __init__(self, run_dir) -> None:
        self.folder = SweepFolder(run_dir)
        asked = Grid((Block((str(TOY_FILE),), activations=("relu", "tanh")),), seeds=2)
        self.jobs = make_jobs(expand(asked, run_dir), None)
        remember(self.folder, asked.absolute(), settings(Options()), self.jobs)
        (self.grid,) = self.folder.grid_files()
        failed, done = self.jobs
        for job in self.jobs:
            for path in job.folders:
                path.mkdir(parents=True)
                (path / "config.json").write_text(json.dumps({"identity": {"agent": "toy", "env_id": "m:A-v0"}}))
                (path / "evaluations.csv").write_text(f"{HEADER}\n100,2.0,10.0,,2,321.0,0,9,12.5\n")
        for path in done.folders:
            (path / "summary.json").write_text(json.dumps({"status": "diverged", "final_score": 1.5, "diverged_at": 7}))
        self.outcome = self.folder.job_file(failed, "outcome-a.json")
        probe = {"argv": ["a"], **asdict(Probe("toy", 1.0, 1.0, 1.0, 2**20, None))}
        records = {
            self.folder.job_file(failed, "failed.json"): asdict(Failure("exit code 1", "host", 2, ["its last line"])),
            self.folder.job_file(failed, "slurm.json"): {"job": "7_0", "outcome": self.outcome.name},
            self.outcome: {"code": 1, "host": "host", "memory": 2**20},
            self.folder.path / "probes" / f"{failed.id}.json": probe,
            self.folder.permit(Owner(machine="another")): asdict(Owner(machine="another")),
            self.folder.lock(failed.folders[0]).with_name("seed0.1"): asdict(Owner(machine="another")),
        }
        for file, content in records.items():
            self.folder.write(file, content)
        names = ("config.json", "summary.json", "evaluations.csv")
        self.files = [self.grid, *records, *(done.folders[0] / name for name in names)]

    def read(self) -> None:
        """All that is ever read of them."""
        failed, done = self.jobs
        code, host = read_outcome(WorkerTask(failed, self.outcome, None))
        assert code is None or (isinstance(code, int) and not set(host) & {"\n", " ", "-"})
        record = slurm._record(self.folder.job_file(failed, "slurm.json"))
        assert record is None or "/" not in record.outcome
        found = recalled(self.folder.path / "probes" / f"{failed.id}.json", ["a"])
        assert found is None or found.seconds(failed) > 0
        clash(done.folders[0], {"agent": "toy", "env_id": "A-v0"}, {})
        assert len(newest_updates(done)) == 2
        Watch().holder(self.folder.lock(failed.folders[0]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("fuzz") / "runs")


def damaged(chance: random.Random, whole: bytes) -> bytes:
    kind, at = chance.randrange(5), chance.randrange(len(whole))
    if kind == 0:
        return whole[:at]
    if kind == 1:
        return whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
    if kind == 2:
        return whole[:at] + whole[at : at + 40] + whole[at:]
    if kind == 3:
        return chance.randbytes(chance.randrange(200))
    return (b"[" if at % 2 else b'{"a":') * 100_000


def changed(chance: random.Random, content):
    """A JSON value in which one part is something else, is gone, or is there under another name."""
    if not isinstance(content, dict | list) or not content or chance.random() < 0.1:
        return chance.choice(ODD)
    content = content.copy()
    key = chance.choice(list(content)) if isinstance(content, dict) else chance.randrange(len(content))
    if chance.random() < 0.2:
        value = content.pop(key)
        if isinstance(content, dict) and chance.random() < 0.5:
            content[chance.choice(("odd", "", "\x1b", key + "s"))] = value
    else:
        content[key] = changed(chance, content[key])
    return content


def line(*reads) -> str | None:
    """The one line that reading ended with, if it did."""
    try:
        for read in reads:
            read()
    except InputError as error:
        return str(error)
    return None


def seen(sweep) -> tuple:
    """What a recalled sweep is."""
    plan = [(process.id, process.folder, process.seeds, process.total_updates) for process in sweep.processes or ()]
    return sweep.grid, sweep.options, plan


@pytest.mark.parametrize("rounds", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_lies_in_the_folder_there_is_a_status_or_one_line(prepared, console, monkeypatch, rounds):
    monkeypatch.setattr(commands, "sweep", lambda *_, **__: 0)
    known = read_agent(str(TOY_FILE))
    monkeypatch.setattr(grid, "read_agent", lambda *_: known)  # which takes most of the time
    run_dir, chance = prepared.folder.run_dir, random.Random(0)

    def status() -> str:
        commands.status(run_dir, console, [str(TOY_FILE)])
        return console.end_capture()

    def look() -> None:
        console.begin_capture()
        said.append(status())

    def retry() -> None:
        commands.retry(run_dir, Console(quiet=True), Named((str(TOY_FILE),)))

    (whole_sweep,), said = map(seen, recall(prepared.folder)), []
    look()
    assert "2 cells, 4 runs: 2 diverged, 2 running" in said[0]
    kinds = {"equal": 0, "less": 0, "line": 0}
    for number in range(rounds):
        file = prepared.grid if number % 2 else chance.choice(prepared.files)
        whole, is_forged = file.read_bytes(), False
        if file.suffix == ".csv" or chance.random() < 0.4:
            file.write_bytes(damaged(chance, whole))
        else:
            content = changed(chance, json.loads(whole))
            is_forged = file == prepared.grid and isinstance(content, dict) and chance.random() < 0.7
            if is_forged:
                write_record(file, content)
            else:
                file.write_text(json.dumps(content))
        with heard_warnings() as warned:
            error = line(look)
            if file == prepared.grid and not is_forged and error is None:
                assert [seen(found)[:2] for found in recall(prepared.folder)] == [whole_sweep[:2]]
            error = error or line(retry, prepared.read)
        kinds["line" if error else "less" if warned or said[-1] != said[0] else "equal"] += 1
        assert said[-1].replace("\n", "").isprintable()
        file.write_bytes(whole)
    assert min(kinds.values()) > rounds // 20, kinds
    look()
    assert said[-1] == said[0]


@pytest.fixture
def console() -> Console:
    return Console(width=200, highlight=False, markup=False, emoji=False)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_neither_waited_for_nor_a_traceback(tmp_path, sweeper, kind):
    prepared = Prepared(tmp_path / "runs")
    sweeper.run_dir = prepared.folder.run_dir
    make = {"folder": os.mkdir, "pipe": os.mkfifo, "loop": lambda path: os.symlink(path, path)}[kind]
    for file in prepared.files:
        whole = file.read_bytes()
        file.unlink()
        make(file)
        error = line(lambda: sweeper.command("status"), prepared.read)
        assert (str(file) in (error or "")) == (file == prepared.grid)
        (os.rmdir if kind == "folder" else os.unlink)(file)
        file.write_bytes(whole)
    assert sweeper.command("status") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_files_of_somebody_else_are_one_line_or_ignored(tmp_path, sweeper):
    prepared = Prepared(tmp_path / "runs")
    sweeper.run_dir = prepared.folder.run_dir
    for path in tmp_path.parents:
        if not path.stat().st_mode & 0o055:
            path.chmod(0o755)
    for path in [*prepared.files, prepared.folder.grids, prepared.folder.path / "locks", prepared.folder.path]:
        mode = path.stat().st_mode
        path.chmod(0)
        os.setresuid(65534, 65534, 0)
        try:
            error = line(lambda: sweeper.command("status"), prepared.read)
        finally:
            os.setresuid(0, 0, 0)
            path.chmod(mode)
        assert error is None or "Permission denied" in error
    assert sweeper.command("status") == 0


def test_one_damaged_sweep_leaves_the_others_to_be_seen(tmp_path, sweeper, capsys):
    prepared = Prepared(tmp_path / "runs")
    sweeper.run_dir = prepared.folder.run_dir
    (prepared.folder.grids / "older.json").write_text("{")
    assert sweeper.command("status") == 0
    assert "2 cells, 4 runs" in sweeper.said
    assert "older.json cannot be used" in capsys.readouterr().err
