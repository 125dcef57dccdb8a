"""The bound of the change: right by hand for small networks, never below what is seen, and not claimed elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational import Rational, rationalize, rationalized
from tests.rational.models import BasicBlock, LoopedMLP, ResNet, ViT

TABLE = (-5.0, 5.0)


def bound_of(model, data, **settings):
    result = rationalized(rationalize(model.eval(), data=data, interval=TABLE, **settings))
    if result.bound is not None:
        assert result.max_change <= result.bound * (1.0 + 1e-5)
        assert result.why_no_bound == ""
    return result.bound


def error_and_slope(rational):
    points = torch.linspace(*TABLE, 100_001, dtype=torch.float64)
    with torch.no_grad():
        return (rational(points) - points.relu()).abs().max().item(), rational.derivative(points).abs().max().item()


def row_sum(layer):
    return layer.weight.abs().flatten(1).sum(1).max().item()


def test_of_two_layers_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    found = bound_of(model, [torch.randn(5, 3)])
    error, slope = error_and_slope(model[1])
    by_hand = (error + slope * row_sum(model[2]) * error) * row_sum(model[4])
    assert found == pytest.approx(by_hand, rel=1e-3)


def test_of_a_residual_block_by_hand_with_its_norms_folded():
    torch.manual_seed(0)
    block = BasicBlock(2, 2)
    for norm in (block.bn1, block.bn2):
        nn.init.normal_(norm.weight)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(nn.ReLU(), block)
    found = bound_of(model, [torch.randn(2, 2, 5, 5).clamp(-1, 1)])
    error, slope = error_and_slope(model[0])

    def folded(conv, norm):
        scale = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
        return (conv.weight.abs().sum((1, 2, 3)) * scale).max().item()

    inner = error + slope * folded(block.conv1, block.bn1) * error
    by_hand = error + slope * (folded(block.conv2, block.bn2) * inner + error)  # the residual adds 1
    assert found == pytest.approx(by_hand, rel=1e-3)


def test_of_a_norm_that_takes_positions_for_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3))
    sizes = torch.tensor([1e-3, 1.0, 1e3])
    with torch.no_grad():
        model[1].weight *= sizes[:, None, None]
    model[2].running_var.copy_(sizes**2)  # which undoes them, if its channels are those of the convolution
    assert bound_of(model, [torch.zeros(3, 3)]) >= rationalized(model).max_change > 10.0


@pytest.mark.parametrize("make", [ResNet, LoopedMLP])
def test_it_is_above_all_changes_of_inputs_inside(make):
    torch.manual_seed(0)
    model, shape = make().eval(), (200, 3, 8, 8) if make is ResNet else (2000, 8)
    x = torch.randn(shape)
    before = model(x).detach()
    found = bound_of(model, [x])
    assert 0.0 < (model(x) - before).abs().max().item() <= found


class _Forward(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.linear, self.norm, self.function = nn.Linear(4, 4), nn.LayerNorm(4), forward

    def forward(self, x, mask=None):
        return self.function(self, x, mask)


@pytest.mark.parametrize(
    ("forward", "factor"),
    [
        (lambda self, x, mask: x.relu().flatten(1), 1.0),
        (lambda self, x, mask: 3.0 * F.relu(x) / 2.0 - 1.0, 1.5),
        (lambda self, x, mask: torch.cat([F.relu(x), x], -1), 1.0),
        (lambda self, x, mask: F.relu(x) - F.relu(-x), 2.0),
        (lambda self, x, mask: F.dropout(F.relu(x), 0.5, self.training) if mask is None else self.norm(x.relu()), 1.0),
        (lambda self, x, mask: F.avg_pool1d(F.relu(x), 2), 1.0),
        (lambda self, x, mask: F.softmax(F.relu(x), -1), 0.5),
        (lambda self, x, mask: x.relu().log_softmax(-1), 2.0),
        (lambda self, x, mask: F.relu(x).clamp(max=1.0), 1.0),
        (lambda self, x, mask: (y := F.relu(x)).reshape(y.size(0), -1).view(y.shape[1], -1), 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore:rationalize leaves")
def test_of_other_operations(forward, factor):
    model = _Forward(forward)
    found = bound_of(model, [torch.randn(3, 4)])
    rational = next(module for module in model.modules() if isinstance(module, Rational))
    assert found == pytest.approx(factor * error_and_slope(rational)[0], rel=1e-3)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda self, x, mask: self.norm(F.relu(x)), "no bound is known for LayerNorm at norm"),
        (lambda self, x, mask: F.relu(x) * F.relu(x), "no bound is known for mul"),
        (lambda self, x, mask: F.relu(x) if x.sum() > 0 else x, "torch.fx cannot trace the model"),
        (lambda self, x, mask: F.relu(100.0 * x), "inputs of rationals.0 were outside its interval"),
        (
            lambda self, x, mask: (y := F.relu(x)).flatten().add_(y.flatten()),
            "add_ may overwrite what is used elsewhere",
        ),
        (lambda self, x, mask: F.relu(x).view(torch.int32).view(torch.float32), "no bound is known for view"),
        (lambda self, x, mask: torch.add(F.relu(x), x, alpha=5), "no bound is known for add"),
        (lambda self, x, mask: F.relu(x) > 0, "the model returns no tensor of floating point"),
        (lambda self, x, mask: F.relu(x) if isinstance(x, torch.Tensor) else x, "does not compute what the model does"),
    ],
)
def test_where_there_is_none_the_reason_is_said(forward, why):
    model = _Forward(forward)
    assert bound_of(model, [torch.ones(1, 4)]) is None
    assert why in rationalized(model).why_no_bound


def test_inputs_that_are_no_numbers_after_the_change_are_outside():
    class Model(_Forward):
        def forward(self, x, mask=None):
            is_rational = any(isinstance(module, Rational) for module in self.modules())
            return F.relu(x * torch.nan if is_rational else x)

    model = Model(None)
    assert bound_of(model, [torch.ones(1, 4)]) is None
    assert "outside" in rationalized(model).why_no_bound


@pytest.mark.parametrize("hooked", [0, 1])
def test_a_hook_that_changes_a_layer_is_not_overlooked(hooked):
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    model[hooked].register_forward_hook(lambda module, args, output: 10.0 * output)
    assert bound_of(model, [torch.ones(1, 4)]) is None


def test_a_batch_that_takes_another_way_than_the_first_is_not_overlooked():
    model = _Forward(lambda self, x, mask: F.relu(x) if mask is None else 100.0 * F.relu(x))
    x = torch.randn(3, 4)
    assert bound_of(model, [{"x": x}, {"x": x, "mask": x}]) is None
    assert "does not compute what the model does" in rationalized(model).why_no_bound


def test_one_beyond_all_numbers_is_none():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4)).double()
    with torch.no_grad():
        for layer in (model[1], model[2]):
            layer.weight.fill_(1e200)
    assert bound_of(model, [torch.ones(1, 4).double()]) is None
    assert rationalized(model).why_no_bound == "it is beyond the range of float64"


@pytest.mark.filterwarnings("ignore:rationalize leaves")
def test_a_vit_is_only_measured():
    torch.manual_seed(0)
    model = ViT()
    assert bound_of(model, [torch.randn(2, 3, 8, 8)]) is None
    assert rationalized(model).max_change > 0.0
    assert "LayerNorm" in rationalized(model).why_no_bound
