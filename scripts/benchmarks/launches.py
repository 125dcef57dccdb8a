"""Count the kernel launches of one update of every agent, on PyTorch's meta device: no GPU is needed.

    python scripts/benchmarks/launches.py --output launches.json
    python scripts/benchmarks/launches.py --agents iql --detail iql    # by parts

Inside the CUDA graph is what `learner.update` launches when it is recorded, outside what each update launches before
and after the replay: `learner.inputs`, the copy into the graph's inputs, and `Run.log`, as means over 64 updates.

An operation of PyTorch counts one launch, but for views, allocations and what reads only shapes, which count none, and
for `_LAUNCHES`, read from PyTorch's CUDA code. A kernel of rlrat's own counts one where `launching.launch` is called.
Not counted is what one operation launches more for large inputs only: a reduction clears counters, a product may be
split and summed up. Copies between CPU and device are listed apart: where the host waits for them, they stop it from
launching ahead.
"""

import inspect
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import tyro
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agent_speed import make_learner, own_activations
from rlrat import Dataset, load_dataset
from rlrat.datasets import rows
from rlrat.rational import backends, launching
from rlrat.runs.agents import agent_names
from rlrat.runs.run import Run
from rlrat.updates import captured, optim

_UPDATES = 64  # of which the launches outside the graph are the mean
_FIRST = 8  # by then everything is recorded
_FREE = {  # of the operations that are no views: no kernel, a tensor's memory alone or what is known of it
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "_local_scalar_dense",
    "is_same_size", "record_stream", "_to_copy", "copy_",
}  # fmt: skip


def _foreach_copy(own: list[Tensor], others: list[Tensor], *_) -> int:
    """Count one launch for up to 64 tensors of one type that lie alike without gaps, else one copy for each."""
    alike = all(a.stride() == b.stride() for a, b in zip(own, others, strict=True))
    alike &= all(t.numel() == _extent(t) for t in own) and len({t.dtype for t in others}) == 1
    return -(-len(own) // 64) if alike else len(own)


def _extent(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _embedding_gradient(grad: Tensor, indices: Tensor, *_) -> int:
    """Count zeros and one kernel for few indices; for many, which are sorted first, a lower bound."""
    return 2 if indices.numel() <= 3072 else 10


def _product(bias: Tensor, *_, beta: float = 1.0, **__) -> int:
    """Count the copy of the bias into the result, in which cuBLAS adds to it."""
    return 2 if beta else 1


_LAUNCHES: dict[str, int | Callable[..., int]] = {
    "_foreach_copy_": _foreach_copy,
    "_foreach_add": lambda tensors, *_: -(-len(tensors) // 64),
    "baddbmm": _product,
    "embedding_dense_backward": _embedding_gradient,
    "logsumexp": 9,  # the maximum, which infinities must not be (3), subtracted, exp, sum, log, added
    "masked_fill": 2,  # a copy first
    "scatter": 2,
    "select_backward": 2,  # zeros first
    "slice_backward": 2,
    "index": 1,
    "index_put": 8,  # the indices are sorted
    "index_put_": 8,
}


@dataclass
class _Launch:
    name: str
    count: int
    part: str
    reads: frozenset[int]
    writes: frozenset[int]


class LaunchCounter(TorchDispatchMode):
    """Collects the launches of what is called inside, for tensors on `meta`."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[_Launch] = []
        self.copies: list[str] = []
        """Copies between CPU and device, and reads of a number."""
        self.part = "forward"
        self._alive: list[Any] = []  # an address is another tensor's as soon as one is gone

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if func.namespace == "rlrat":  # as without this mode, under which the operator is called instead of its kernels
            with self:
                *inputs, version = args
                if name == "rational":
                    return backends.plan(*inputs, version, None).forward(*inputs)
                found = backends.plan(*inputs[1:], version, None).backward(*inputs)
                return tuple(inputs[1].new_empty(0) if t is None else t for t in found)
        result = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not any(t.is_meta for t in (*inputs, *outputs)):
            return result
        if len({t.is_meta for t in (*inputs, *outputs)}) > 1 and any(t.ndim for t in inputs):
            self.copies.append(name)
            return result
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
            outputs += [
                tensor
                for argument, value in zip(func._schema.arguments, args, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
                for tensor in tree_leaves(value)
            ]
            outputs += [kwargs["out"]] if "out" in kwargs else []
        elif func.is_view or name in ("detach", "alias", "_unsafe_view", "lift_fresh"):
            return result
        count = _LAUNCHES.get(name, 0 if name in _FREE - {"_to_copy", "copy_"} else 1)
        count = count if isinstance(count, int) else count(*args, **kwargs)
        self.add(name, count, inputs, outputs)
        return result

    def add(self, name: str, count: int, reads: list[Tensor], writes: list[Tensor]) -> None:
        if count == 0:
            return
        self._alive += [storages := [[t.untyped_storage() for t in tensors] for tensors in (reads, writes)]]
        addresses = (frozenset(storage._cdata for storage in some) for some in storages)
        self.launches.append(_Launch(name, count, self.part, *addresses))

    def launch(self, kernel: Any, programs: int, *arguments: Any, load: bool = False, **_) -> None:
        """Stand in for `launching.launch`."""
        if not load:
            tensors = [t for t in arguments if isinstance(t, Tensor)]
            self.add(getattr(kernel, "__name__", str(kernel)), 1, tensors, tensors)

    def within(self, part: str, function: Callable) -> Callable:
        """Wrap a function so that what it launches belongs to a part."""

        @wraps(function)
        def call(*args, **kwargs):
            before, self.part = self.part, part
            try:
                return function(*args, **kwargs)
            finally:
                self.part = before

        return call

    def total(self) -> int:
        return sum(launch.count for launch in self.launches)

    def by_part(self, state: list[Tensor]) -> dict[str, Counter]:
        """Count launches by part and name; what only metrics need is a part, too: `state` does not depend on it."""
        needed = {tensor.untyped_storage()._cdata for tensor in state}
        found: dict[str, Counter] = defaultdict(Counter)
        for launch in reversed(self.launches):
            used = not needed.isdisjoint(launch.writes)
            if used:
                needed |= launch.reads
            found[launch.part if used else "metrics"][launch.name] += launch.count
        return dict(found)


class _Graph:
    """Records without a device: a replay launches nothing of what is counted."""

    def warm_up(self, function: Callable[[], Any]) -> Any:
        return function()

    record = warm_up

    def replay(self) -> None:
        pass


@contextmanager
def _as_on_a_gpu() -> Iterator[LaunchCounter]:
    """Let `meta` be a GPU on which Triton works; launches are counted."""
    counter = LaunchCounter()
    properties = SimpleNamespace(multi_processor_count=132)  # an H200's
    patches = (
        mock.patch.object(launching, "_gpu_types", ("cuda", "meta")),
        mock.patch.object(launching, "launch", counter.launch),
        mock.patch.object(launching.Tickets, "take", lambda self, count: torch.empty(count, device="meta")),
        mock.patch.object(rows, "available_memory", return_value=None),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=properties),
        mock.patch.object(torch, "allclose", return_value=True),  # in which a recording is judged
        mock.patch.object(torch.autograd, "grad", counter.within("backward", torch.autograd.grad)),
        mock.patch.object(optim.Adam, "step", counter.within("optimizer", optim.Adam.step)),
        mock.patch.object(optim.SeedGuard, "check", counter.within("guard", optim.SeedGuard.check)),
    )
    for patch in patches:
        patch.start()
    backends._plans.clear()
    try:
        yield counter
    finally:
        for patch in patches:
            patch.stop()
        backends._plans.clear()  # made for launches that were only counted


def count_inside(learner: nn.Module, inputs: tuple, counter: LaunchCounter) -> tuple[int, dict[str, Counter]]:
    """Count what a recording of this update holds: all launches, and by part and name."""
    state = [*learner.parameters(), *learner.buffers()]
    inside = []

    class Graph(_Graph):
        def record(self, function: Callable[[], Any]) -> Any:
            counter.launches.clear()
            result = function()
            inside.append((counter.total(), counter.by_part(state)))
            return result

    with counter:
        update = captured.captured(learner, Graph)
        for _ in range(_FIRST):
            update(*inputs)
    if not inside:
        raise RuntimeError("the update was not recorded")
    return inside[-1]


def count_outside(learner: nn.Module, num_seeds: int, counter: LaunchCounter) -> dict[str, float]:
    """Count what one update launches outside its graph, by step; `blocking copies` are no launches."""
    run = SimpleNamespace(_group=SimpleNamespace(members=range(num_seeds)), _sums={})
    update, found = captured.captured(learner, _Graph), Counter()

    def step(name: str, function: Callable, *args) -> Any:
        counter.launches.clear()
        result = function(*args)
        found[name] += counter.total()
        return result

    with counter:
        for number in range(_FIRST + _UPDATES):
            if number == _FIRST:
                found.clear()
                counter.copies.clear()
            inputs = step("inputs", learner.inputs, number)
            step("log", Run.log, run, step("copy", update, *inputs))
    found["blocking copies"] = len(counter.copies)
    return {name: count / _UPDATES for name, count in found.items()}


def count(agent: str, dataset: Dataset, num_seeds: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Count every kind of an agent's update: one for each combination of the flags among its inputs."""
    with _as_on_a_gpu() as counter:
        if launching.problem() is not None:
            raise RuntimeError(f"{launching.problem()}: what would be counted is not what a GPU does")
        learner = make_learner(agent, dataset, num_seeds, "meta", **settings)
        names, kinds = inspect.signature(learner.update).parameters, {}
        for number in range(2):
            inputs = learner.inputs(number)
            flags = (f"{name}={x}" for name, x in zip(names, inputs, strict=False) if isinstance(x, bool))
            kinds.setdefault(", ".join(flags), inputs)
        outside = count_outside(learner, num_seeds, counter)
        for kind, inputs in kinds.items():
            inside, parts = count_inside(learner, inputs, counter)
            total = sum(launches for step, launches in outside.items() if step != "blocking copies")
            yield {
                "agent": agent, "seeds": num_seeds, **settings, "kind": kind,
                "inside": inside, "outside": total, **{f"outside: {step}": n for step, n in outside.items()},
                "parts": {name: dict(found.most_common()) for name, found in sorted(parts.items())},
            }  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Count the kernel launches of one update of every agent, inside its CUDA graph and outside, without a GPU."""

    agents: tuple[str, ...] = tuple(agent_names())
    seeds: tuple[int, ...] = (1, 64)
    detail: str | None = None
    """Also print the launches of this agent by part and operation."""
    output: Path | None = None
    """The JSON file to write: all that the table has, and every update's launches by part and operation."""


def _name(row: dict[str, Any]) -> str:
    dropout = "dropout" if "actor_dropout" in row else ""
    return ", ".join(filter(None, (row["agent"], row["activation"], f"S = {row['seeds']}", row["kind"], dropout)))


def run(settings: Settings) -> list[dict[str, Any]]:
    dataset, found = load_dataset("rlrat/hopper/mixed-v0"), []
    for agent in settings.agents:
        for activation in own_activations(agent):
            variants = [{"activation": activation}]
            variants += [{"activation": activation, "actor_dropout": 0.1}] if agent == "iql" else []
            for seeds in settings.seeds:
                for variant in variants:
                    found += count(agent, dataset, seeds, **variant)
    steps = ("inputs", "copy", "log", "blocking copies")
    print(f"{'update':<70} {'inside':>7} {'outside':>8} {'=':>2} " + " ".join(f"{step:>8}" for step in steps))
    for row in found:
        outside = (row["outside"], *(row[f"outside: {step}"] for step in steps))
        total, *outside = (f"{launches:8.2f}" for launches in outside)
        print(f"{_name(row):<70} {row['inside']:7} {total}    " + " ".join(outside))
    for row in found:
        if row["agent"] == settings.detail:
            print(f"\n{_name(row)}")
            for part, launches in row["parts"].items():
                print(f"  {part} {sum(launches.values())}: " + ", ".join(f"{name} {n}" for name, n in launches.items()))
    if settings.output is not None:
        settings.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    run(tyro.cli(Settings))
