"""Write and read checkpoint files: turn them into bytes with a checksum, and check their entries.

A checkpoint is what `torch.save` writes, with a SHA-256 of all bytes in the comment of the zip archive. `torch.load`
skips the comment. Files without one, of older versions or other tools, are checked by the archive's own checksums.
"""

import hashlib
import io
import math
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlrat.environments.observations import are_parts
from rlrat.errors import InputError, reason
from rlrat.runs.lines import is_metric
from rlrat.runs.schema import is_update

_END = b"PK\x05\x06"  # start of a zip archive's last record, 22 bytes with an empty comment
_MARK = b"rlrat sha256 "
_COMMENT_BYTES = len(_MARK) + 64


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """Turn a checkpoint into the bytes of its file, for `torch.load(weights_only=True)`."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    if content[-22:-18] != _END or content[-2:] != b"\0\0":
        return content  # another version of torch may write a comment
    content = content[:-2] + struct.pack("<H", _COMMENT_BYTES)
    return content + _MARK + hashlib.sha256(content).hexdigest().encode()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the checkpoint in a file, its tensors on the CPU.

    Raises:
        InputError: the file is damaged, cannot be read, or is no checkpoint.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a file")
        content = path.read_bytes()
        _check_bytes(content)
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check_entries(checkpoint)
        return checkpoint
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or reason(error)})") from None
    except Exception as error:  # torch and zipfile can raise anything for invalid bytes
        words = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is damaged ({reason(words)})") from None


def _check_bytes(content: bytes) -> None:
    """Raise `zipfile.BadZipFile` if the archive is not as it was written, or not as `torch.save` writes it."""
    if content[-_COMMENT_BYTES:-64] == _MARK:
        digest = hashlib.sha256(content[:-_COMMENT_BYTES]).hexdigest().encode()
        if content[-64:] != digest:
            raise zipfile.BadZipFile("wrong checksum of the file")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.load compares no checksums
        files = archive.infolist()
        packed = any(file.compress_type != zipfile.ZIP_STORED for file in files)
        if packed or sum(file.file_size for file in files) > len(content):
            raise zipfile.BadZipFile("its parts are compressed, or lie over each other")
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {part}")


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_state(value: Any) -> bool:
    return type(value) is dict and all(type(name) is str and _is_tensor(tensor) for name, tensor in value.items())


def _is_tensor(value: Any) -> bool:
    """Tell whether a value is a plain tensor that takes no more memory than its part of the file."""
    return (
        type(value) is Tensor
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _is_pending(value: Any) -> bool:
    """Tell whether a value is a pending evaluation: the policy's tensors, and their update and times."""
    wanted = {"update": is_update, "wanted": _is_bool, "train_seconds": _is_seconds, "wall_seconds": _is_seconds}
    return type(value) is dict and all(fits(value.get(name)) for name, fits in {**wanted, "state": _is_state}.items())


def _is_sum(value: Any) -> bool:
    """Tell whether a value has sums of metrics over a number of updates, under names that may head a column."""
    return (
        type(value) is dict
        and _list_of(is_metric)(value.get("names"))
        and is_update(value.get("count"))
        and value["count"] > 0
        and _is_tensor(value.get("sums"))
        and value["sums"].is_floating_point()
        and value["sums"].shape == (len(value["names"]),)
    )


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_checksum(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and all(map(fits, value))


def _is_lines(value: Any) -> bool:
    """Tell whether a value has the checksums of each CSV file's lines by update."""
    return type(value) is dict and all(
        _is_text(name) and type(lines) is dict and all(map(is_update, lines)) and all(map(_CHECKSUMS, lines.values()))
        for name, lines in value.items()
    )


_CHECKSUMS = _list_of(_is_checksum)
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "update": is_update,
    "agent": _is_text,
    "train_seconds": _is_seconds,
    "wall_seconds": _is_seconds,
    "state": _is_state,
    "guard_names": _list_of(_is_text),
    "policy": lambda value: type(value) is dict and all(map(_is_text, value)),
    "observation_parts": are_parts,
    "pending": _list_of(_is_pending),
    "failed": _list_of(is_update),
    "evaluated": _list_of(is_update),
    "lines": _is_lines,
    "sums": _list_of(_is_sum),
}
"""What a checkpoint may hold. Those of before lack some; `update` and `state` are in all."""


def _check_entries(checkpoint: Any) -> None:
    if type(checkpoint) is not dict or not {"update", "state"} <= checkpoint.keys():
        raise TypeError("it is no checkpoint of a run")
    for name, fits in _ENTRIES.items():
        if name in checkpoint and not fits(checkpoint[name]):
            raise TypeError(f"its {name} is not what a run saves")
