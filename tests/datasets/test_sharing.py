"""Who may have written a cache, over the modes and owners of it and of what it lies in."""

import os
import stat

import pytest

from rlrat.datasets.sharing import close_file, is_trusted, make_like, make_private

GROUP, STRANGER = 54321, 54322
gives_away = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def around(tmp_path):
    folder = tmp_path / "around"
    folder.mkdir()
    return folder


@pytest.fixture
def inner(around):
    folder = around / "inner"
    folder.mkdir()
    return folder


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("outer", "own", "trusted"),
    [
        (0o755, 0o755, True),
        (0o755, 0o700, True),
        (0o755, 0o775, False),
        (0o755, 0o757, False),
        (0o775, 0o775, True),
        (0o775, 0o777, False),
        (0o777, 0o777, True),
        (0o1777, 0o755, True),
        (0o1777, 0o775, False),
        (0o1777, 0o777, False),
    ],
)
def test_modes(around, inner, outer, own, trusted):
    around.chmod(outer)
    inner.chmod(own)
    assert is_trusted(inner, around) is trusted


@gives_away
@pytest.mark.parametrize(
    ("outer", "own", "trusted"),
    [(0o755, 0o755, False), (0o775, 0o755, False), (0o777, 0o755, True), (0o1777, 0o755, False)],
)
def test_another_owner(around, inner, outer, own, trusted):
    around.chmod(outer)
    inner.chmod(own)
    os.chown(inner, STRANGER, -1)
    assert is_trusted(inner, around) is trusted
    os.chown(around, STRANGER, -1)  # whose source it is, too
    assert is_trusted(inner, around)


@gives_away
def test_a_member_of_the_folders_group(around, inner, monkeypatch):
    import pwd

    around.chmod(0o2775)
    os.chown(around, -1, GROUP)
    os.chown(inner, STRANGER, GROUP)
    assert not is_trusted(inner, around)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("someone", "", uid, 100, "", "", "")))
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, GROUP])
    assert is_trusted(inner, around)
    around.chmod(0o2755)
    assert not is_trusted(inner, around)


@gives_away
def test_another_group_is_other_people(around, inner):
    around.chmod(0o775)
    os.chown(around, -1, GROUP)
    inner.chmod(0o775)
    assert not is_trusted(inner, around)


def test_a_link_is_not_trusted(around):
    (around / "link").symlink_to(around)
    assert not is_trusted(around / "link", around)


@gives_away
def test_a_folder_is_made_of_the_same_group(around, monkeypatch):
    around.chmod(0o770)
    os.chown(around, -1, GROUP)
    make_like(around / "one", around)
    assert ((around / "one").stat().st_gid, mode(around / "one")) == (GROUP, 0o770)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)  # as for those who are not in the group
    make_like(around / "two", around)
    assert mode(around / "two") == 0o750
    assert is_trusted(around / "two", around)


@gives_away
@pytest.mark.parametrize(("own", "wanted"), [(0o640, 0o600), (0o644, 0o644)])
def test_a_file_is_not_read_by_another_group(around, own, wanted):
    source, file = around / "source", around / "file"
    for path in (source, file):
        path.touch()
    source.chmod(own)
    os.chown(source, -1, GROUP)
    close_file(file, [source])
    assert mode(file) == wanted


def test_every_source_counts(around):
    paths = [around / name for name in ("one", "two", "file")]
    for path in paths:
        path.touch(0o644)
    paths[1].chmod(0o600)
    close_file(paths[2], paths[:2])
    assert mode(paths[2]) == 0o600


@gives_away
def test_another_users_folder_is_not_private(around):
    os.chown(around, STRANGER, -1)
    assert not make_private(around)
    assert mode(around) == 0o755


@gives_away
def test_a_link_that_another_made_is_not_followed(around, tmp_path):
    own = tmp_path / "own"
    own.mkdir(0o755)
    (around / "link").symlink_to(own)
    assert make_private(around / "link")
    own.chmod(0o755)
    os.chown(around / "link", STRANGER, -1, follow_symlinks=False)
    assert not make_private(around / "link")
    assert mode(own) == 0o755


def test_what_cannot_be_made_is_not_private(around):
    (around / "file").touch()
    assert not make_private(around / "file" / "folder")
