"""Launches of Triton's kernels: in its interpreter, one at a time, and by the keys of what it would compile."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tests.compile_kernels import compiled_for


class Launches:
    """Stands in for `launching.launch`, which it calls.

    Args:
        launch: the library's.
        capture: returns the capture that goes on in this thread, or None.
    """

    def __init__(self, launch: Callable, capture: Callable) -> None:
        self._launch, self._capture = launch, capture
        self._lock = threading.RLock()
        self._loaded: set[str] = set()
        self.counts: Counter[str] = Counter()
        """By the kernel's name; launches of replays count, too."""

    def __call__(
        self,
        kernel,
        programs: int,
        *arguments,
        device: torch.device,
        load: bool = False,
        warps: int = 4,
        **constants,
    ) -> None:
        capture, name = self._capture(), compiled_for(kernel, arguments, warps, constants)
        if capture is not None and name not in self._loaded:
            capture.refuse(f"loading {name}")
        self._loaded.add(name)
        if load:
            return
        settings = {"device": device, "warps": warps, **constants}
        if capture is None:
            self.run(kernel, programs, arguments, settings)
        else:
            capture.record_launch(kernel, programs, arguments, settings)

    def run(self, kernel, programs: int, arguments: tuple, settings: dict) -> None:
        """Run a kernel. What the interpreter does with tensors is no operation of the device."""
        watched = torch._C._len_torch_dispatch_stack() > 0
        with self._lock, _disable_current_modes() if watched else contextlib.nullcontext():
            self.counts[kernel.__name__] += 1
            self._launch(kernel, programs, *arguments, **settings)
