"""Compile an agent's update as one function (`--compile`), its losses, gradients and optimizers included."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlrat.errors import warn

_LEAST_UPDATES = 20_000  # of a run that is worth compiling: it takes half a minute, and saves IQL 80 seconds in so many


def pays(updates: int, device: torch.device) -> bool:
    """Tell whether compiling makes a run of `updates` updates shorter: on a CPU, where there is a C++ compiler.

    `updates` are those of the whole run, not those that are left: a resumed run must compute as it began, to the bit.
    On a GPU compiling has not been measured.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch's inductor finds it
    return device.type == "cpu" and updates >= _LEAST_UPDATES and shutil.which(compiler) is not None


def compiled(
    update: Callable[..., dict[str, Tensor]], device: torch.device, most_threads: int | None = None
) -> Callable[..., dict[str, Tensor]]:
    """Return `update` as a function that is compiled whole at its first call.

    On a CPU, half of an update's time goes into calls and small operations between the matrix products. Compiled, these
    are a few loops in C++ (torch's inductor needs g++ or clang). Where the update cannot be compiled, it runs as it is,
    after one warning. The metrics are detached. A value that is neither a tensor nor an input is read once, at the
    first call.

    Args:
        device: where the tensors of `update` are.
        most_threads: where PyTorch's number of CPU threads may change between calls, the most that there will be. The
            code then takes the number at each call; otherwise that of the first.
    """
    from torch._dynamo import config, exc  # takes a second to import
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    config.trace_autograd_ops = True
    inductor.cpp_wrapper = device.type == "cpu"  # the calls of the loops are C++, too: saves 4% of an update
    inductor.cpp.threads, inductor.cpp.dynamic_threads = most_threads or -1, most_threads is not None
    functorch.autograd_cache_allow_custom_autograd_functions = True  # the rational's: saves 4 s when a run starts again
    if device.type == "cpu":  # the update is one file of C++: more processes only take memory
        inductor.compile_threads = min(inductor.compile_threads, 2)
    _start_workers()

    def pure(*inputs) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in update(*inputs).items()}

    # Code of its own: PyTorch keeps what it compiles by the code, and uses it again for whatever passes the guards.
    pure.__code__ = pure.__code__.replace()
    options = {"guard_filter_fn": _necessary}
    fast, failed = torch.compile(pure, fullgraph=True, dynamic=False, options=options), False

    def call(*inputs) -> dict[str, Tensor]:
        nonlocal failed
        if not failed:
            try:
                return fast(*inputs)
            except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:  # nothing has been computed yet
                failed = True
                reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
                warn(f"the update cannot be compiled ({reason}): it runs as it is")
        return pure(*inputs)

    return call


def _necessary(guards: Sequence) -> list[bool]:
    """Choose the guards to check before each call: those of the inputs, and of what PyTorch would make of them.

    The thousand others ask whether the learner's modules and settings are the same. An update does not change these,
    and asking takes 6% of IQL's. PyTorch's global state, such as autocast, stays as well, except for the number
    of threads: for another one the update would be compiled anew, for up to a minute.
    """
    return [
        guard.guard_type != "GLOBAL_STATE" and (guard.name == "" or guard.name.startswith("inputs")) for guard in guards
    ]


def _start_workers() -> None:
    """Start inductor's processes deaf to Ctrl-C, which a terminal sends to all of them: PyTorch waits for dead ones."""
    from torch._inductor.async_compile import AsyncCompile

    if threading.current_thread() is not threading.main_thread():
        return  # no signal can be set here
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        AsyncCompile.warm_pool()
    finally:
        signal.signal(signal.SIGINT, before)
