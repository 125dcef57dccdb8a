"""Write a policy as a graph of plain operations: ONNX, torch.export, AOTInductor, TorchScript; and open it again."""

import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from rlrat.errors import InputError, reason
from rlrat.runs.exporting.modules import PlainPolicy, PlainSequencePolicy, example, names

LEAST_OPSET = 18
"""The oldest opset that PyTorch writes itself; older ones would be conversions of it."""
Plain = PlainPolicy | PlainSequencePolicy
Arrays = Sequence[np.ndarray]
_COMPILERS = ("g++", "clang++", "c++")


def check_needs(format: str, opset: int | None) -> None:
    """Raise InputError if this machine or these settings cannot write a format."""
    if opset is not None and format != "onnx":
        raise InputError(f"--opset is for --format onnx, not {format}: leave it out")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise InputError(f'--format onnx needs {", ".join(missing)}: pip install "rlrat[export]"')
        if opset is not None and opset < LEAST_OPSET:
            raise InputError(f"--opset is {opset}, which is too old: give at least {LEAST_OPSET}")
    chosen = os.environ.get("CXX")
    if format == "aoti" and not any(map(shutil.which, [chosen] if chosen else _COMPILERS)):
        raise InputError(
            "--format aoti compiles C++, and there is no compiler: install g++, name one in CXX, or give --format onnx"
        )


def write_onnx(plain: Plain, path: Path, about: Mapping[str, str], opset: int | None = None) -> None:
    """Write an .onnx file with its weights inside, and `about` as its metadata.

    Raises:
        InputError: this PyTorch cannot write the opset.
    """
    import onnx_ir

    opset = LEAST_OPSET if opset is None else opset
    inputs, outputs = names(plain)
    with _quietly("torch.onnx", "onnxscript"):
        program = torch.onnx.export(
            plain, example(plain), dynamo=True, verbose=False, opset_version=opset, dynamic_shapes=_shapes(plain),
            input_names=list(inputs), output_names=list(outputs),
        )  # fmt: skip
    model = program.model
    if model.opset_imports.get("") != opset:
        raise InputError(
            f"--opset is {opset}, but torch {torch.__version__} wrote {model.opset_imports.get('')}: give a lower one"
        )
    for part in (model.graph, *model.graph.all_nodes(), *model.graph.inputs, *model.graph.outputs):
        part.metadata_props.clear()  # where in whose source files each comes from
        part.doc_string = None
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.graph.name, model.producer_name, model.producer_version = "policy", "rlrat", version("rlrat")
    model.metadata_props.clear()
    model.metadata_props.update(about)
    onnx_ir.save(model, path)


def open_onnx(path: Path) -> Callable[[Arrays], list[np.ndarray]]:
    """Return what runs an .onnx file by onnxruntime, on the CPU.

    Raises:
        InputError: it does not run it.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has exceptions of its own
        raise InputError(f"onnxruntime {onnxruntime.__version__} does not run it: {reason(error)}") from None
    inputs = [given.name for given in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(inputs, arrays, strict=True)))


def write_torch_export(plain: Plain, path: Path, about: Mapping[str, str]) -> None:
    """Write a .pt2 file, as `torch.export.save` does, with `about` among its extra files."""
    with _quietly("torch"):
        torch.export.save(_program(plain), path, extra_files=dict(about))


def open_torch_export(path: Path) -> Callable[[Arrays], list[np.ndarray]]:
    """Return what runs a file of `write_torch_export`."""
    with _quietly("torch"):
        return _runner(torch.export.load(path).module())


def write_aoti(plain: Plain, path: Path, about: Mapping[str, str]) -> None:
    """Compile a policy for this kind of machine, and write the .pt2 package of AOTInductor.

    Raises:
        InputError: the compiler failed.
    """
    from torch._inductor import aoti_compile_and_package

    try:
        with _quietly("torch"), torch.no_grad():
            settings = {"aot_inductor.metadata": dict(about)}
            aoti_compile_and_package(_program(plain), package_path=str(path), inductor_configs=settings)
    except Exception as error:  # Inductor and what it calls have many
        raise InputError(f"AOTInductor cannot compile the policy here: {reason(error)}") from error


def open_aoti(path: Path) -> Callable[[Arrays], list[np.ndarray]]:
    """Return what runs a package of `write_aoti`."""
    from torch._inductor import aoti_load_package

    with _quietly("torch"):
        return _runner(aoti_load_package(str(path)))


def write_torchscript(plain: Plain, path: Path, about: Mapping[str, str]) -> None:
    """Write what `torch.jit.trace` records, with `about` among its extra files."""
    with _quietly("torch"), torch.no_grad():
        traced = torch.jit.trace(plain, example(plain), check_trace=False)
        torch.jit.save(traced, path, _extra_files=dict(about))


def open_torchscript(path: Path) -> Callable[[Arrays], list[np.ndarray]]:
    """Return what runs a file of `write_torchscript`."""
    with _quietly("torch"):
        return _runner(torch.jit.load(io.BytesIO(path.read_bytes())))


def _shapes(plain: Plain) -> tuple[dict, ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in example(plain))


def _program(plain: Plain) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(plain, example(plain), dynamic_shapes=_shapes(plain))


def _runner(module: Callable) -> Callable[[Arrays], list[np.ndarray]]:
    def run(arrays: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(*map(torch.from_numpy, arrays))
        return [output.numpy() for output in (found if isinstance(found, tuple | list) else (found,))]

    return run


@contextmanager
def _quietly(*loggers: str) -> Iterator[None]:
    """Leave out what the exporters say of their own insides: deprecations, torchvision, conversions."""
    found = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in found]
    try:
        for logger in found:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(found, before, strict=True):
            logger.setLevel(level)
