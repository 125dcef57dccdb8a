"""Checkpoint files that were damaged in thousands of ways: equal data, older data, or one line."""

import io
import random
import zipfile

import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs.checkpoints import checkpoint_bytes, load_checkpoint
from rlrat.runs.folder import RunFolder

CHECKPOINT = {
    "agent": "iql",
    "update": 20,
    "train_seconds": 1.5,
    "wall_seconds": 2.5,
    "state": {"policy.weight": torch.arange(12.0).reshape(3, 4), "guard.first_update": torch.tensor(-1)},
    "guard_names": ["return of an evaluation", "q loss"],
    "policy": {"kind": "mlp", "hidden_dims": [16, 16]},
    "pending": [
        {"update": 20, "wanted": True, "train_seconds": 1.5, "wall_seconds": 2.5, "state": {"weight": torch.ones(3)}}
    ],
    "failed": [5],
    "evaluated": [0, 10],
    "lines": {"evaluations.csv": {0: [1, 2**32 - 1], 10: [3]}, "episodes.csv": {}},
}
CONTENT = checkpoint_bytes(CHECKPOINT)


def _equal(ours, theirs) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(_equal(ours[name], theirs[name]) for name in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return ours == theirs


def _load(path, content: bytes):
    path.write_bytes(content)
    return load_checkpoint(path)


def _without_checksum(checkpoint) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def test_a_checkpoint_is_read_with_and_without_its_checksum_and_by_torch_alone(tmp_path):
    assert _equal(_load(tmp_path / "x.pt", CONTENT), CHECKPOINT)
    for mmap in (False, True):
        assert _equal(torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap), CHECKPOINT)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
    assert _equal(_load(tmp_path / "x.pt", _without_checksum(CHECKPOINT)), CHECKPOINT)
    old = {name: CHECKPOINT[name] for name in ("update", "state")}
    assert _equal(_load(tmp_path / "x.pt", _without_checksum(old)), old)


def test_no_bit_can_change_unseen(tmp_path):
    """But those of the checksum's own mark, without which the file is one of before."""
    for at in range(0, len(CONTENT), 11):
        changed = bytearray(CONTENT)
        changed[at] ^= 1 << at % 8
        try:
            loaded = _load(tmp_path / "x.pt", bytes(changed))
        except InputError:
            continue
        assert at >= len(CONTENT) - 77
        assert _equal(loaded, CHECKPOINT)


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(io.BytesIO(CONTENT)) as archive, zipfile.ZipFile(tmp_path / "x.pt", "w", 8) as packed:
        for member in archive.infolist():
            packed.writestr(member.filename, archive.read(member) + bytes(10**6))
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    large = CHECKPOINT | {"state": {"weight": torch.zeros(1).expand(10**12)}}
    with pytest.raises(InputError, match="its state is not what a run saves"):
        _load(tmp_path / "x.pt", _without_checksum(large))


@pytest.mark.parametrize("kind", ["folder", "refused", "nowhere"])
def test_what_is_no_file_is_passed_over_and_stays(tmp_path, monkeypatch, capsys, kind):
    folder = RunFolder(tmp_path)
    for update in (10, 20):
        folder.save_checkpoint({"update": update, "state": {}})
    newest = tmp_path / "checkpoint.pt"
    if kind == "refused":
        plain = type(newest).read_bytes

        def read(self):
            if self == newest:
                raise PermissionError(13, "Permission denied")
            return plain(self)

        monkeypatch.setattr(type(newest), "read_bytes", read)
    else:
        newest.unlink()
        newest.mkdir() if kind == "folder" else newest.symlink_to(tmp_path / "nowhere")
    if kind == "folder":
        (newest / "mine").write_text("mine")
    assert list(folder.checkpoints()) == [10]
    assert "checkpoint.pt" in capsys.readouterr().err
    folder.go_back(10, set())
    monkeypatch.undo()
    assert load_checkpoint(newest)["update"] == 10
    folder.save_checkpoint({"update": 20, "state": {}})
    assert list(folder.checkpoints()) == [20, 10]
    assert [path.read_text() for path in tmp_path.rglob("mine")] == ["mine"] * (kind == "folder")


# Mutations: of bytes, of the archive's members, and of what is in it.


def _changed_bytes(chance: random.Random) -> bytes:
    content = bytearray(CONTENT)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.choice((1, 1, 4, 64))):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif kind == 1:
        content = content[: chance.randrange(len(content))]
    elif kind == 2:
        at = chance.randrange(len(content))
        del content[at : at + chance.randrange(1, 200)]
    elif kind == 3:
        at = chance.randrange(len(content))
        content[at:at] = chance.randbytes(chance.randrange(1, 200))
    else:
        at = content.find(
            chance.choice((b"data.pkl", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"ctorch", b"storage", b"version"))
        )
        content[at + chance.randrange(12)] ^= chance.randrange(1, 256)
    if chance.random() < 0.5:  # as a file of before, whose bytes nothing else guards
        content = content[: len(content) - 77]
    return bytes(content)


def _changed_members(chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(CONTENT)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    kind, at = chance.randrange(5), chance.randrange(len(members))
    name, content = members[at]
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (chance.choice(("x", "archive/data/9", name.upper(), "../x", "a" * 5000)), content)
    elif kind == 2:
        chance.shuffle(members)
    elif kind == 3:
        members.insert(0, ("archive/more", chance.randbytes(50)))
    else:
        changed = bytearray(content or b"x")
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        members[at] = (name, bytes(changed))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if kind == 4 or chance.random() < 0.5:  # changed content with a checksum of its own would be no damage
            archive.comment = CONTENT[-77:]
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


_WRONG = (None, -1, 2**70, 0.5, float("nan"), "x", b"x", [], {}, (), [None], {"x": 1}, True, torch.zeros(2), "\ud800")


def _changed_entries(chance: random.Random) -> bytes:
    checkpoint = dict(CHECKPOINT)
    if chance.random() < 0.03:
        return _without_checksum(chance.choice(_WRONG))
    name = chance.choice(list(checkpoint))
    kind = chance.randrange(3)
    if kind == 0:
        del checkpoint[name]
    elif kind == 1 or name not in ("state", "pending", "lines"):
        checkpoint[name] = chance.choice(_WRONG)
    elif name == "state":
        wrong = (torch.zeros(0), torch.zeros(2, dtype=torch.int8), torch.eye(2).to_sparse(), *_WRONG)
        checkpoint["state"] = CHECKPOINT["state"] | {chance.choice(["policy.weight", "new", 7]): chance.choice(wrong)}
    elif name == "pending":
        (one,) = CHECKPOINT["pending"]
        checkpoint["pending"] = [one | {chance.choice(list(one)): chance.choice(_WRONG)}]
    else:
        checkpoint["lines"] = CHECKPOINT["lines"] | {chance.choice(["evaluations.csv", 3]): chance.choice(_WRONG)}
    content = _without_checksum(checkpoint)
    return checkpoint_bytes(checkpoint) if chance.random() < 0.5 else content


def _fuzz(path, capsys, numbers) -> None:
    """The newest checkpoint is changed: what is loaded is what was saved, the one before, or what was put there."""
    folder, older = RunFolder(path), {"update": 10, "state": {"weight": torch.ones(2)}}
    (path / "checkpoint.previous.pt").write_bytes(checkpoint_bytes(older))
    for number in numbers:
        change = (_changed_bytes, _changed_bytes, _changed_members, _changed_entries)[number % 4]
        (path / "checkpoint.pt").write_bytes(change(random.Random(number)))
        found = folder.checkpoints()
        assert _equal(found.pop(10), older), number
        said = capsys.readouterr().err.splitlines()
        assert len(said) == (not found), number
        for update, loaded in found.items():
            if change is not _changed_entries:
                assert _equal(loaded, CHECKPOINT), number
            else:  # whoever writes a whole checkpoint of his own has it, if it is one
                assert type(update) is int, number
                assert all(isinstance(tensor, torch.Tensor) for tensor in loaded["state"].values()), number


def test_a_damaged_checkpoint_is_equal_or_one_line(tmp_path, capsys):
    _fuzz(tmp_path, capsys, range(200))


@pytest.mark.slow
def test_thousands_of_damaged_checkpoints_are_equal_or_one_line(tmp_path, capsys):
    _fuzz(tmp_path, capsys, range(200, 4200))
