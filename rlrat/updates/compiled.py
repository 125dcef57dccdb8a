"""An agent's update as one compiled function (`--compile`): torch.compile, losses, gradients and optimizers inside."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlrat.errors import warn

_LONG = 20_000  # updates: compiling takes half a minute, and saves IQL 80 seconds of so many


def pays(updates: int, device: torch.device) -> bool:
    """Whether a run of so many updates is done sooner if it compiles: on a CPU, where there is a C++ compiler.

    Of the whole run, not of what is left of it: a run that goes on does so as it began, to the bit. On a GPU it has not
    been measured.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch's inductor finds it
    return device.type == "cpu" and updates >= _LONG and shutil.which(compiler) is not None


def compiled(update: Callable[..., dict[str, Tensor]], device: torch.device) -> Callable[..., dict[str, Tensor]]:
    """`update`, compiled whole at its first call; where that cannot be, it is called as it is, after one warning.

    `device` is where its tensors are. On a CPU the calls and the small operations between the matrix products are half
    of the time of an update; here they become a few loops in C++ (torch's inductor needs g++ or clang). The metrics
    come without a graph. What is neither a tensor nor an input is read once, at the first call.
    """
    from torch._dynamo import config, exc  # takes a second to import
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    config.trace_autograd_ops = True
    inductor.cpp_wrapper = device.type == "cpu"  # what calls the loops, too, in C++: 4% of an update
    functorch.autograd_cache_allow_custom_autograd_functions = True  # rational's: 4 s of a second start
    if device.type == "cpu":  # it is one file of C++: more processes would only take memory
        inductor.compile_threads = min(inductor.compile_threads, 2)
    _start_workers()

    def pure(*inputs) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in update(*inputs).items()}

    # Its own code: what is compiled belongs to that, and is used again for whatever passes the guards.
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
    """Which to look at before each call: those of the inputs and of PyTorch's state, such as autocast.

    The thousand others ask whether the learner's modules and settings are the same, which an update does not change:
    6% of IQL's.
    """
    return [guard.name == "" or guard.name.startswith("inputs") for guard in guards]


def _start_workers() -> None:
    """Start inductor's processes, deaf to Ctrl-C, which a terminal sends to all: PyTorch would wait for dead ones."""
    from torch._inductor.async_compile import AsyncCompile

    if threading.current_thread() is not threading.main_thread():
        return  # where no signal can be set, and no terminal is likely
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        AsyncCompile.warm_pool()
    finally:
        signal.signal(signal.SIGINT, before)
