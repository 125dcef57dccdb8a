"""Measure rational activations of version A, degrees (5, 4), beside PyTorch's, and print a table.

`PYTHONPATH=. python scripts/benchmarks/rational_speed.py --output FOLDER` measures on a GPU and writes
FOLDER/rational_gpu.json; it needs torch and Triton, and of rlrat only this source tree.
`python scripts/benchmarks/benchmark.py rational` measures on a CPU or, with `--device cuda`, what this does.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import parts
import rlrat
from benchmark_settings import Rational
from parts import figure
from rlrat.errors import InputError, one_line_errors
from rlrat.rational import backends, cpu, gpu, launching, reference


def run_rational(settings: Rational) -> dict:
    return run_gpu(settings.output, settings.tune) if settings.device == "cuda" else run_cpu(settings)


def _plain_rational(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What one writes without a library."""
    p, q = a[5], b[3].abs()
    for coefficient in a[:5].flip(0):
        p = p * x + coefficient
    for coefficient in b[:3].abs().flip(0):
        q = q * x.abs() + coefficient
    return p / (1 + q * x.abs())


def _plain(device: str) -> tuple[Callable, list[Tensor]]:
    """A contender: its function and its parameters."""
    coefficients = [p.detach().flatten().to(device).requires_grad_() for p in rlrat.Rational().parameters()]
    return lambda x: _plain_rational(x, *coefficients), coefficients


def _peer(device: str) -> tuple[Callable, list[Tensor]]:
    from rational.torch import Rational as PeerRational

    peer = PeerRational("relu", degrees=(5, 4), cuda=device == "cuda", version="A")
    return peer, list(peer.parameters())


def _pass(function: Callable, parameters: Sequence[Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the output and all gradients."""
    y = function(x)
    return y, *torch.autograd.grad(y, (x, *parameters), grad)


def _turn(call: Callable[[int], Any], calls: int) -> Callable[[], float]:
    """A function that makes calls and returns the seconds of one."""

    def turn() -> float:
        started = time.perf_counter()
        for index in range(calls):
            call(index)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / calls

    return turn


def _medians(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each returns; they take turns, and the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, turn in contenders.items():
            value = turn()
            if number > 0:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def run_cpu(settings: Rational) -> dict[str, float]:
    from rich.table import Table

    from rlrat.console import Console

    torch.set_num_threads(settings.threads)
    ours, silu, gelu = rlrat.Rational(), torch.nn.functional.silu, torch.nn.functional.gelu
    activations = {
        "rlrat": (ours, list(ours.parameters())),
        "silu": (silu, []),
        "gelu": (gelu, []),
        "relu": (torch.relu, []),
        "plain expression": _plain("cpu"),
    }
    with contextlib.suppress(ImportError):
        activations["rational-activations"] = _peer("cpu")
    draw = torch.Generator().manual_seed(0)
    count = max(1, 2**26 // settings.elements // 4)  # 64 MiB of inputs
    inputs = [torch.randn(settings.elements // 256, 256, generator=draw) for _ in range(count)]
    grads = [torch.randn(x.shape, generator=draw) for x in inputs[:16]]
    leaves = [x.clone().requires_grad_() for x in inputs]
    big = torch.randn(settings.large, generator=draw)
    out = torch.empty_like(big)
    a, b = (p.detach() for p in ours.parameters())

    def forward(function: Callable) -> Callable[[], float]:
        return torch.no_grad()(_turn(lambda index: function(inputs[index % count]), settings.calls))

    def both(function: Callable, parameters: list[Tensor]) -> Callable[[], float]:
        return _turn(lambda i: _pass(function, parameters, leaves[i % count], grads[i % 16]), settings.calls)

    contenders = {}
    for name, (function, parameters) in activations.items():
        contenders[f"forward, {name}"] = forward(function)
        contenders[f"forward + backward, {name}"] = both(function, parameters)
    if cpu.unavailable is None:
        plan = backends.plan(big, a, b, None, None, "A", None)
        contenders[f"{settings.large:,} into out, rlrat"] = _turn(lambda _: plan.forward(big, a, b, None, None, out), 5)
    contenders[f"{settings.large:,} into out, silu"] = _turn(lambda _: torch.ops.aten.silu.out(big, out=out), 5)
    medians = _medians(contenders, settings.rounds)
    rows = {name: 1e6 * seconds for name, seconds in sorted(medians.items())}
    table = Table("", "us (median)")
    for name, value in rows.items():
        table.add_row(name, f"{value:,.1f}")
    Console().print(table)
    return rows


# The GPU: functions that yield figures, each run as a part of its own.


def _label(dtype: torch.dtype, elements: int) -> str:
    return f"{str(dtype).removeprefix('torch.')}, 2^{elements.bit_length() - 1} elements"


def _device_seconds(calls: dict[str, Callable[[], Any]], rounds: int = 50) -> dict[str, float]:
    """The median time of each on the device; they take turns, queued ahead so that it never waits for Python."""
    events: dict[str, list] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            if number >= 3:  # the first rounds warm up
                events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: 1e-3 * statistics.median(s.elapsed_time(e) for s, e in pairs) for name, pairs in events.items()}


def _verify(results: tuple[Tensor, ...], x: Tensor, grad: Tensor, a: Tensor, b: Tensor) -> None:
    """All of y, dx and the coefficients' gradients is finite; a sample of y and dx is as the float64 reference's."""
    if not all(torch.isfinite(t).all() for t in results):
        raise RuntimeError("a result is not finite")
    every = slice(None, None, 4097)
    wide = x.detach().flatten()[every].double().requires_grad_()
    y = reference.expression(wide, a.double(), b.double(), None, None, "A")
    expected = y, *torch.autograd.grad(y, wide, grad.flatten()[every].double())
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[x.dtype]
    for found, right in zip(results[:2], expected, strict=True):
        torch.testing.assert_close(found.flatten()[every].double(), right, rtol=tolerance, atol=tolerance)


def _memory(dtype: torch.dtype, backward_aim: float, device: str = "cuda", elements: int = 2**28) -> Iterator[dict]:
    a, b = (p.detach().to(device) for p in rlrat.Rational().parameters())
    x, grad = (torch.randn(elements // 256, 256, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(x)
    plan = backends.plan(x, a, b, None, None, "A", None)
    calls = {
        "copy": lambda: out.copy_(x),
        "forward": lambda: plan.forward(x, a, b, None, None, out),
        "backward": lambda: plan.backward(grad, x, a, b, None, None),
    }
    tensors = {"copy": 2, "forward": 2, "backward": 3}  # read or written, each once
    seconds = _device_seconds(calls)
    _verify((plan.forward(x, a, b, None, None, out.fill_(torch.nan)), *calls["backward"]()[:3]), x, grad, a, b)
    speeds = {name: 1e-9 * tensors[name] * dtype.itemsize * elements / seconds[name] for name in calls}
    for name, aim in (("copy", None), ("forward", 0.9), ("backward", backward_aim)):
        yield figure(f"{name}, {_label(dtype, elements)}", speeds[name], "GB/s")
        if aim is not None:
            yield figure(f"{name} / copy, {_label(dtype, elements)}", speeds[name] / speeds["copy"], at_least=aim)


def memory() -> Iterator[dict]:
    """The kernels' bandwidth beside that of a copy, bytes read and written."""
    yield from _memory(torch.float32, 0.8)
    yield from _memory(torch.bfloat16, 0.6)


def _leaves(dtype: torch.dtype, shape: tuple[int, ...], count: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and their outputs' gradients."""
    inputs = [torch.randn(shape, dtype=dtype, device="cuda", requires_grad=True) for _ in range(count)]
    return inputs, [torch.randn(shape, dtype=dtype, device="cuda") for _ in range(count)]


def _beside_relu(dtype: torch.dtype, aim: float, elements: int = 2**28) -> Iterator[dict]:
    (x,), (grad,) = _leaves(dtype, (elements // 256, 256))
    module = rlrat.Rational().cuda()
    ours = partial(_pass, module, list(module.parameters()), x, grad)
    seconds = _device_seconds({"relu": partial(_pass, torch.relu, [], x, grad), "rlrat": ours})
    _verify(ours(), x, grad, *(p.detach() for p in module.parameters()))
    for name, value in seconds.items():
        yield figure(f"{name}, {_label(dtype, elements)}", 1e6 * value, "us")
    yield figure(f"rlrat / relu, {_label(dtype, elements)}", seconds["rlrat"] / seconds["relu"], at_most=aim)


def beside_relu() -> Iterator[dict]:
    """Forward + backward through autograd."""
    yield from _beside_relu(torch.float32, 1.15)
    yield from _beside_relu(torch.bfloat16, 1.4)


def _graph(dtype: torch.dtype, aim: float | None, seeds: int = 64, count: int = 16) -> Iterator[dict]:
    inputs, grads = _leaves(dtype, (seeds, 256, 256), count)
    module = rlrat.Rational(batch_shape=(seeds,)).cuda()

    def capture(function: Callable, parameters: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list]:
        def passes() -> list:
            return [_pass(function, parameters, x, grad) for x, grad in zip(inputs, grads, strict=True)]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            passes()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = passes()  # kept, so that every pass has memory of its own
        return graph, results

    (relu, _kept), (ours, results) = capture(torch.relu, []), capture(module, list(module.parameters()))
    seconds = _device_seconds({"relu": relu.replay, "rlrat": ours.replay})
    for x, grad, result in zip(inputs, grads, results, strict=True):
        _verify(result, x, grad, *(p[0].detach() for p in module.parameters()))
    label = f"{str(dtype).removeprefix('torch.')}, [{seeds}, 256, 256]"
    for name, value in seconds.items():
        yield figure(f"{name}, {label}", 1e6 * value / count, "us")
    yield figure(f"rlrat / relu, {label}", seconds["rlrat"] / seconds["relu"], at_most=aim)


def graph() -> Iterator[dict]:
    """Forward + backward in a CUDA graph of 16 such passes, each with inputs and outputs of its own."""
    yield from _graph(torch.float32, 1.2)
    yield from _graph(torch.bfloat16, None)


def eager(calls: int = 500, rounds: int = 9) -> Iterator[dict]:
    """Forward + backward of small tensors, for which the device waits: time on the clock."""
    module = rlrat.Rational(batch_shape=(1,)).cuda()
    inputs, grads = _leaves(torch.float32, (1, 256, 256), 256)

    def turn(function: Callable, *parameters: Tensor) -> Callable[[], float]:
        return _turn(lambda i: _pass(function, parameters, inputs[i % 256], grads[i % 256]), calls)

    fixed = {"relu": turn(torch.relu), "silu": turn(torch.nn.functional.silu)}
    for name, seconds in _medians({**fixed, "rlrat": turn(module, *module.parameters())}, rounds).items():
        yield figure(f"{name}, float32, [1, 256, 256]", 1e6 * seconds, "us")


_FIRST_USE = """
import time, torch
x = torch.randn(64, 256, 256, device="cuda", requires_grad=True)
grad = torch.randn_like(x)
torch.autograd.grad(torch.relu(x), x, grad)  # what PyTorch itself does only once
torch.cuda.synchronize()
started = time.perf_counter()
import rlrat
module = rlrat.Rational(batch_shape=(64,)).cuda()
torch.cuda.synchronize()
imported = time.perf_counter()
gradients = torch.autograd.grad(module(x), (x, *module.parameters()), grad)
torch.cuda.synchronize()
print(imported - started, time.perf_counter() - imported)
assert all(t.isfinite().all() for t in gradients)
"""


def first_use() -> Iterator[dict]:
    """A fresh process, after `import torch` and a pass of ReLU; Triton is imported and compiles in the first pass."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TRITON_CACHE_DIR": folder}
        files = 0
        for name, aim in (("empty cache", 3.0), ("the same cache again", None)):
            command = [sys.executable, "-c", _FIRST_USE]
            printed = subprocess.check_output(command, text=True, env=environment, timeout=30)
            imports, seconds = map(float, printed.split())
            yield figure(f"import rlrat and make a module, {name}", imports, "s")
            yield figure(f"first forward + backward, {name}", seconds, "s", at_most=aim)
            before, files = files, sum(path.is_file() for path in Path(folder).rglob("*"))
        yield figure("files that the second process adds to the cache", files - before, at_most=0)


def _compiled() -> tuple[Callable, list[Tensor]]:
    module = rlrat.Rational().cuda()
    function = torch.compile(
        lambda x: reference.expression(x, module.numerator, module.denominator, None, None, "A"), dynamic=False
    )
    return function, list(module.parameters())


def _beside(make: Callable[[], tuple[Callable, list[Tensor]]], dtype: torch.dtype, elements: int) -> dict[str, float]:
    function, parameters = make()
    module = rlrat.Rational().cuda()
    (x,), (grad,) = _leaves(dtype, (elements // 256, 256))
    theirs = partial(_pass, function, parameters, x, grad)
    if not all(torch.isfinite(t).all() for t in theirs()):
        raise RuntimeError("a result is not finite")
    ours = partial(_pass, module, list(module.parameters()), x, grad)
    return _device_seconds({"theirs": theirs, "ours": ours}, rounds=20)


def _contender(name: str, make: Callable, dtype: torch.dtype, elements: int = 2**28) -> Iterator[dict]:
    """On half as many elements, and half again, where the memory is not enough for it."""
    while True:
        label = f"{name}, {_label(dtype, elements)}"
        try:
            seconds = _beside(make, dtype, elements)
            break
        except torch.OutOfMemoryError:
            yield figure(label, "left out: the device has too little memory")
            elements //= 2
        except Exception as error:  # its own business: not installed, no compiler, no kernel for the type
            yield figure(label, f"left out: {(str(error) or type(error).__name__).splitlines()[0]}")
            return
        finally:
            gc.collect()
            torch.cuda.empty_cache()
    yield figure(label, 1e6 * seconds["theirs"], "us")
    yield figure(f"{name} / rlrat, {_label(dtype, elements)}", seconds["theirs"] / seconds["ours"])


def contenders() -> Iterator[dict]:
    """Forward + backward through autograd by other means."""
    makers = {
        "compiled expression": _compiled,
        "plain expression": partial(_plain, "cuda"),
        "rational-activations": partial(_peer, "cuda"),
    }
    for dtype in (torch.float32, torch.bfloat16):
        for name, make in makers.items():
            yield from _contender(name, make, dtype)


def tune() -> Iterator[dict]:
    """The fastest tiles, (warps, vectors), and bandwidths with them."""
    for direction, sizes in gpu.tune().items():
        for size, tiles in sizes.items():
            yield figure(f"TILES[{direction!r}][{size}]", list(tiles))
    yield from memory()


_PARTS: dict[str, tuple[Callable[[], Iterator[dict]], float]] = {  # with the seconds after which one is ended
    "memory": (memory, 60),
    "beside ReLU": (beside_relu, 60),
    "CUDA graph": (graph, 60),
    "first use": (first_use, 65),
    "small calls": (eager, 45),
    "contenders": (contenders, 100),
    "tune": (tune, 150),
}


def machine() -> dict[str, Any]:
    """What is measured with what.

    Raises:
        InputError: there is nothing to measure.
    """
    if not torch.cuda.is_available():
        raise InputError("there is no CUDA device on this machine, and what is measured here needs one")
    if launching.problem() is not None:
        raise InputError(launching.problem())
    import triton

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.check_output(query, text=True, timeout=20).strip()
    except (OSError, subprocess.SubprocessError):
        driver = None
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "memory_bytes": device.total_memory,
        "l2_bytes": device.L2_cache_size,
        "driver": driver,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def run_gpu(output: Path | None, tune: bool, seconds: float = math.inf) -> dict:
    """Every part, in `output`/rational_gpu.json, too, which is up to date at any time; see `parts.run`."""
    head = {"benchmark": "rational, GPU", **machine()}
    print(f"{head['device']}, torch {head['torch']}, Triton {head['triton']}")
    chosen = {
        name: parts.Part([sys.executable, __file__, "--part", name], limit, function.__doc__)
        for name, (function, limit) in _PARTS.items()
        if tune or name != "tune"
    }
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    return parts.run(chosen, head, None if output is None else output / "rational_gpu.json", seconds)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure rational activations on a GPU.")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for rational_gpu.json")
    parser.add_argument("--tune", action="store_true", help="at last find the fastest tiles; takes a minute or two")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="leave out the last parts if these are not enough"
    )
    parser.add_argument("--machine", action="store_true", help="only say what would be measured with what")
    parser.add_argument("--part", choices=_PARTS, help="only this, a figure a line")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        if arguments.machine:
            print("\n".join(f"{name}: {value}" for name, value in machine().items()))
        elif arguments.part is not None:
            torch.manual_seed(0)
            for found in _PARTS[arguments.part][0]():
                print(json.dumps(found), flush=True)
        else:
            return int(bool(run_gpu(arguments.output, arguments.tune, arguments.seconds)["errors"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
