"""How a run's files are written: whole or not at all, and a refusal is one line."""

import errno
import os

import pytest

from rlrat.errors import InputError
from rlrat.runs.files import make_output, remove_temporaries, replace, sync, temporary, unique_name, writing


@pytest.mark.parametrize(
    ("number", "saved", "said"),
    [
        (errno.ENOSPC, True, "No space left on device; what was saved before is whole: make room and give the same"),
        (errno.EDQUOT, False, "quota exceeded: make room and give the same command again"),
        (errno.EROFS, True, "Read-only file system; what was saved before is whole: choose another --run-dir"),
        (errno.EACCES, False, "Permission denied: choose another --run-dir"),
    ],
)
def test_what_a_disk_refuses_is_one_line(tmp_path, number, saved, said):
    with pytest.raises(InputError) as caught, writing(tmp_path / "x", saved=saved):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'x'}: ")
    assert said in str(caught.value)
    assert caught.value.__cause__.errno == number


def test_a_file_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "x"
    replace(path, b"before")
    assert path.read_bytes() == b"before"
    with monkeypatch.context() as patch:

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="make room"):
            replace(path, b"after")
    assert path.read_bytes() == b"before"
    replace(path, b"after")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"after")]


def test_a_temporary_file_is_whole_inside_and_gone_after(tmp_path):
    with temporary(tmp_path / "x", b"content") as file:
        assert (file.parent, file.read_bytes()) == (tmp_path, b"content")
    with pytest.raises(KeyError), temporary(tmp_path / "x", b"content"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_no_two_names_are_the_same(tmp_path):
    names = {unique_name(tmp_path / "x", "tmp").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"x.{os.getpid()}.") and name.endswith(".tmp") for name in names)


def test_only_leftovers_of_a_runs_own_files_are_removed(tmp_path):
    for name in ("x", "x.tmp", "x.1.ab.tmp", "x.1.ab.moved", "y.1.ab.tmp", "xx.1.ab.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "x.folder.tmp").mkdir()
    (tmp_path / "x.link.tmp").symlink_to(tmp_path / "x")
    remove_temporaries(tmp_path, ("x",))
    left = {"x", "x.1.ab.moved", "y.1.ab.tmp", "xx.1.ab.tmp", "x.folder.tmp", "x.link.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == left
    remove_temporaries(tmp_path / "nowhere", ("x",))


def test_a_system_that_syncs_no_folders_is_no_mistake(tmp_path, monkeypatch):
    sync(tmp_path)
    numbers = iter((errno.EINVAL, errno.EIO))

    def refuse(_):
        number = next(numbers)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nowhere")


def test_an_output_is_a_folder_that_can_be_made(tmp_path):
    make_output(tmp_path / "a" / "b", "tables")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "x.png", r"--output is .*x\.png: give a folder, in which tables are written"),
        (tmp_path / "file", "--output is .*file: give a folder"),
        (tmp_path / "file" / "in", "cannot make the folder .*: Not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            make_output(path, "tables")
