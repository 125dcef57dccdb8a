"""Which backend computes a rational activation: the fastest that its device, degrees and installation allow."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, reference

BACKENDS = ("reference", "cpu")
_forced: ContextVar[str | None] = ContextVar("rlrat.rational.backend", default=None)


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute every rational activation inside the block by one backend, for tests and measurements.

    Raises:
        ValueError: an unknown name.
        RuntimeError: a backend that cannot be used here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r} of a rational, only {', '.join(BACKENDS)}")
    if name == "cpu" and cpu.unavailable is not None:
        raise RuntimeError(cpu.unavailable)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(x: Tensor, numerator: Tensor, denominator: Tensor) -> ModuleType:
    """The module whose `forward` and `backward` compute this call."""
    name = _forced.get()
    if name is None and x.is_cpu and cpu.unavailable is None and cpu.supports(numerator, denominator):
        return cpu
    if name == "reference":
        return reference
    if name == "cpu":
        if not (x.is_cpu and cpu.supports(numerator, denominator)):
            raise RuntimeError(f"the backend cpu computes on a CPU, with degrees up to {cpu.MAX_DEGREE}")
        return cpu
    if x.is_cpu:
        cpu.warn_if_unavailable()
    return reference


def report() -> list[str]:
    """A line for each device of this machine: its backend, and why not a faster one."""
    lines = [
        f"cpu: cpu (C kernels, {cpu.instructions()}, {torch.get_num_threads()} threads)"
        if cpu.unavailable is None
        else f"cpu: reference (plain PyTorch), because {cpu.unavailable}"
    ]
    lines += [
        f"cuda:{index}: reference (plain PyTorch), because there are no GPU kernels yet"
        for index in range(torch.cuda.device_count())
    ]
    return lines
