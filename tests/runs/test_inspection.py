"""What is recorded of trained activations: exact coefficients, true histograms, and nothing of the training changes."""

import csv

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from agents import iql
from rlrat import Rational
from rlrat.networks.activations import PReLU
from rlrat.runs.inspection import BINS, activation_rows, activation_scalars
from rlrat.updates.optim import SeedGuard
from tests.short_runs import read_run


class Learner(nn.Module):
    """Two seeds with one trained activation, which meets the batch as it is."""

    def __init__(self, kind: type[nn.Module] = Rational, **settings) -> None:
        super().__init__()
        self.layer = kind(batch_shape=(2,), **settings)
        self.guard = SeedGuard(2)

    def inspect(self, batch: torch.Tensor) -> None:
        self.layer(batch)


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=np.float64)


def _iql(dataset, seeds, activation="rational", **settings) -> iql.IQL:
    arguments = iql.Arguments(activation=activation, **settings, hidden_dims=(16, 16), batch_size=16)
    return iql.IQL(arguments, dataset, seeds, "cpu")


def test_coefficients_are_read_back_bit_for_bit(small_dataset):
    learner = _iql(small_dataset, [0, 1])
    for update in range(3):
        learner.update(*learner.inputs(update))
    rows = activation_rows(learner, learner.inputs(0)[0])
    assert len(rows) == 2
    layers = {name: layer for name, layer in learner.named_modules() if isinstance(layer, Rational)}
    for seed, lines in enumerate(rows):
        # Two critics of two layers, value and actor; target networks meet nothing.
        assert len(lines) == 2 * 2 + 2 + 2
        for line in lines:
            layer = layers[f"{line['layer']}.activation"]
            at = (seed, line["part"], line["group"]) if line["layer"].startswith("q") else (seed, line["group"])
            for name in ("numerator", "denominator"):
                ours = torch.from_numpy(_numbers(line[name])).float()
                assert torch.equal(ours, getattr(layer, name)[at].detach())


@pytest.mark.parametrize("gated", [False, True])
def test_a_prelu_has_a_slope_of_its_own_for_each_critic(small_dataset, gated):
    learner = _iql(small_dataset, [0, 1], activation="prelu", gated=gated)
    slopes = torch.tensor([[0.1, 0.2], [0.3, 0.4]])  # [S, critics]
    with torch.no_grad():
        learner.q.hidden[0].activation.weight.copy_(slopes)
    for seed, lines in enumerate(activation_rows(learner, learner.inputs(0)[0])):
        assert len(lines) == 2 * 2 + 2 + 2
        assert {(line["version"], line["group"], line["denominator"]) for line in lines} == {("prelu", 0, "")}
        assert all(_numbers(line["counts"]).any() for line in lines)
        ours = {line["part"]: float(line["numerator"]) for line in lines if line["layer"] == "q.hidden.0"}
        assert ours == pytest.approx(dict(enumerate(slopes[seed].tolist())))
        assert {line["numerator"] for line in lines if line["layer"] != "q.hidden.0"} == {"0.25"}
    assert activation_scalars(learner, learner.inputs(0)[0]) == {}


class Swish(nn.Module):
    """x sigmoid(beta x) scale: one beta for each seed, and more scales than are kept, which the seeds share."""

    trained_activation = True

    def __init__(self, batch_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.beta, self.scale = nn.Parameter(torch.ones(batch_shape)), nn.Parameter(torch.full((80,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.beta[:, None, None] * x).sigmoid() * self.scale[0]


def test_a_trained_activation_of_ones_own_has_its_class_and_first_parameters():
    learner = Learner(Swish)
    with torch.no_grad():
        learner.layer.beta[1] = 2.0
    inputs = torch.randn(2, 50, 64)
    for x, (line,), beta in zip(inputs, activation_rows(learner, inputs), ("1", "2"), strict=True):
        assert (line["layer"], line["version"]) == ("layer", "custom:Swish")
        assert line["numerator"].split() == [beta, *["0.5"] * 63]
        points = np.linspace(float(line["low"]), float(line["high"]), 65)
        np.testing.assert_allclose(_numbers(line["denominator"]), 0.5 * points * expit(float(beta) * points), atol=1e-5)
        assert 0.99 * x.numel() < _numbers(line["counts"]).sum() <= x.numel()
    assert activation_scalars(learner, inputs) == {}
    learner.layer.scalars = lambda x: {"steepness": learner.layer.beta.detach() * x.shape[1]}
    scalars = activation_scalars(learner, inputs)
    assert {name: values.tolist() for name, values in scalars.items()} == {"activation/layer/steepness": [50.0, 100.0]}
    learner.inspect = lambda batch: [
        learner.layer(b[:, None]) for b in (batch, 9 + batch)
    ]  # a mean of inputs has no [S]
    assert all(float(line["high"]) < 6 for (line,) in activation_rows(learner, inputs[:, 0]))


class Shifted(Swish):
    """One beta for each critic; what it remembers is not what a look at it leaves."""

    def __init__(self, batch_shape: tuple[int, ...]) -> None:
        super().__init__((2, 2))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (self.beta[..., None, None] * x).sigmoid()


def test_critics_have_functions_of_their_own():
    learner = Learner(Shifted)
    with torch.no_grad():
        learner.layer.beta.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    for seed, lines in enumerate(activation_rows(learner, torch.randn(2, 2, 30, 8))):
        assert [line["part"] for line in lines] == [0, 1]
        for line, beta in zip(lines, learner.layer.beta[seed].tolist(), strict=True):
            points = np.linspace(float(line["low"]), float(line["high"]), 65)
            np.testing.assert_allclose(_numbers(line["denominator"]), points * expit(beta * points), atol=1e-5)
    assert learner.layer.calls == 1


class Neighbours(Swish):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-2, keepdim=True)


class Refusing(Swish):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] != 30:
            raise ValueError("thirty rows\nare wanted")
        return x


def test_what_is_no_function_of_each_number_alone_has_no_values(capsys):
    for kind, said in (
        (Neighbours, ""),
        (Refusing, "warning: Refusing is not drawn: ValueError: thirty rows are wanted\n"),
    ):
        learner = Learner(kind)
        for _ in range(2):
            assert [line["denominator"] for (line,) in activation_rows(learner, torch.randn(2, 30, 8))] == ["", ""]
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("kind", [Rational, PReLU])
def test_a_histogram_holds_what_the_layer_meets(kind):
    learner = Learner(kind)
    inputs = torch.randn(2, 50, 64) * torch.tensor([1.0, 10.0])[:, None, None]
    for x, (line,) in zip(inputs, activation_rows(learner, inputs), strict=True):
        low, high, counts = float(line["low"]), float(line["high"]), _numbers(line["counts"])
        np.testing.assert_allclose([low, high], np.quantile(x.numpy(), [0.001, 0.999]), rtol=1e-5)
        expected = np.histogram(x.numpy(), BINS, (low, high))[0]
        assert counts.shape == (BINS,)
        assert np.abs(counts - expected).max() <= 2  # low and high are rounded
        assert 0.99 * x.numel() < counts.sum() <= x.numel()


def test_many_inputs_are_sampled_from_every_feature():
    features = torch.arange(64.0).expand(2, 2000, 64)
    for (line,) in activation_rows(Learner(), features):
        counts = _numbers(line["counts"])
        assert 10_000 < counts.sum() < 20_000
        assert (counts > 0).all()


def test_each_group_has_its_own_line_and_of_many_the_first_are_kept():
    learner = Learner(groups=16)
    inputs = torch.arange(16.0)[None, None, :, None].expand(2, 10, 16, 4).reshape(2, 10, 64)
    for lines in activation_rows(learner, inputs):
        assert [line["group"] for line in lines] == list(range(8))
        assert [float(line["low"]) for line in lines] == list(range(8))


def test_version_c_keeps_all_its_coefficients():
    ((line, *_), _) = activation_rows(Learner(version="C"), torch.randn(2, 4, 8))
    assert line["version"] == "C"
    assert len(_numbers(line["denominator"])) == 5


@pytest.mark.parametrize(("value", "count"), [(0.0, 32), (3.0, 32), (float("nan"), 0), (float("inf"), 0)])
def test_inputs_without_a_spread_or_without_a_number(value, count):
    for (line,) in activation_rows(Learner(), torch.full((2, 4, 8), value)):
        assert _numbers(line["counts"]).sum() == count
        assert np.isfinite([float(line["low"]), float(line["high"])]).all()


def test_without_trained_activations_nothing_is_passed_through(small_dataset, monkeypatch):
    arguments = iql.Arguments(hidden_dims=(16,), batch_size=16)
    learner = iql.IQL(arguments, small_dataset, [0, 1], "cpu")
    monkeypatch.setattr(learner, "inspect", lambda batch: pytest.fail("a pass that nobody looks at"))
    assert activation_rows(learner, learner.inputs(0)[0]) == [[], []]
    assert activation_scalars(learner, learner.inputs(0)[0]) == {}


def test_scalars_say_where_inputs_lie_and_how_steep_the_functions_are():
    learner = Learner()
    low, high = learner.layer.interval
    inputs = torch.tensor([low - 1.0, low, 0.0, high, high + 1.0]).expand(2, 1, 5)
    scalars = activation_scalars(learner, inputs)
    torch.testing.assert_close(scalars["rational/layer/outside"], torch.tensor([0.4, 0.4]))
    steepest = learner.layer.derivative(inputs).abs().amax((1, 2))
    torch.testing.assert_close(scalars["rational/layer/largest_slope"], steepest)
    torch.testing.assert_close(scalars["rational/layer/asymptotic_slope"], learner.layer.asymptotic_slope()[:, 0])


def test_looking_changes_nothing_of_the_training(small_dataset):
    looked_at, alone = _iql(small_dataset, [0, 1]), _iql(small_dataset, [0, 1])
    for update in range(5):
        before = torch.get_rng_state()
        activation_rows(looked_at, looked_at.inputs(0)[0])
        assert torch.equal(torch.get_rng_state(), before)
        for learner in (looked_at, alone):
            learner.update(*learner.inputs(update))
    for name, value in alone.state_dict().items():
        assert torch.equal(looked_at.state_dict()[name], value), name


def test_a_pass_that_fails_leaves_no_hook_behind():
    learner = Learner()
    with pytest.raises(ValueError, match="x must be"):
        activation_rows(learner, torch.zeros(5, 4, 8))
    assert not learner.layer._forward_pre_hooks


@pytest.mark.parametrize("activation", ["rational", "prelu"])
def test_a_run_keeps_them_at_every_evaluation(run_agent, tmp_path, activation):
    run_agent("--activation", activation)
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    with (folder / "activations.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluated = [row["update"] for row in read_run(folder)["rows"]]
    assert list(dict.fromkeys(row["update"] for row in rows)) == evaluated
    first, last = ([row["numerator"] for row in rows if row["update"] == update] for update in ("0", evaluated[-1]))
    assert len(first) == len(last) == 8
    assert first != last


def test_a_run_without_trained_activations_has_no_such_file(run_agent, tmp_path):
    run_agent("--total-updates", 1)
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    assert not (folder / "activations.csv").exists()
