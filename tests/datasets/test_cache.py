import dataclasses
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rlrat.datasets import Dataset, cache
from rlrat.errors import InputError

_ARRAYS = ["observations", "rewards", "episode_starts", "action_low", "terminations"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data" / "source.bin"
    path.parent.mkdir()
    path.write_bytes(b"first content")
    return cache.Source("some/set-v0", (path,), path.with_name("source.bin.rlrat-cache"))


@pytest.fixture
def beside(source):
    return source.beside


@pytest.fixture
def user(tmp_path):
    return tmp_path / "cache" / "rlrat" / "datasets"


@pytest.fixture
def convert(make_episode):
    def make():
        make.calls += 1
        return Dataset.from_episodes(
            [make_episode(5), make_episode(3, seed=make.seed)], id="some/set-v0", env_id="A-v5"
        )

    make.calls, make.seed = 0, 1
    return make


def entries(root):
    return [path for path in root.iterdir() if path.is_dir()]


def is_mapped(dataset):
    return all(isinstance(getattr(dataset, name), np.memmap) for name in _ARRAYS)


def assert_same(one, other):
    for field in dataclasses.fields(Dataset):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_the_second_load_maps_the_first_ones_arrays(source, convert, beside, user):
    first = cache.load(source, convert)
    second = cache.load(source, convert)
    assert convert.calls == 1
    assert is_mapped(first)
    assert is_mapped(second)
    assert Path(second.observations.filename).parent.parent == beside
    assert not user.exists()
    assert_same(second, convert())
    with pytest.raises(ValueError, match="read-only"):
        second.rewards[0] = 0


def test_a_warm_load_does_not_read_the_source(source, convert, monkeypatch):
    cache.load(source, convert)
    monkeypatch.setattr(cache, "content_key", lambda _: pytest.fail("the source was read"))
    cache.load(source, convert)


def test_a_touched_source_is_hashed_but_not_converted(source, convert, monkeypatch):
    cache.load(source, convert)
    os.utime(source.files[0], ns=(1, 1))
    assert is_mapped(cache.load(source, convert))
    assert convert.calls == 1
    monkeypatch.setattr(cache, "content_key", lambda _: pytest.fail("the new time was not noted"))
    cache.load(source, convert)


def test_a_changed_source_is_converted_anew_and_the_old_entry_removed(source, convert, beside):
    first = cache.load(source, convert)
    source.files[0].write_bytes(b"other content")  # of the same size
    os.utime(source.files[0], ns=(1, 1))
    convert.seed = 2
    second = cache.load(source, convert)
    assert convert.calls == 2
    assert second.fingerprint != first.fingerprint
    assert len(entries(beside)) == 1
    assert first.rewards.sum() != 0  # still mapped


def test_every_file_of_the_source_counts(source, convert):
    other = source.files[0].with_name("metadata.json")
    other.write_bytes(b"{}")
    source = dataclasses.replace(source, files=(*source.files, other))
    cache.load(source, convert)
    other.write_bytes(b"{} ")
    cache.load(source, convert)
    assert convert.calls == 2


def test_another_id_is_another_entry(source, convert):
    cache.load(source, convert)
    cache.load(dataclasses.replace(source, id="another"), convert)
    assert convert.calls == 2


def test_another_format_version_is_another_entry(source, convert, monkeypatch):
    cache.load(source, convert)
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    cache.load(source, convert)
    assert convert.calls == 2


def test_an_entry_of_an_older_format_goes_when_its_source_is_converted_anew(source, convert, beside, monkeypatch):
    cache.load(source, convert)
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    cache.load(source, convert)
    assert len(entries(beside)) == 1


def test_other_settings_are_another_entry(source, convert, beside, user):
    for root, beside_ in ((beside, beside), (user, None)):
        plain = dataclasses.replace(source, beside=beside_)
        bounded = dataclasses.replace(plain, settings="action bounds -2, 2")
        calls = convert.calls
        for _ in range(2):
            cache.load(plain, convert)
            cache.load(bounded, convert)
        assert convert.calls == calls + 2
        assert len(entries(root)) == len(list(root.glob("*.json"))) == 2


def rewrite(path, content):
    """Other content of the same size and modification time."""
    about = path.stat()
    assert len(content) == about.st_size
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_other_content_of_the_same_size_and_time_is_converted_anew(source, convert):
    cache.load(source, convert)
    rewrite(source.files[0], b"other content")
    cache.load(source, convert)
    assert convert.calls == 2


def test_a_copy_with_its_times_is_hashed_once(source, convert, tmp_path, monkeypatch):
    cache.load(source, convert)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")  # with times
    copy = tmp_path / "copy" / "source.bin"
    copied = cache.Source(source.id, (copy,), cache.beside_file(copy))
    assert is_mapped(cache.load(copied, convert))
    assert convert.calls == 1
    monkeypatch.setattr(cache, "content_key", lambda _: pytest.fail("the copy's numbers were not noted"))
    assert is_mapped(cache.load(copied, convert))


def test_machines_that_share_a_cache_do_not_undo_each_others_stamps(source, convert, beside, monkeypatch):
    hashed, look, content_key = [], cache.look, cache.content_key

    def load(machine):
        monkeypatch.setattr(cache, "look", lambda source: (look(source)[0], machine))
        monkeypatch.setattr(cache, "content_key", lambda source: hashed.append(machine) or content_key(source))
        cache.load(source, convert)

    for machine in ("here", "there", "here", "there", "here"):
        load(machine)
    assert hashed == ["here", "there"]
    assert convert.calls == 1
    for machine in range(20):
        load(str(machine))
    assert len(json.loads((beside / "source.json").read_text())["sights"]) == 16


def test_a_copy_of_a_cache_without_its_times_is_checked_once(source, convert, beside, monkeypatch):
    cache.load(source, convert)
    for path in entries(beside)[0].glob("*.npy"):
        os.utime(path)
    assert is_mapped(cache.load(source, convert))
    assert convert.calls == 1
    monkeypatch.setattr(cache.entries, "_check_content", lambda *_: pytest.fail("the times were not set back"))
    cache.load(source, convert)


def test_a_source_that_cannot_be_read_is_one_line(source, convert, monkeypatch):
    with pytest.raises(InputError, match=r"some/set-v0: .*gone\.bin is not there any more"):
        cache.load(dataclasses.replace(source, files=(source.files[0].with_name("gone.bin"),)), convert)

    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied", "source.bin")

    monkeypatch.setattr(cache, "content_key", refuse)
    with pytest.raises(InputError, match=r"some/set-v0: cannot read source\.bin: Permission denied"):
        cache.load(source, convert)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0])
def test_the_users_cache_is_private(source, convert, user, umask):
    source = dataclasses.replace(source, beside=None)
    before = os.umask(umask)
    try:
        cache.load(source, convert)
    finally:
        os.umask(before)
    assert mode(user) == mode(user.parent) == 0o700


def test_a_users_cache_that_was_open_is_closed(source, convert, user):
    user.mkdir(parents=True)
    for folder in (user, user.parent, user.parent.parent):
        folder.chmod(0o775)
    cache.load(dataclasses.replace(source, beside=None), convert)
    assert mode(user) == mode(user.parent) == 0o700
    assert mode(user.parent.parent) == 0o775  # ~/.cache is not ours


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0])
@pytest.mark.parametrize(
    ("folder", "file", "root", "array"),
    [
        (0o755, 0o644, 0o755, 0o644),
        (0o2775, 0o664, 0o2775, 0o644),  # a laboratory's
        (0o700, 0o600, 0o700, 0o600),
        (0o755, 0o600, 0o755, 0o600),  # a private file in an open folder
        (0o750, 0o640, 0o750, 0o640),
        (0o1777, 0o644, 0o755, 0o644),  # such as /tmp
    ],
)
def test_a_cache_beside_its_source_is_as_open_as_that(source, convert, beside, umask, folder, file, root, array):
    source.files[0].chmod(file)
    beside.parent.chmod(folder)
    before = os.umask(umask)
    try:
        cache.load(source, convert)
        assert is_mapped(cache.load(source, convert))
    finally:
        os.umask(before)
    assert convert.calls == 1
    assert mode(beside) == mode(entries(beside)[0]) == root
    files = [path for path in beside.rglob("*") if path.is_file()]
    assert len(files) == 14
    assert {mode(path) for path in files} == {array}


def test_a_cache_that_more_people_can_write_is_not_used(source, convert, beside, user):
    cache.load(source, convert)
    beside.chmod(0o777)
    cache.load(source, convert)
    assert convert.calls == 2
    assert len(entries(user)) == 1
    beside.chmod(0o755)
    entries(beside)[0].chmod(0o775)
    user.rename(user.with_name("gone"))
    cache.load(source, convert)
    assert convert.calls == 3
    assert mode(entries(beside)[0]) == 0o755


def test_a_link_is_no_cache(source, convert, beside, user):
    elsewhere = beside.with_name("elsewhere")
    elsewhere.mkdir(0o700)
    beside.symlink_to(elsewhere)
    cache.load(source, convert)
    assert list(elsewhere.iterdir()) == []
    assert mode(elsewhere) == 0o700
    assert len(entries(user)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_for_a_stamp_is_not_waited_for(source, convert, beside):
    cache.load(source, convert)
    stamp = beside / "source.json"
    stamp.unlink()
    os.mkfifo(stamp)
    cache.load(source, convert)
    assert convert.calls == 1
    assert stat.S_ISREG(stamp.stat().st_mode)


def test_a_linked_entry_is_not_followed(source, convert, beside):
    cache.load(source, convert)
    (entry,) = entries(beside)
    entry.rename(beside.with_name("elsewhere"))
    entry.symlink_to(beside.with_name("elsewhere"))
    cache.load(source, convert)
    assert convert.calls == 2
    assert not entry.is_symlink()


def test_a_moved_folder_keeps_its_cache(source, convert, tmp_path):
    cache.load(source, convert)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = tmp_path / "moved" / "source.bin"
    cache.load(cache.Source(source.id, (moved,), moved.with_name("source.bin.rlrat-cache")), convert)
    assert convert.calls == 1


def test_without_a_folder_beside_the_users_is_taken(source, convert, user):
    source = dataclasses.replace(source, beside=None)
    cache.load(source, convert)
    assert is_mapped(cache.load(source, convert))
    assert len(entries(user)) == 1


@pytest.mark.parametrize("kind", ["file in its place", "mode without w"])
def test_where_beside_is_read_only_the_users_folder_is_taken(source, convert, beside, user, kind):
    if kind == "mode without w":
        beside.parent.chmod(0o555)
    else:
        beside.write_text("a file")
    try:
        cache.load(source, convert)
        assert is_mapped(cache.load(source, convert))
    finally:
        beside.parent.chmod(0o755)
    assert convert.calls == 1
    assert len(entries(user)) == 1
    assert not beside.is_dir()


@pytest.mark.parametrize("kind", ["nowhere to write", "no home"])
def test_without_any_folder_it_works_in_memory(source, convert, beside, user, monkeypatch, kind):
    beside.write_text("a file")
    if kind == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        user.parent.parent.write_text("a file")
    for _ in range(2):
        dataset = cache.load(source, convert)
        assert not is_mapped(dataset)
        assert len(dataset) == 8
    assert convert.calls == 2


def test_the_users_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(cache.user_root()) == "/caches/rlrat/datasets"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert str(cache.user_root()) == "/home/someone/.cache/rlrat/datasets"


@pytest.mark.parametrize("name", ["observations.npy", "episode_starts.npy", "manifest.json", "source.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "empty", "garbled"])
def test_a_damaged_cache_is_rebuilt(source, convert, beside, user, name, damage):
    cache.load(source, convert)
    path = beside / name if name == "source.json" else entries(beside)[0] / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"short": content[:-5], "empty": b"", "garbled": b"\xff" * len(content)}[damage])
    assert_same(cache.load(source, convert), convert())
    calls = convert.calls
    assert is_mapped(cache.load(source, convert))
    assert convert.calls == calls
    assert len(entries(beside)) == 1
    assert not user.exists()


def test_an_array_of_another_shape_is_damage(source, convert, beside):
    cache.load(source, convert)
    np.save(entries(beside)[0] / "rewards.npy", np.zeros(9, np.float32))
    assert len(cache.load(source, convert).rewards) == 8


def test_a_full_disk_leaves_nothing_behind(source, convert, beside, user, monkeypatch):
    def full(path, *_, **__):
        if Path(path).stem == "rewards":
            raise OSError(errno.ENOSPC, "No space left on device")
        Path(path).write_bytes(b"")

    monkeypatch.setattr(np, "save", full)
    assert not is_mapped(cache.load(source, convert))
    assert list(beside.iterdir()) == list(user.iterdir()) == []


def test_a_source_that_changes_during_the_conversion_is_not_kept(source, convert, beside):
    def convert_while_changing():
        source.files[0].write_bytes(b"longer content than before")
        return convert()

    assert len(cache.load(source, convert_while_changing)) == 8
    assert not beside.exists()


def test_who_comes_second_uses_the_first_ones_entry(source, convert, beside, user):
    def convert_while_another_does():
        cache.load(source, convert)
        return convert()

    dataset = cache.load(source, convert_while_another_does)
    assert is_mapped(dataset)
    assert len(entries(beside)) == 1
    assert not user.exists()


def test_many_at_once(source, make_episode, beside):
    loaded = []

    def load():
        loaded.append(cache.load(source, lambda: Dataset.from_episodes([make_episode(2000)], id=source.id)))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 8
    assert len({dataset.fingerprint for dataset in loaded}) == 1
    assert len(entries(beside)) == 1
    assert is_mapped(cache.load(source, lambda: pytest.fail("nothing was kept")))


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from rlrat.datasets import Dataset, cache
from rlrat.errors import InputError

save, moment, path = np.save, sys.argv[2], Path(sys.argv[1])

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def save_half(file, array, **settings):
    save(file, array, **settings)
    if Path(file).stem == "rewards":
        kill()

if moment == "writing":
    np.save = save_half
elif moment == "renaming":
    os.rename = kill
else:
    os.replace = kill
episode = {"observations": np.zeros((9, 4)), "actions": np.zeros((8, 2)), "rewards": np.zeros(8),
           "terminations": np.zeros(8, bool), "truncations": np.zeros(8, bool)}
cache.load(cache.Source("some/set-v0", (path,), path.with_name("source.bin.rlrat-cache")),
           lambda: Dataset.from_episodes([episode], id="some/set-v0"))
"""


@pytest.mark.parametrize("moment", ["writing", "renaming", "stamping"])
def test_a_kill_at_any_instant_is_harmless(source, convert, beside, moment):
    killed = subprocess.run([sys.executable, "-c", KILLED, source.files[0], moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = list(beside.glob(".tmp-*"))
    assert len(left) == 1
    dataset = cache.load(source, convert)
    assert len(dataset) == 8
    assert is_mapped(dataset)
    assert left[0].exists()  # it might be another process's
    os.utime(left[0], (1, 1))
    source.files[0].write_bytes(b"new content, so that the cache is written again")
    cache.load(source, convert)
    assert not left[0].exists()
