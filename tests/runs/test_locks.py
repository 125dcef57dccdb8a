import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from rlrat.errors import InputError
from rlrat.runs.locks import Held, Lock, Owner, Watch, acquire


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "locks" / "seed0"


def elsewhere(**changes) -> Owner:
    return replace(Owner(), machine="another", host="node7", **changes)


def ended() -> Owner:
    """An owner whose process has ended, on this machine."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = replace(Owner(), pid=process.pid, started="0")
    process.wait()
    return owner


def files(lock) -> list[str]:
    return sorted(os.listdir(lock.parent))


def test_one_has_it_until_it_is_released(lock):
    first, second = Owner(), Owner()
    held = Watch().acquire(lock, first)
    assert isinstance(held, Lock)
    assert Watch().acquire(lock, second) == first
    assert Watch().holder(lock) == first
    assert held.touch()
    held.release()
    assert Watch().holder(lock) is None
    assert isinstance(Watch().acquire(lock, second), Lock)


def test_an_ended_process_on_this_machine_leaves_a_lock_that_is_stale_at_once(lock):
    assert isinstance(Watch().acquire(lock, ended()), Lock)
    assert Watch().holder(lock) is None
    assert isinstance(Watch().acquire(lock, Owner()), Lock)
    assert files(lock) == ["seed0.2"]


def test_a_number_that_another_process_has_now_is_not_mistaken_for_the_owner(lock):
    Watch().acquire(lock, replace(Owner(), started="1"))
    assert Watch().holder(lock) is None


def test_another_hosts_lock_is_stale_when_it_stops_moving_by_ones_own_clock(lock):
    clock = Clock()
    watch = Watch(stale=60, clock=clock)
    theirs = Watch().acquire(lock, elsewhere())
    for _ in range(5):  # it moves, and whatever its clock says does not matter
        assert watch.acquire(lock, Owner()).host == "node7"
        clock.now += 50
        os.utime(lock.with_name("seed0.1"), ns=(0, int(1e9 * (1e10 - clock.now))))  # the year 2286, backwards
    assert watch.acquire(lock, Owner()).host == "node7"
    clock.now += 59
    assert watch.acquire(lock, Owner()).host == "node7"
    clock.now += 1
    mine = watch.acquire(lock, Owner())
    assert isinstance(mine, Lock)
    assert not theirs.touch()
    assert mine.touch()


def test_its_owner_waking_up_in_between_keeps_it(lock, monkeypatch):
    clock = Clock()
    watch = Watch(stale=60, clock=clock)
    theirs = Watch().acquire(lock, elsewhere())
    watch.acquire(lock, Owner())
    clock.now += 61
    import rlrat.runs.locks as module

    create = module._create

    def wake(file, owner):
        theirs.touch()
        os.utime(lock.with_name("seed0.1"), ns=(1, 1))
        return create(file, owner)

    monkeypatch.setattr(module, "_create", wake)
    assert isinstance(watch.acquire(lock, Owner()), Owner)
    assert files(lock) == ["seed0.1"]
    assert theirs.touch()


def test_one_of_many_takes_a_stale_lock_over(lock):
    for round in range(20):
        Watch().acquire(lock, ended() if round == 0 else replace(Owner(), started="1"))
        barrier, got = threading.Barrier(8), []

        def take(barrier=barrier, got=got, lock=lock):
            barrier.wait()
            got.append(Watch().acquire(lock, Owner()))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [found for found in got if isinstance(found, Lock)]
        assert len(held) <= 1  # they may all back out, and come again
        for one in held or [found for found in [Watch().acquire(lock, Owner())] if isinstance(found, Lock)]:
            assert one.touch()
            one.release()
        assert files(lock) == []


def test_processes_never_hold_it_at_once(lock, tmp_path):
    """Each enters, checks that it is alone, and leaves or dies."""
    script = f"""
import os, random, sys, time
from pathlib import Path
from rlrat.runs.locks import Lock, Owner, Watch
lock, inside = Path({str(lock)!r}), Path({str(tmp_path / "inside")!r})
watch, entered, until = Watch(), 0, time.monotonic() + 30
while entered < 15 and time.monotonic() < until:
    held = watch.acquire(lock, Owner())
    if not isinstance(held, Lock):
        time.sleep(random.random() * 0.002)
        continue
    entered += 1
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    time.sleep(0.001)
    inside.unlink()
    if entered == 15 and sys.argv[1] == "dies":
        os._exit(0)
    held.release()
sys.exit(entered < 15)
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, how]) for how in ("dies", "ends", "dies", "ends")]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]


def test_a_lock_that_was_removed_or_taken_is_lost(lock):
    held = Watch().acquire(lock, Owner())
    lock.with_name("seed0.1").unlink()
    assert not held.touch()
    held.release()
    held = Watch().acquire(lock, Owner())
    lock.with_name("seed0.1").write_text(json.dumps(asdict(elsewhere(token="theirs"))))
    assert not held.touch()
    held.release()
    assert files(lock) == ["seed0.1"]  # it is not one's own any more


@pytest.mark.parametrize("content", ["", "{", '{"host": "of a newer version", "what": 1}'])
def test_a_file_that_cannot_be_read_is_anothers_until_it_is_stale(lock, content):
    clock = Clock()
    watch = Watch(stale=60, clock=clock)
    lock.parent.mkdir()
    lock.with_name("seed0.3").write_text(content)
    assert watch.acquire(lock, Owner()).host == "an unknown host"
    clock.now = 60
    assert isinstance(watch.acquire(lock, Owner()), Lock)
    assert files(lock) == ["seed0.4"]


def test_without_hard_links_the_creation_is_exclusive_too(lock, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    first = Owner()
    assert isinstance(Watch().acquire(lock, first), Lock)
    assert Watch().acquire(lock, Owner()) == first
    assert files(lock) == ["seed0.1"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write the lock .*seed0"):
        Watch().acquire(tmp_path / "locks" / "seed0", Owner())


def test_a_sleeping_process_keeps_its_lock_on_its_machine(lock):
    script = f"""
import time
from pathlib import Path
from rlrat.runs.locks import Owner, Watch
Watch().acquire(Path({str(lock)!r}), Owner())
print("held", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    clock = Clock()
    watch = Watch(stale=60, clock=clock)
    assert watch.acquire(lock, Owner()).pid == process.pid
    clock.now = 1000
    assert watch.acquire(lock, Owner()).pid == process.pid
    process.kill()
    process.wait()
    time.sleep(0.05)
    assert isinstance(watch.acquire(lock, Owner()), Lock)


def test_who_acquires_waits_out_the_lock_of_a_host_that_is_gone(lock):
    Watch().acquire(lock, elsewhere())
    (held,) = acquire([lock], Owner(), Watch(stale=0.5))
    assert held.touch()
    held.release()


def test_who_acquires_leaves_a_lock_that_another_host_keeps_alive_and_those_it_had(lock):
    theirs = Watch().acquire(lock, elsewhere())
    over = threading.Event()

    def beat():
        while not over.wait(0.05):
            theirs.touch()

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(Held, match="seed0 is in the hands of process"):
        acquire([lock, lock.with_name("seed00")], Owner(), Watch(stale=5))
    over.set()
    thread.join()
    assert files(lock) == ["seed0.1"]
