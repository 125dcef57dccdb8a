"""Export the policy of a run: one file, checked against the policy before it gets its name."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlrat.environments.observations import places
from rlrat.errors import InputError, reason, warn
from rlrat.networks.activations import name_modules
from rlrat.networks.transformer import SequencePolicy
from rlrat.runs.exporting import c_source, graphs, numpy_source
from rlrat.runs.exporting.checking import LARGEST_DIFFERENCE, largest_difference, make_trial
from rlrat.runs.exporting.modules import plain_policy
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import Which, build_policy, read_checkpoint, set_target_returns
from rlrat.runs.schema import DIVERGED


@dataclass(frozen=True)
class Format:
    """How a policy is written and opened again."""

    file: str
    """Its name in the run folder."""
    write: Callable[..., None]
    open: Callable[[Path], Callable]
    graph: bool = True
    """Whether PyTorch writes it, so that any policy has it; else only an MLP."""


FORMATS = {
    "onnx": Format("policy.onnx", graphs.write_onnx, graphs.open_onnx),
    "torch-export": Format("policy.pt2", graphs.write_torch_export, graphs.open_torch_export),
    "aoti": Format("policy.aoti.pt2", graphs.write_aoti, graphs.open_aoti),
    "torchscript": Format("policy.torchscript.pt", graphs.write_torchscript, graphs.open_torchscript),
    "numpy": Format("policy.py", numpy_source.write_numpy, numpy_source.open_numpy, graph=False),
    "c": Format("policy.h", c_source.write_c, c_source.open_c, graph=False),
}


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with our policy."""

    files: tuple[Path, ...]
    difference: float | None
    """The largest in any action, relative to the range of actions where that is larger than 1; None: not compared."""
    compared_on: str


def export(
    run: str | os.PathLike[str],
    format: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    which: Which = "last",
    opset: int | None = None,
    dataset: str | None = None,
    activation_modules: Sequence[str] = (),
) -> Export:
    """Write the policy of a trained seed to a file that runs without rlrat, and compare both.

    The units of observations and the scale of actions are inside: it takes raw observations `observation`
    `[batch, obs]` and gives `action` `[batch, act]`, as `load_policy(run)` does. docs/export.md has the inputs of a
    Decision Transformer.

    Args:
        run: the run folder of a seed, or a checkpoint file.
        format: one of `FORMATS`.
        out: where to write; by default in the run folder. `numpy` and `c` write their weights beside it.
        which: last or best, as `load_policy` has it.
        opset: of ONNX, at least 18, which is the default.
        dataset: whose observations to compare on; by default the run's.
        activation_modules: your modules with the activations that it was trained with.

    Raises:
        InputError: a run that cannot be loaded, a format that this policy or this machine does not have, a path that
            cannot be written, or actions that differ by more than 1e-5: then no file is left.
    """
    if format not in FORMATS:
        raise InputError(f"there is no format {format!r}: give one of {', '.join(FORMATS)}")
    graphs.check_needs(format, opset)
    checkpoint = read_checkpoint(run, which)
    name_modules(activation_modules)
    policy = build_policy(checkpoint, run)
    if isinstance(policy, SequencePolicy):
        if not FORMATS[format].graph:
            able = ", ".join(name for name, entry in FORMATS.items() if entry.graph)
            raise InputError(f"--format {format} is for MLPs, a Decision Transformer has {able}: give one of these")
        set_target_returns(policy, policy.target_returns[:1], run)
    folder = Path(run).parent if Path(run).is_file() else Path(run)
    config, summary = RunFolder(folder).config(), RunFolder(folder).summary()
    if summary is not None and summary["status"] == DIVERGED:
        warn(f"{run} diverged at update {summary.get('diverged_at')}: its policy is the one frozen then")
    target = folder / FORMATS[format].file if out is None else Path(out)
    _check_target(target, format)
    trial = make_trial(policy, config, dataset)
    about = describe(checkpoint, policy, config)
    source = plain_policy(policy) if FORMATS[format].graph else policy
    settings = {} if opset is None else {"opset": opset}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            file = Path(beside) / target.name
            FORMATS[format].write(source, file, about, **settings)
            difference = _compare(policy, format, file, trial)
            written = sorted(Path(beside).iterdir(), key=lambda path: path == file)  # the file that names others last
            for path in written:
                os.replace(path, target.with_name(path.name))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or reason(error)}") from None
    return Export(tuple(target.with_name(path.name) for path in reversed(written)), difference, trial.source)


def _check_target(target: Path, format: str) -> None:
    suffix = Path(FORMATS[format].file).suffix
    if target.is_dir():
        raise InputError(f"--out {target} is a folder: name a file in it, such as {target / FORMATS[format].file}")
    if target.suffix != suffix:
        raise InputError(f"--out {target} must end in {suffix} for --format {format}")
    if not FORMATS[format].graph and not target.stem.isidentifier():
        raise InputError(f"--out {target} names code: give letters, digits and _ before {suffix}")


def _compare(policy: Any, format: str, file: Path, trial: Any) -> float | None:
    """Return the largest difference, or None where this machine cannot run what was written.

    Raises:
        InputError: it is too large.
    """
    try:
        exported = FORMATS[format].open(file)
    except c_source.NoCompiler:
        return None
    difference = largest_difference(policy, exported, trial)
    if not difference <= LARGEST_DIFFERENCE:
        raise InputError(
            f"the exported policy's actions differ from ours by up to {difference:.2g} on {trial.source}, more than "
            f"{LARGEST_DIFFERENCE:g}: nothing was written"
        )
    return difference


def describe(checkpoint: dict[str, Any], policy: Any, config: dict[str, Any] | None) -> dict[str, str]:
    """Say in words which policy this is, for the files' metadata."""
    identity = (config or {}).get("identity", {})
    about = {
        "agent": checkpoint.get("agent") or identity.get("agent"),
        "activation": policy.settings.get("activation", "relu"),
        "dataset": identity.get("dataset"),
        "seed": (config or {}).get("seed"),
        "update": checkpoint["update"],
        "rlrat": version("rlrat"),
    }
    about |= {f"observation {at.start} to {at.stop - 1}": name for name, at in places(policy.observation_parts)}
    if isinstance(policy, SequencePolicy):
        about |= {"context_length": policy.context_length, "target_return": policy.target_returns[0]}
    return {name: str(value) for name, value in about.items() if value is not None}
