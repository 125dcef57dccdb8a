"""The lock of a run folder: one process has it, whatever the folder is called and whatever the file system knows."""

import errno
import os

import pytest

from rlrat.errors import InputError
from rlrat.runs import run_lock
from rlrat.runs.folder import RunFolder
from rlrat.runs.locks import Owner, Watch
from rlrat.runs.run_lock import RunLock


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scratch" / "x").mkdir(parents=True)
    (tmp_path / "seed0").symlink_to(tmp_path / "scratch" / "x")
    return tmp_path / "seed0"


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", flock)
        run_lock._say_no_locks.cache_clear()

    yield refuse
    run_lock._say_no_locks.cache_clear()


def test_a_folder_has_one_lock_under_all_its_names(folder, tmp_path):
    held = RunLock(folder)
    for name in (folder, tmp_path / "scratch" / "x", tmp_path / "scratch" / ".." / "seed0"):
        with pytest.raises(InputError, match="is being trained by another process"):
            RunLock(name)
    held.check()
    held.release()
    RunLock(tmp_path / "scratch" / "x").release()


@pytest.mark.parametrize("how", ["removed", "replaced", "another's"])
def test_a_lock_whose_file_is_gone_stops_all_writing(folder, how):
    run = RunFolder(folder)
    with run.locked():
        run.write_json("config.json", {"a": 1})
        run.save_checkpoint({"update": 1, "state": {}})
        lock = folder.resolve().with_name(".x.lock")
        lock.unlink()
        if how == "replaced":
            lock.touch()
        if how == "another's":
            other = RunLock(folder)
            other.check()
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        writes = (
            lambda: run.write_json("config.json", {"a": 2}),
            lambda: run.save_checkpoint({"update": 2, "state": {}}),
            lambda: run.append_evaluation([], [{"update": 2}]),
            lambda: run.append_activations(2, [{"layer": "x"}]),
            lambda: run.go_back(0, set()),
            run.forget,
            run.delete,
        )
        for write in writes:
            with pytest.raises(InputError, match=r"was removed or replaced.*stopped without writing"):
                write()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    if how == "another's":
        other.release()


def test_a_file_that_is_removed_between_its_making_and_its_lock_is_made_again(folder, monkeypatch):
    import fcntl

    plain, calls = fcntl.flock, []

    def flock(file, how):
        calls.append(file)
        if len(calls) == 1:
            folder.resolve().with_name(".x.lock").unlink()
        plain(file, how)

    monkeypatch.setattr("fcntl.flock", flock)
    held = RunLock(folder)
    assert len(calls) == 2
    held.check()
    held.release()


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "ENOTSUP"])
def test_without_locks_an_owner_file_is_one_and_that_is_said_once(folder, without_locks, capsys, name):
    without_locks(getattr(errno, name))
    held = RunLock(folder)
    RunLock(folder.with_name("seed1")).release()
    assert capsys.readouterr().err.count("has no locks") == 1
    with pytest.raises(InputError, match="is being trained by another process"):
        RunLock(folder.resolve())
    held.check()
    (file,) = folder.resolve().parent.glob(".x.owner.*")
    file.unlink()
    with pytest.raises(InputError, match="was removed or replaced"):
        held.check()
    held.release()


def test_an_owner_file_is_touched_while_its_process_trains(folder, without_locks, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    without_locks(errno.ENOLCK)
    held = RunLock(folder)
    (file,) = folder.resolve().parent.glob(".x.owner.*")
    os.utime(file, (0, 0))
    for _ in range(1000):
        if file.stat().st_mtime > 0:
            break
        held._held._thread.join(0.01)
    assert file.stat().st_mtime > 0
    held.release()
    assert not file.exists()


def test_the_owner_file_of_a_killed_process_is_no_lock(folder, without_locks):
    without_locks(errno.ENOLCK)
    from dataclasses import replace

    Watch().acquire(folder.resolve().with_name(".x.owner"), replace(Owner(), started="1"))
    RunLock(folder).release()


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="cannot write"), RunFolder(tmp_path / "a" / "seed0").locked():
        pass


def test_what_killed_processes_left_half_written_is_removed(folder):
    run = RunFolder(folder)
    run.write_json("config.json", {})
    left = ["checkpoint.pt.tmp", "checkpoint.previous.pt.tmp", "checkpoint.pt.77.0123abcd.tmp", "summary.json.9.f.tmp"]
    kept = ["config.json", "mine.tmp", "checkpoint.pt.tmp.mine", "notes.checkpoint.pt.tmp"]
    for name in [*left, *kept[1:]]:
        (folder / name).write_text("half")
    with run.locked():
        run.remove_temporaries()
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)
