import copy
import itertools
from contextlib import nullcontext

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from rlrat.errors import InputError
from rlrat.networks.activations import PReLU
from rlrat.networks.layers import MLP, initialize
from rlrat.rational import Rational
from rlrat.updates.optim import Adam, SeedGuard, flatten, polyak_


def _network(seeds, critics=None, activation="tanh"):
    network = MLP(3, (8,), 2, batch_shape=(len(seeds), *([critics] if critics else [])), activation=activation)
    initialize(network, seeds, "test", "pytorch")
    return network


def _loss(network, x):
    """One value for each seed."""
    y = network(x)
    return (y - x.sum(-1, keepdim=True)).square().flatten(1).mean(1)


def _inputs(seeds, step):
    return torch.stack([torch.randn(16, 3, generator=torch.Generator().manual_seed(97 * s + step)) for s in seeds])


@settings(max_examples=20, deadline=None)
@given(
    rate=st.floats(1e-4, 1e-1),
    decay=st.sampled_from([0.0, 1e-2, 0.3]),
    decoupled=st.booleans(),
    max_norm=st.sampled_from([None, 0.1, 10.0]),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)]),
    fused=st.booleans(),
)
def test_one_seed_steps_as_torch_does(rate, decay, decoupled, max_norm, betas, fused):
    ours = _network([5])
    theirs = copy.deepcopy(ours)
    optional = {"betas": betas, "weight_decay": decay, "decoupled": decoupled, "max_norm": max_norm}
    optimizer = Adam(ours, rate, guard=SeedGuard(1), name="n", **optional)
    optimizer._fused &= fused
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    reference = kind(theirs.parameters(), lr=rate, betas=betas, weight_decay=decay)
    for step in range(10):
        x = _inputs([5], step)
        optimizer.step(_loss(ours, x))
        reference.zero_grad()
        _loss(theirs, x).sum().backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("critics", [None, 2])
def test_each_seed_has_its_own_rate_decay_and_clipping(critics):
    seeds, rates, decays, norms = [0, 1, 2], [1e-3, 1e-2, 3e-2], [0.0, 0.1, 0.2], [1e-2, 1.0, 100.0]
    together = _network(seeds, critics)
    optimizer = Adam(together, rates, guard=SeedGuard(3), name="n", weight_decay=decays, max_norm=norms)
    axis = (lambda x: x.unsqueeze(1)) if critics else (lambda x: x)
    for step in range(10):
        optimizer.step(_loss(together, axis(_inputs(seeds, step))))
    for index, seed in enumerate(seeds):
        alone = _network([seed], critics)
        one = Adam(alone, rates[index], guard=SeedGuard(1), name="n", weight_decay=decays[index], max_norm=norms[index])
        for step in range(10):
            one.step(_loss(alone, axis(_inputs([seed], step))))
        for many, single in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(many[index], single[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_diverged_seed_is_frozen_and_named_and_the_others_go_on(fused):
    seeds = [0, 1, 2]
    guard = SeedGuard(3)
    network, undisturbed = _network(seeds), _network(seeds)
    optimizer = Adam(network, 1e-2, guard=guard, name="critic")
    reference = Adam(undisturbed, 1e-2, guard=SeedGuard(3), name="critic")
    optimizer._fused = reference._fused = fused
    for step in range(6):
        guard.update += 1
        x = _inputs(seeds, step)
        reference.step(_loss(undisturbed, x))
        if step == 3:
            x[1, 0, 0] = float("nan")
            before = optimizer.flat[1].clone()
        optimizer.step(_loss(network, x))
    assert torch.equal(optimizer.flat[1], before)
    assert torch.equal(optimizer.flat[[0, 2]], reference.flat[[0, 2]])
    assert guard.report() == [None, ("critic loss", 4), None]


def test_a_non_finite_gradient_of_a_finite_loss_is_named():
    guard = SeedGuard(2)
    network = _network([0, 1])
    optimizer = Adam(network, 1e-2, guard=guard, name="actor")
    before = optimizer.flat.clone()
    x = _inputs([0, 1], 0)
    # The square root has an infinite slope at 0.
    loss = _loss(network, x) + torch.stack([network.output.bias[0].sum(), network.output.bias[1].mul(0).sum().sqrt()])
    guard.update += 1
    optimizer.step(loss)
    assert guard.report() == [None, ("actor gradient", 1)]
    assert torch.equal(optimizer.flat[1], before[1])
    assert not torch.equal(optimizer.flat[0], before[0])


@pytest.mark.parametrize(
    ("path", "decoupled"),
    [
        *itertools.product(["fused", "plain", "eager"], [False, True]),
        pytest.param("inductor", True, marks=pytest.mark.slow),
    ],
)
def test_a_finite_gradient_makes_its_step_or_is_a_divergence(path, decoupled):
    """Never a step of zero, which the overflow of a square makes in torch.optim.Adam and clip_grad_norm_."""
    sizes = [1e18, 1e19, 1e20, 1e30, 3e38]
    for max_norm, held in ((None, 1), (0.25, 4), (1e3, 5)):
        seeds = list(range(len(sizes)))
        network, guard = _network(seeds), SeedGuard(len(sizes))
        optimizer = Adam(
            network, 1e-2, guard=guard, name="n", max_norm=max_norm, eps=1e-20, decoupled=decoupled, betas=(0.9, 0.9)
        )
        optimizer._fused &= path == "fused"
        unit = [
            torch.randn(p.shape[1:], generator=torch.Generator().manual_seed(k))
            for k, p in enumerate(network.parameters())
        ]
        gradients = [torch.stack([size * (u / u.abs().max()) for size in sizes]) for u in unit]
        start = optimizer.flat.clone()

        def step(gradients, optimizer=optimizer):
            optimizer.step(torch.zeros(len(sizes)), gradients=gradients)

        plain = path in ("fused", "plain")
        (step if plain else torch.compile(step, backend=path, fullgraph=True))(gradients)
        alive = [report is None for report in guard.report()]
        assert alive == [number < held for number in range(len(sizes))]
        moved = (optimizer.flat - start).flatten(1)
        for seed in seeds:
            expected = -0.01 * torch.cat([u.sign().flatten() for u in unit]) if alive[seed] else torch.zeros(())
            torch.testing.assert_close(moved[seed], expected.expand_as(moved[seed]), rtol=1e-3, atol=1e-6)
            if alive[seed] and max_norm is not None:
                norm = optimizer.first_moment[seed].norm() / (1 - 0.9)
                torch.testing.assert_close(norm.item(), max_norm, rtol=1e-4, atol=0.0)


def test_rational_coefficients_have_a_rate_of_their_own_and_no_decay():
    network = _network([0], critics=2, activation="rational")
    frozen = copy.deepcopy(network)
    optimizer = Adam(network, 1e-2, guard=SeedGuard(1), name="n", weight_decay=0.5, rational_rate_scale=0.0)
    for step in range(3):
        optimizer.step(_loss(network, _inputs([0], step).unsqueeze(1)))
    rational, start = (next(m for m in n.modules() if isinstance(m, Rational)) for n in (network, frozen))
    assert torch.equal(rational.numerator, start.numerator)
    assert torch.equal(rational.denominator, start.denominator)
    assert not torch.equal(network.output.weight, frozen.output.weight)


def test_every_trained_activation_has_the_rate_of_rationals():
    network = _network([0], activation="prelu")
    before = copy.deepcopy(network.state_dict())
    optimizer = Adam(network, 1e-2, guard=SeedGuard(1), name="n", rational_rate_scale=0.0)
    optimizer.step(_loss(network, _inputs([0], 0)))
    kept = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in kept if "activation" in name} == {name for name in before if "activation" in name} != set()
    assert "output.weight" not in kept


@pytest.mark.parametrize("kind", [PReLU, nn.PReLU])
def test_what_says_that_it_is_a_trained_activation_has_no_decay(kind, monkeypatch):
    monkeypatch.setattr(kind, "trained_activation", True, raising=False)
    network = _network([0])
    network.hidden[0].activation = kind((1,)) if kind is PReLU else kind()
    optimizer = Adam(network, 1e-2, guard=SeedGuard(1), name="n", weight_decay=0.5, decoupled=True, betas=(0.0, 0.5))
    before = copy.deepcopy(network.state_dict())
    zeros = [torch.zeros_like(p) for p in network.parameters()]
    optimizer.step(torch.zeros(1), gradients=zeros)
    kept = {name for name, value in network.state_dict().items() if name in before and torch.equal(value, before[name])}
    assert kept == {"hidden.0.activation.weight"}


def test_parameters_are_views_of_the_flat_buffer():
    network = _network([0, 1], critics=2)
    x = torch.randn(2, 1, 4, 3)
    before = network(x)
    flat = flatten(network)
    assert flat.shape == (2, 2, sum(p.numel() for p in network.parameters()) // 4)
    assert torch.equal(network(x), before)
    state = {name: value + 1 for name, value in network.state_dict().items()}
    sums = flat.sum()
    network.load_state_dict(state)
    torch.testing.assert_close(flat.sum(), sums + flat.numel())


def _padding(adam, tensor):
    """What of a buffer lies between the parameters."""
    rest = tensor.clone()
    for piece in adam._layout.pieces(rest):
        piece.fill_(float("nan"))
    return rest[~rest.isnan()]


@pytest.mark.parametrize("critics", [None, 2])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_padding_changes_no_parameter_and_stays_zero(critics, decoupled, fused, monkeypatch):
    results = []
    settings = {"weight_decay": 0.3, "decoupled": decoupled, "rational_rate_scale": 1.0 if fused else 0.5}
    for padded in (False, True):
        monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device, padded=padded: padded)
        network, guard = _network([0, 1, 2], critics, "rational"), SeedGuard(3)
        target = copy.deepcopy(network).requires_grad_(False)
        optimizer = Adam(network, [0.01, 0.02, 0.03], guard=guard, name="n", **settings)
        assert optimizer._fused == fused
        flatten(target)
        for number in range(4):
            x = _inputs([0, 1, 2], number)
            x[1] *= float("nan") if number == 2 else 1.0
            optimizer.step(_loss(network, x.unsqueeze(1) if critics else x), target=target, polyak=0.3)
        assert guard.alive.tolist() == [True, False, True]
        results.append((network.state_dict(), target.state_dict(), optimizer.state_dict()))
    for plain, ours in zip(*results, strict=True):
        for name, value in plain.items():
            assert ours[name].shape == value.shape, name
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7, msg=name)
    for flat in (optimizer.flat, target.flat, optimizer.first_moment, optimizer.second_moment):
        assert flat.shape[-1] % 32 == 0
        assert flat.shape == optimizer.first_moment.shape
        assert len(_padding(optimizer, flat)) > 0
        assert not _padding(optimizer, flat).any()
    for owner in (network, target):
        offsets = [parameter.storage_offset() for parameter in owner.parameters()]
        assert offsets == sorted(set(offsets))
        assert all(offset % 32 == 0 for offset in offsets)


@pytest.mark.parametrize("padded", [False, True])
def test_a_state_with_padding_goes_on_without_and_the_other_way_round(padded, monkeypatch):
    """What is saved is what was saved before there was padding."""

    def make(padded):
        monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: padded)
        network = _network([0, 1], 2, "rational")
        return nn.ModuleList([network, Adam(network, 1e-2, guard=SeedGuard(2), name="n", rational_rate_scale=0.5)])

    def train(pair, numbers):
        for number in numbers:
            pair[1].step(_loss(pair[0], _inputs([0, 1], number).unsqueeze(1)))

    first, second = make(padded), make(not padded)
    train(first, range(3))
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    size = sum(parameter.numel() for parameter in first[0].parameters())
    assert saved["1.first_moment"].shape == saved["1.second_moment"].shape == (2, 2, size // 4)
    moments = saved["1.first_moment"].split([parameter.numel() // 4 for parameter in first[0].parameters()], dim=-1)
    for moment, piece in zip(moments, first[1]._layout.pieces(first[1].first_moment), strict=True):
        assert torch.equal(moment, piece.flatten(2))
    second.load_state_dict(saved)
    for name, value in second.state_dict().items():
        assert torch.equal(value, saved[name]), name
    train(first, range(3, 5))
    train(second, range(3, 5))
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.second_moment"):
        second.load_state_dict({**saved, "1.second_moment": saved["1.second_moment"][..., 1:]})


def test_a_padded_network_is_copied_and_flattened_again(monkeypatch):
    monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: True)
    network = _network([0, 1], critics=2)
    x = torch.randn(2, 1, 4, 3)
    before, flat = network(x), flatten(network)
    assert torch.equal(network(x), before)
    twin = copy.deepcopy(network)
    for again in (flatten(twin), flatten(network)):
        assert torch.equal(again, flat)
    polyak_(twin, network, 0.5, torch.tensor([True, True]))
    assert torch.equal(twin(x), before)
    monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: False)
    assert flatten(twin).shape == (2, 2, sum(p.numel() for p in network.parameters()) // 4)
    assert torch.equal(twin(x), before)


def test_polyak_of_a_network_without_a_flat_buffer_is_one_line():
    target, source = nn.Linear(1, 1), nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"flatten` has seen, .*: call it with the target, after learner.to"):
        polyak_(target, source, 0.5, torch.tensor([True]))


def test_what_is_flat_moves_with_the_network():
    network = _network([0, 1], critics=2)
    size = flatten(network).shape
    moved = copy.deepcopy(network).to("meta")
    tensors = [
        value for module in moved.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)
    ]
    assert all(tensor.is_meta for tensor in (*tensors, *moved.parameters(), *moved.buffers()))
    assert (moved.flat.is_meta, moved.flat.shape) == (True, size)
    assert network.state_dict().keys() == _network([0, 1], critics=2).state_dict().keys()  # it is in no checkpoint


@pytest.mark.parametrize("change", [copy.deepcopy, lambda pair: pair.to(torch.float64)])
def test_a_step_that_would_not_reach_the_parameters_is_an_error(change):
    network = _network([0, 1])
    pair = nn.ModuleList([network, Adam(network, 1e-2, guard=SeedGuard(2), name="actor")])
    pair.to("cpu", torch.float32)  # nothing moves
    pair[1].step(_loss(network, _inputs([0, 1], 0)))
    network, optimizer = change(pair)
    x = _inputs([0, 1], 1).to(network.output.bias)
    with pytest.raises(InputError, match="the optimizer actor does not reach its network, which was moved or copied"):
        optimizer.step(_loss(network, x))


def test_polyak_averages_the_living():
    target, source = _network([0, 1], critics=2), _network([2, 3], critics=2)
    before, theirs = flatten(target).clone(), flatten(source)
    polyak_(target, source, 0.25, torch.tensor([True, False]))
    torch.testing.assert_close(target.flat[0], 0.75 * before[0] + 0.25 * theirs[0])
    assert torch.equal(target.flat[1], before[1])
    torch.testing.assert_close(target.output.bias[0].flatten(), target.flat[0, :, -2:].flatten())


@pytest.mark.parametrize(("critics", "decoupled", "padded"), [(None, True, False), (2, False, False), (2, True, True)])
def test_a_traced_step_is_the_plain_one(critics, decoupled, padded, monkeypatch):
    """Per-seed rates, decay and clipping, rational coefficients at a rate of their own, a schedule, a dead seed."""
    results = []
    for traced in (False, True):
        monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device, padded=padded and traced: padded)
        network = _network([0, 1, 2], critics, "rational")
        optimizer = Adam(
            network, [1e-2, 3e-2, 1e-2], guard=SeedGuard(3), name="n", weight_decay=[0.1, 0.0, 0.2],
            decoupled=decoupled, max_norm=[0.1, 10.0, 1.0], rational_rate_scale=0.5,
        )  # fmt: skip
        target = copy.deepcopy(network).requires_grad_(False)
        flatten(target)

        def step(x, network=network, optimizer=optimizer, target=target):
            loss = _loss(network, x.unsqueeze(1) if critics else x)
            optimizer.step(loss, torch.tensor([[0.5], [1.0], [0.7]]))
            polyak_(target, network, 0.3, optimizer._guard[0].alive)
            return loss.detach()

        with torch._dynamo.config.patch(trace_autograd_ops=True) if traced else nullcontext():
            run = torch.compile(step, backend="eager", fullgraph=True) if traced else step
            for number in range(6):
                x = _inputs([0, 1, 2], number)
                if number == 3:
                    x[1] = float("nan")
                run(x)
        results.append((network.state_dict(), target.state_dict(), optimizer.state_dict()))
        assert optimizer._guard[0].report() == [None, ("n loss", 0), None]
    assert all(result.keys() == expected.keys() for result, expected in zip(*results, strict=True))
    for plain, by_parameter in zip(*results, strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(by_parameter[name], value, rtol=1e-4, atol=1e-5, msg=name)
