"""A trace sees what a model computes on data, and leaves the model and the random numbers as they were."""

import functools
import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils.checkpoint import checkpoint

from rlrat.rational.tracing import (
    MOST_BATCHES,
    batches,
    call_with,
    elementwise,
    function_of,
    outputs_of,
    run_all,
    trace,
    undisturbed,
)
from tests.rational.models import BasicBlock, LoopedMLP, ViT


class Noisy(nn.Module):
    """Changes all that a forward can change: statistics, its own buffer, three generators, its mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("none", None)
        self.steps = 0

    def forward(self, x):
        self.count = self.count + 1.0
        self.steps += 1
        self.register_buffer("none", x)
        self.register_buffer("late", x)
        self.norm.running_mean.add_(1.0)
        x = F.dropout(self.dropout(self.norm(x)), 0.5) + torch.rand(()) + np.random.rand() + random.random()
        return F.relu(x)


def state_of(model):
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    return buffers, [module.training for module in model.modules()], torch.get_rng_state(), random.getstate()


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_disturbed(failing):
    model = Noisy()
    model.norm.eval()
    buffers, modes, generator, of_python = state_of(model)
    of_numpy = np.random.get_state()[1].copy()
    inputs = [torch.randn(3, 4), torch.randn(3, 5) if failing else torch.randn(2, 4)]
    generator = torch.get_rng_state()
    if failing:
        with pytest.raises(ValueError, match=r"^the model cannot be called with batch 1 of data, \[3, 5\]: [^\n]+$"):
            trace(model, inputs, [], set())
    else:
        trace(model, inputs, [], set())
        with undisturbed(model, evaluating=True):
            assert not any(module.training for module in model.modules())
    for name, (buffer, value) in buffers.items():
        assert model.get_buffer(name) is buffer
        assert torch.equal(buffer, value)
    assert [module.training for module in model.modules()] == modes
    assert (model.steps, model.none, hasattr(model, "late")) == (0, None, False)
    assert torch.equal(torch.get_rng_state(), generator)
    assert random.getstate() == of_python
    assert (np.random.get_state()[1] == of_numpy).all()
    assert not nn_module._global_forward_pre_hooks
    assert not nn_module._global_forward_hooks
    assert not nn_module._global_forward_hooks_always_called


def test_a_model_draws_the_same_numbers_each_time_it_is_run():
    model, inputs = Noisy(), [torch.randn(3, 4)]
    assert torch.equal(run_all(model, inputs)[0][0], run_all(model, inputs)[0][0])


def test_calls_have_their_owners_functions_and_ranges():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.held = nn.LeakyReLU(0.3), functools.partial(F.gelu, approximate="tanh")
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            y = F.leaky_relu(self.act(x), 0.2, inplace=True)
            y = y + self.held(2.0 * x) + nn.ELU(alpha=0.5)(x) + F.softplus(self.scale).sum() + F.softmax(x, -1)
            y = y + F.prelu(x, self.scale[:1])
            return y, {"mask": x > 0, "clamped": y.clamp(min=0)}

    model = Model().eval()
    x = torch.tensor([[-1.0, 3.0], [0.5, -2.0]])
    found = trace(model, [x, x / 2], [(model, "held", model.held)], set())
    calls = {call.name: call for call in list(found.calls.values())[1:]}
    act = next(iter(found.calls.values()))
    assert (act.name, act.held, act.owner, act.low, act.high) == ("leaky_relu", model.act, model, -2.0, 3.0)
    assert act.function is model.act
    assert (calls["gelu"].held, calls["gelu"].low, calls["gelu"].high) == ((model, "held"), -4.0, 6.0)
    points = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(calls["gelu"].function(points), F.gelu(points, approximate="tanh"))
    torch.testing.assert_close(calls["leaky_relu"].function(points), F.leaky_relu(points, 0.2))
    torch.testing.assert_close(calls["elu"].function(points), F.elu(points, 0.5))
    assert calls["leaky_relu"].is_in_place
    assert not calls["elu"].is_in_place
    assert calls["softplus"].why_it_stays == "softplus of a parameter"
    assert calls["prelu"].why_it_stays == "prelu with settings that are tensors"
    assert found.others == {(model, "softmax"): None, (model, "clamp"): None}
    assert [len(outputs) for outputs in found.outputs] == [2, 2]
    assert isinstance(model.held, functools.partial)
    assert found.forwards == {model: [tuple(found.calls)]}


def test_settings_that_change_and_inputs_that_are_no_floats_stay():
    class Model(nn.Module):
        def forward(self, x, slope):
            return F.leaky_relu(x, slope) + torch.sigmoid(torch.arange(2))

    found = trace(Model(), [(torch.ones(2), 0.1), (torch.ones(2), 0.2)], [], set())
    assert [call.why_it_stays for call in found.calls.values()] == [
        "leaky_relu with settings that change",
        "sigmoid of int64",
    ]


@pytest.mark.parametrize(("matters", "kept"), [(True, True), (False, False)])
def test_whether_it_matters_that_a_call_works_in_place(matters, kept):
    class Model(nn.Module):
        def forward(self, x):
            x = x - 1.0
            y = F.relu(x, inplace=True)
            return x + y if matters else y

    data = [torch.full((9,), 2.0), torch.zeros(9)]  # the first has nothing for ReLU to change
    assert trace(Model(), data, [], set()).is_in_place_kept is kept
    assert trace(BasicBlock(2, 2), [torch.randn(1, 2, 4, 4)], [], set()).is_in_place_kept is False


def test_data_that_a_model_overwrites_are_as_they_were():
    x, model = torch.tensor([-1.0, 2.0]), nn.ReLU(inplace=True)
    assert torch.equal(trace(model, [x], [], set()).outputs[0][0], torch.tensor([0.0, 2.0]))
    assert torch.equal(x, torch.tensor([-1.0, 2.0]))


def test_what_only_training_calls_is_seen_too_where_it_can_run():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return F.silu(self.norm(x)) if self.training else F.relu(x)

    model = Model()
    several, one = [torch.randn(8, 2)], [torch.randn(1, 2)]
    assert [call.name for call in trace(model, several, [], set()).calls.values()] == ["relu", "silu"]
    assert [call.name for call in trace(model, one, [], set()).calls.values()] == ["relu"]
    assert [call.name for call in trace(model.eval(), several, [], set()).calls.values()] == ["relu"]


@pytest.mark.parametrize("samples", [1, 4])
def test_a_forward_that_fails_in_training_is_not_counted(samples):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            for number in range(3):
                x = F.relu(self.norm(x) if number == 1 else x)
            return F.gelu(x) if self.training else x

    model = Model()
    try:
        raise KeyError
    except KeyError:  # which is no failure of a forward
        found = trace(model, [torch.randn(samples, 2)], [], set())
    lengths = [len(forward) for forward in found.forwards[model]]
    assert (lengths, len(found.calls)) == (([3], 3) if samples == 1 else ([3, 4], 4))


def test_ignored_modules_are_not_looked_into():
    model = ViT()
    ignored = set(model.blocks[0].modules())
    found = trace(model, [torch.randn(1, 3, 8, 8)], [], ignored)
    assert [call.owner for call in found.calls.values()] == [model.blocks[1]]
    assert list(found.others) == [(model.blocks[1].attention, "scaled_dot_product_attention")]


def test_a_holder_gets_its_function_back_where_the_class_has_it():
    class Model(nn.Module):
        act = staticmethod(F.relu)

        def forward(self, x):
            return self.act(x)

    model = Model()
    found = trace(model, [torch.ones(1)], [(model, "act", F.relu)], set())
    assert [call.held for call in found.calls.values()] == [(model, "act")]
    assert "act" not in vars(model)


def test_batches_of_every_kind():
    x = torch.ones(3, 2)
    assert batches(x)[0] is x
    assert batches({"x": x}) == [{"x": x}]
    assert len(batches(itertools.repeat(x))) == MOST_BATCHES
    assert batches(iter([x]))[0] is x
    generator = torch.Generator().manual_seed(3)
    state, ours = generator.get_state(), torch.get_rng_state()
    data = torch.utils.data.TensorDataset(x, torch.arange(3))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=generator)
    assert [len(inputs) for inputs, _ in batches(loader)] == [2, 1]
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), ours)


@pytest.mark.parametrize(("data", "said"), [([], "yields nothing"), (3, "an iterable"), ("x", "an iterable")])
def test_data_that_are_none(data, said):
    with pytest.raises(ValueError, match=said):
        batches(data)


def test_a_model_is_called_with_what_it_takes():
    class Two(nn.Module):
        def forward(self, a, b, c=0):
            return a + 2 * b + 4 * c

    class Any(nn.Module):
        def forward(self, *args):
            return sum(args)

    class OfOne(nn.Module):
        def forward(self, batch):
            return batch["a"]

    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert call_with(Two(), (one, two, "label")) == 5
    assert call_with(Two(), {"a": one, "b": one, "c": one}) == 7
    assert call_with(Any(), [one, two]) == 3
    assert call_with(OfOne(), {"a": one}) == 1
    assert call_with(nn.Identity(), (one, two)) == 1
    assert call_with(LoopedMLP(), torch.ones(8)).shape == (8,)
    assert [len(t) for t in outputs_of({"a": (one, 3), "b": [torch.arange(2), two]})] == [1, 1]


def test_functions_that_a_module_may_hold():
    assert elementwise(F.relu)
    assert elementwise(functools.partial(F.elu, alpha=2.0))
    assert not any(
        map(elementwise, (F.prelu, F.softmax, torch.sin, functools.partial(F.leaky_relu, 0.1), None, nn.ReLU()))
    )


def test_what_is_checkpointed_without_its_module_stays():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = LoopedMLP(1)

        def other_part(self, x):
            return F.silu(x)

        def forward(self, x):
            x = checkpoint(self.part, x, use_reentrant=False)
            return checkpoint(self.other_part, x, use_reentrant=False)

    relu, silu = trace(Model(), [torch.ones(1, 8)], [], set()).calls.values()
    assert (relu.name, relu.why_it_stays) == ("relu", "")
    assert silu.why_it_stays == "silu in a part of a forward that torch.utils.checkpoint runs again"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "settings"),
    [
        ("relu", (), {}, None),
        ("relu", (True,), {}, {}),
        ("leaky_relu", (0.3, True), {}, {"negative_slope": 0.3}),
        ("softplus", (2,), {"threshold": 10}, {"beta": 2, "threshold": 10}),
        ("hardtanh", (-2, 2, False), {}, {"min_val": -2, "max_val": 2}),
        ("gelu", (), {"approximate": "tanh"}, {"approximate": "tanh"}),
    ],
)
def test_the_function_of_a_call_is_pytorchs_with_its_settings(name, args, kwargs, settings):
    function = function_of(name, args, kwargs)
    assert getattr(function, "func", function) is getattr(F, name)
    assert getattr(function, "keywords", {}) == (settings or {})


def test_settings_that_are_no_plain_values_make_no_function():
    assert function_of("elu", (1.0, 2.0), {}) is None  # torch.ops.aten.elu has more
    assert function_of("leaky_relu", (torch.ones(()),), {}) is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_modules_are_not_disturbed_either():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())), nn.ReLU())
    mean = model[0][0].running_mean.clone()
    found = trace(model, [torch.randn(4, 2)], [], set(model[0].modules()))
    assert [call.held for call in found.calls.values()] == [model[1]]
    assert torch.equal(model[0][0].running_mean, mean)
    assert model[0].training
    assert model[0][0].training
