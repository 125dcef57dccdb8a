"""The kernels beside Adam's plain path, interpreted where there is no GPU; compiled for GPUs that need not be there."""

import copy
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlrat.networks.layers import MLP, initialize
from rlrat.rational import launching
from rlrat.updates import optim
from rlrat.updates.optim import Adam, SeedGuard, flatten, polyak_
from tests.compile_kernels import Launches, compile_launches
from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker
from tests.rational.inputs import DEVICE

pytestmark = [
    pytest.mark.skipif(launching.problem() is not None, reason=str(launching.problem())),
    pytest.mark.usefixtures("_on_device"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, about infinities in the interpreter
]
ULP = 2.0**-23
MOST_ULPS = 2.0 if DEVICE == "cpu" else 4.0  # a GPU fuses products and sums


@pytest.fixture
def _on_device():
    """Make tensors on the GPU, where there is one."""
    with torch.device(DEVICE) if DEVICE != "cpu" else nullcontext():
        yield


class Tickets:
    """Counters that every kernel must leave as zeros."""

    def __init__(self):
        self.counters = torch.zeros(64, dtype=torch.int32)

    def take(self, count):
        return self.counters[:count]


@pytest.fixture
def on_gpu(monkeypatch):
    """`with on_gpu():` kernels run, where there is no GPU on the CPU; else operations do."""
    tickets = Tickets()
    monkeypatch.setattr(launching, "_gpu_types", ())

    @contextmanager
    def pretend():
        with monkeypatch.context() as patch:
            patch.setattr(launching, "_gpu_types", (DEVICE,))
            patch.setattr(launching, "tickets", lambda device: tickets)
            yield

    yield pretend
    assert not tickets.counters.any()


@pytest.fixture
def launches(monkeypatch):
    """The launches that would be."""
    found = Launches()
    monkeypatch.setattr(launching, "launch", found)
    return found


class Scalar(nn.Module):
    """As CQL's multiplier: one parameter `[S]`."""

    def __init__(self, seeds):
        super().__init__()
        self.batch_shape = (seeds,)
        self.value = nn.Parameter(torch.linspace(-1.0, 1.0, seeds))


def _network(seeds, critics=None, width=8, activation="rational"):
    with torch.device("cpu"):
        network = MLP(3, (width,), 2, batch_shape=(seeds, *([critics] if critics else [])), activation=activation)
        initialize(network, list(range(seeds)), "test", "pytorch")
    return network.to(DEVICE)


def _gradients(network, number, scale=1.0):
    draws = torch.Generator().manual_seed(number)
    draw = partial(torch.randn, generator=draws, device="cpu")
    return [scale * draw(p.shape).to(DEVICE) for p in network.parameters()]


def _packed(adam, name="flat"):
    """A buffer without the padding that only the kernels' has."""
    return adam._layout.pack(getattr(adam, name))


class Pair:
    """The same network and optimizer twice: with the plain path, and with kernels."""

    def __init__(self, on_gpu, network, rate=1e-2, **settings):
        self.on_gpu, self.networks = on_gpu, (network, copy.deepcopy(network))
        seeds = network.batch_shape[0]
        self.guards = SeedGuard(seeds), SeedGuard(seeds)
        self.plain = self._adam(0, rate, settings)
        self.plain._fused = False
        with on_gpu():
            self.quick = self._adam(1, rate, settings)
        assert self.quick._in_kernels
        assert not self.plain._in_kernels

    def _adam(self, index, rate, settings):
        undecayed = [self.networks[index].output] if settings.get("weight_decay") else []
        return Adam(self.networks[index], rate, guard=self.guards[index], name="n", undecayed=undecayed, **settings)

    def step(self, loss, gradients, schedule=None):
        for guard in self.guards:
            guard.update += 1
        self.plain.step(loss, schedule, gradients)
        with self.on_gpu():
            self.quick.step(loss, schedule, gradients)
        for name, buffer in self.guards[0].named_buffers():
            assert torch.equal(getattr(self.guards[1], name), buffer), name
        assert torch.equal(self.plain.steps, self.quick.steps)

    def assert_alike(self, steps):
        """The numbers of living seeds are within 2 ulp for each step, of the largest one where terms may cancel."""
        alive = self.guards[0].alive
        for name in ("first_moment", "second_moment", "flat"):
            plain, quick = (_packed(adam, name)[alive].flatten(1) for adam in (self.plain, self.quick))
            assert torch.isfinite(quick).all()
            size = plain.abs().amax(1, keepdim=True)
            if name == "second_moment":  # of squares
                size = (size * plain).sqrt()
            worst = ((quick - plain).abs() / (size * ULP + 1e-45)).max().item()
            assert worst <= MOST_ULPS * steps, (name, worst)


SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 0.3},
    "decoupled": {"weight_decay": 0.3, "decoupled": True, "rational_rate_scale": 0.5},
    "scaled": {"rational_rate_scale": 3.0, "max_norm": 0.5},
    "clipped": {"max_norm": 1e-3, "weight_decay": 0.1, "rational_rate_scale": 0.0},
    "no betas": {"betas": (0.0, 0.0)},
    "one beta": {"betas": (0.6, 0.0), "eps": 1e-3},
    "schedules": {"cosine_updates": 5, "warmup_updates": 3, "weight_decay": 0.2, "decoupled": True},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("seeds", "critics"), [(1, None), (2, None), (5, 2)])
def test_steps_are_those_of_the_plain_path(on_gpu, settings, seeds, critics):
    pair = Pair(on_gpu, _network(seeds, critics), **SETTINGS[settings])
    schedule = torch.linspace(0.5, 1.0, seeds).unsqueeze(1) if settings == "schedules" else None
    for number in range(4):
        pair.step(torch.ones(seeds), _gradients(pair.networks[0], number), schedule)
    pair.assert_alike(4)


def test_each_of_many_seeds_has_its_own_settings(on_gpu):
    seeds = 64
    own = torch.logspace(-3, 0, seeds)
    settings = {"weight_decay": (own / 3).tolist(), "max_norm": (5 * own).tolist()}
    pair = Pair(on_gpu, _network(seeds, 2, width=4), (own / 10).tolist(), **settings)
    pair.step(torch.ones(seeds), _gradients(pair.networks[0], 0), own.unsqueeze(1))
    pair.assert_alike(1)


@pytest.mark.parametrize("seeds", [1, 5])
def test_one_number_for_each_seed_is_a_network(on_gpu, seeds):
    pair = Pair(on_gpu, Scalar(seeds), max_norm=0.1)
    for number in range(4):
        pair.step(torch.ones(seeds), _gradients(pair.networks[0], number))
    pair.assert_alike(4)


def test_many_programs_for_a_seed(on_gpu, monkeypatch):
    """More than the last one adds at once, and not as many as fill the blocks."""
    monkeypatch.setattr(optim, "_REDUCE_BLOCK", 2)
    monkeypatch.setattr(optim, "_UPDATE_BLOCK", 64)
    pair = Pair(on_gpu, _network(2, 2, width=45), max_norm=0.1)
    assert pair.quick._programs > 256
    pair.step(torch.ones(2), _gradients(pair.networks[0], 0))
    pair.assert_alike(1)


@pytest.mark.parametrize("schedule", ["cosine_updates", "warmup_updates"])
def test_schedules_are_computed_to_their_end_and_past_it(on_gpu, schedule):
    pair = Pair(on_gpu, Scalar(2), 1e-3, betas=(0.0, 0.0), **{schedule: 9})
    moved = []
    for _ in range(12):
        before = [network.value.detach().clone() for network in pair.networks]
        pair.step(torch.ones(2), [torch.ones(2)])
        moved.append([(network.value - old) / 1e-3 for network, old in zip(pair.networks, before, strict=True)])
    for plain, quick in moved:
        torch.testing.assert_close(quick, plain, rtol=0.0, atol=2e-4)  # of numbers near 1, to which a step is added
    steps = torch.arange(12.0)
    expected = 0.5 + 0.5 * torch.cos(torch.pi * steps / 9) if schedule == "cosine_updates" else (steps + 1) / 9
    found = torch.stack([-quick[0] for _, quick in moved])
    torch.testing.assert_close(found, expected.clamp(max=1.0), rtol=0.0, atol=2e-4)


LOSSES = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@pytest.mark.parametrize("value", LOSSES)
@pytest.mark.parametrize("where", ["loss", "gradient", "both"])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_a_seed_that_diverges_is_frozen_and_named_and_the_others_go_on(on_gpu, value, where, max_norm):
    pair = Pair(on_gpu, _network(3, 2), max_norm=max_norm, weight_decay=0.1)
    for number in range(4):
        loss, gradients = torch.ones(3), _gradients(pair.networks[0], number)
        if number == 2:
            if where != "gradient":
                loss[1] = LOSSES[value]
            if where != "loss":
                gradients[-1][1, 1, -1] = LOSSES[value]
            kept = ("first_moment", "second_moment", "flat")
            before = {name: getattr(pair.quick, name)[1].clone() for name in kept}
        pair.step(loss, gradients)
    tensor = "n gradient" if where == "gradient" else "n loss"
    assert pair.guards[1].report() == [None, (tensor, 3), None]
    for name, value in before.items():
        assert torch.equal(getattr(pair.quick, name)[1], value), name
    pair.assert_alike(4)


@pytest.mark.parametrize("max_norm", [None, 0.25, 1e3])
def test_a_finite_gradient_makes_its_step_or_is_a_divergence(on_gpu, max_norm):
    sizes = [1e-30, 1e-8, 1.0, 1e18, 1e20, 1e25, 1e30, 3e38]
    pair = Pair(on_gpu, _network(len(sizes)), max_norm=max_norm)
    unit = _gradients(pair.networks[0], 0)
    scale = torch.tensor(sizes)
    gradients = [
        scale.view(-1, *[1] * (u.ndim - 1)) * (u / u.abs().amax().clamp(min=1e-3)) for u in (g[:1] for g in unit)
    ]
    pair.step(torch.ones(len(sizes)), gradients)
    assert pair.guards[1].alive.tolist() == [size < {None: 1e19, 0.25: 1e35, 1e3: 1e39}[max_norm] for size in sizes]
    pair.assert_alike(1)


def test_a_seed_that_is_dead_keeps_its_first_cause(on_gpu):
    pair = Pair(on_gpu, _network(2))
    for guard in pair.guards:
        guard.freeze(torch.tensor([False, True]), 7)
    gradients = _gradients(pair.networks[0], 0)
    gradients[0][1] = float("nan")
    pair.step(torch.tensor([1.0, float("nan")]), gradients)
    assert pair.guards[1].report() == [None, (SeedGuard.EVALUATION, 7)]


def test_losses_and_gradients_may_be_views(on_gpu):
    pair = Pair(on_gpu, _network(3, 2))
    loss = torch.tensor([[1.0, float("nan")]] * 3)[:, 0]
    gradients = [g.transpose(0, -1).contiguous().transpose(0, -1) for g in _gradients(pair.networks[0], 0)]
    pair.step(loss, gradients, torch.full((1, 1), 0.5).expand(3, 1))
    assert pair.guards[1].alive.all()
    pair.assert_alike(1)


@pytest.mark.parametrize("rate", [0.3, 0.0, 1.0, torch.tensor([[0.005], [0.7], [0.3]], device=DEVICE)])
@pytest.mark.parametrize("apart", [False, True])
def test_targets_of_living_seeds_move(on_gpu, rate, apart):
    pair = Pair(on_gpu, _network(3, 2))
    targets = [copy.deepcopy(network) for network in pair.networks]
    flatten(targets[0]).mul_(0.5)
    with on_gpu():
        flatten(targets[1]).mul_(0.5)
    before = targets[1].flat.clone()
    gradients = _gradients(pair.networks[0], 0)
    gradients[0][1] = float("inf")
    pair.plain.step(torch.ones(3), gradients=gradients, target=targets[0], polyak=rate)
    with on_gpu():
        if apart:
            pair.quick.step(torch.ones(3), gradients=gradients)
            polyak_(targets[1], pair.networks[1], rate, pair.guards[1].alive)
        else:
            pair.quick.step(torch.ones(3), gradients=gradients, target=targets[1], polyak=rate)
    assert torch.equal(targets[1].flat[1], before[1])
    assert pair.guards[1].alive.tolist() == [True, False, True]
    for quick, plain in zip(targets[1].parameters(), targets[0].parameters(), strict=True):
        torch.testing.assert_close(quick, plain, rtol=4 * ULP, atol=4 * ULP)
    if isinstance(rate, float) and rate in (0.0, 1.0):
        assert torch.equal(targets[1].flat[0], pair.quick.flat[0] if rate else before[0])


def test_a_target_of_another_layout_is_no_part_of_the_step(on_gpu):
    """It would be read past its end."""
    pair = Pair(on_gpu, _network(2))
    target = copy.deepcopy(pair.networks[0])
    flatten(target)  # before it is moved to the GPU
    with on_gpu(), pytest.raises(RuntimeError, match="must match the size"):
        pair.quick.step(torch.ones(2), gradients=_gradients(target, 0), target=target, polyak=0.5)


class Operations(TorchDispatchMode):
    """Keeps the names of what is no view."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", [None, torch.ones(2, 1, device=DEVICE)])
def test_a_step_is_three_launches_and_moving_a_target_one(on_gpu, launches, schedule):
    network, guard = _network(2, 2), SeedGuard(2)
    target = copy.deepcopy(network)
    with on_gpu():
        optimizer = Adam(network, 1e-2, guard=guard, name="n", max_norm=1.0, cosine_updates=9, warmup_updates=3)
        flatten(target)
        gradients, loss = _gradients(network, 0), torch.ones(2)
        with Operations() as operations:
            optimizer.step(loss, schedule, gradients, target=target, polyak=0.5)
        assert [name for _, name, *_ in launches] == ["prepare_kernel", "update_kernel"]
        assert operations.names == ["aten.cat.out"]
        launches.clear()
        rate = torch.full((2, 1), 0.5)
        with Operations() as operations:
            polyak_(target, network, rate, guard.alive)
        assert [name for _, name, *_ in launches] == ["polyak_kernel"]
        assert operations.names == []


@pytest.mark.parametrize("architecture", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_compiled_for_a_gpu_they_take_16_bytes_and_one_kernel_serves_every_network(
    architecture, on_gpu, launches, tmp_path
):
    """Another one would be compiled inside of a capture."""
    networks = (_network(5, 2, width=31), _network(1), _network(2, 2, width=256), Scalar(1), Scalar(64))
    with on_gpu():
        for network in networks:
            (seeds, *_), target = network.batch_shape, copy.deepcopy(network)
            guard = SeedGuard(seeds)
            flatten(target)
            for settings in ({}, SETTINGS["schedules"] | SETTINGS["scaled"]):
                optimizer = Adam(network, 1e-2, guard=guard, name="n", **settings)
                loss, schedule = torch.ones(seeds + 1)[1:], torch.ones(seeds + 1, 1)[1:] if settings else None
                moved = {"target": target, "polyak": 0.005} if settings else {}
                optimizer.step(loss, schedule, _gradients(network, 0), **moved)
            polyak_(target, network, 0.005, guard.alive)
    # Of the first network; a step without anything is a part of the one with everything.
    specialized, found = compile_launches(launches, [2, 3, 4], [architecture], tmp_path)
    assert len(set(specialized)) == 5
    assert specialized == specialized[:5] * 5
    for one in found:
        assert (one["spilled"], one["float atomics"]) == (0, 0), one
        assert one["registers"] <= 128, one
        loads, stores = {"prepare_kernel": (4, 0), "update_kernel": (14, 8), "polyak_kernel": (4, 2)}[one["kernel"]]
        assert one["wide loads"] >= loads, one  # each twice or four times
        assert one["wide stores"] >= stores, one
