"""Stand-ins that make a CPU a GPU for tests of whole runs: what a GPU forbids raises, what it does late comes late.

    with Emulator() as emulator:
        ...  # here `launching.is_gpu(torch.device("cpu"))`, and torch.cuda has streams, events and graphs

What is emulated:

- Threads. Every thread is the GPU's but an evaluation's: policies act on the CPU there, with the CPU's kernels.
- Memory. There is one. A copy to pinned memory holds garbage until an event after it, its stream or the device is
  waited for; pinned memory that changes before the copy from it is known to be done raises.
- Graphs. A capture records each operation of PyTorch (below autograd) and each launch of a kernel, and changes nothing.
  A replay does them again, at the same addresses and without the Python code that was captured. What a graph allocated
  is its own and holds garbage before each replay; what it reads and was freed since raises.
- Errors. Waiting for the device, reading a value of it, and allocating pinned memory raise while a graph is captured,
  as does the launch of a kernel that is not loaded; by the error mode in this thread alone or in all.
- Kernels run in Triton's interpreter, which needs TRITON_INTERPRET=1, with a lock as it is not safe with threads. Which
  launches share a compiled kernel is asked of Triton.
- Streams. All work is done at once, but who did not wait for whom is noted in `Emulator.unordered`.

What is not: times and memory figures; the device's own arithmetic, which is the CPU's; that a tensor of the host cannot
be mixed with one of the device, unless it is pinned; what CUDA's libraries load when they are first called.
"""

from tests.emulator.emulator import Emulator

__all__ = ["Emulator"]
