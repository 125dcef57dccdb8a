"""Choose the backend of a rational activation: the fastest that device, degrees and installation allow."""

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, gpu, launching, reference

BACKENDS = ("reference", "cpu", "triton")
_forced: str | None = None  # not a ContextVar: torch.compile cannot look into one
_MOST_PLANS = 1000  # kept at a time; a network calls with few shapes


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute every rational activation inside the block by one backend, in all threads: for tests and measurements.

    What torch.compile compiled before the block keeps its backend.

    Raises:
        ValueError: an unknown name.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r} of a rational, only {', '.join(BACKENDS)}")
    reason = {"cpu": cpu.unavailable, "triton": launching.problem() if name == "triton" else None}.get(name)
    if reason is not None:
        raise RuntimeError(reason)
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """Return the backend that `backend` asks for here, or None."""
    return _forced


def _choose(
    name: str | None, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, version: str
) -> ModuleType:
    """Choose the module whose `Plan` computes this call."""
    if name == "reference" or x.numel() == 0:
        return reference
    degrees = numerator.shape[-1] - 1, denominator.shape[-1] - (version == "C")
    on_gpu = name == "triton" or (name is None and launching.runs_on(x.device))
    if on_gpu and gpu.supports(degrees, x, numerator, bias):
        return gpu
    if x.is_cpu and name != "triton" and cpu.unavailable is None and cpu.supports(degrees):
        return cpu
    if name is not None:
        where, most = {"cpu": ("on a CPU", cpu.MAX_DEGREE), "triton": ("on a CUDA device", gpu.MAX_DEGREE)}[name]
        raise RuntimeError(f"the backend {name} computes {where}, with degrees up to {most}")
    if x.is_cpu:
        cpu.warn_if_unavailable()
    return reference


_plans: dict[tuple, cpu.Plan | gpu.Plan | reference.Plan] = {}


def plan(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    version: str,
    name: str | None,
) -> cpu.Plan | gpu.Plan | reference.Plan:
    """Return what computes this call: an object with `forward` and `backward`, made once for a shape, layout and type.

    `name` is the backend to compute by, None for the fastest. Raises what `rational` raises.
    """
    key = (
        x.shape, x.stride(), x.dtype, x.device, numerator.shape, numerator.stride(), numerator.dtype, numerator.device,
        denominator.shape, denominator.stride(), denominator.dtype, denominator.device, version, name,
        None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.device),
        None if gate is None else (gate.shape, gate.stride(), gate.dtype, gate.device),
    )  # fmt: skip
    found = _plans.get(key)
    if found is None:
        reference.validate(x, numerator, denominator, bias, gate, version)
        module = _choose(name, x, numerator, denominator, bias, version)
        made = module.Plan(x, numerator, denominator, bias, gate, version)
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        found = _plans[key] = made
    return found


def report() -> list[str]:
    """Return a line for each device of this machine: its backend, and why not a faster one."""
    lines = [
        f"cpu: cpu (C kernels, {cpu.instructions()}, {cpu.threads()} threads)"
        if cpu.unavailable is None
        else f"cpu: reference (plain PyTorch), because {cpu.unavailable}"
    ]
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        if launching.problem() is None:
            lines.append(f"{name}: triton (compiled kernels, Triton {version('triton')})")
        else:
            lines.append(f"{name}: reference (plain PyTorch), because {launching.problem()}")
    if torch.cuda.device_count() == 0:
        built = torch.version.cuda or torch.version.hip
        lines.append(f"cuda: {'there is no such device' if built else 'this PyTorch is built for CPUs alone'}")
    return lines
