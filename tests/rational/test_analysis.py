import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.polynomial import polyfromroots

from rlrat.rational import VERSIONS, Fit, Rational
from rlrat.rational.analysis import real_roots


def make(numerator, denominator, version="N", **settings):
    """A Rational with these coefficients, broadcast to its batch and groups."""
    a, b = torch.tensor(numerator), torch.tensor(denominator)
    degrees = (a.shape[-1] - 1, b.shape[-1] - (version == "C"))
    fit = Fit((0.0,) * a.shape[-1], (0.0,) * b.shape[-1], version, (-5.0, 5.0), 0.0, (0.0,) * 4)
    module = Rational(fit, degrees, version, **settings)
    with torch.no_grad():
        module.numerator.copy_(a)
        module.denominator.copy_(b)
    return module


def by_roots(*roots):
    """The coefficients of the polynomial with these roots and constant term 1, rounded to float32."""
    polynomial = polyfromroots(roots).real
    return (polynomial / polynomial[0]).astype(np.float32)


@pytest.mark.parametrize(
    ("polynomial", "expected"),
    [
        ([0.0], []),
        ([0.0, 0.0, 0.0], []),
        ([2.0], []),
        ([2.0, 0.0, 0.0], []),
        ([2.0, -1.0, 0.0], [2.0]),
        ([0.0, 3.0], [0.0]),
        ([0.0, 0.0, 0.0, 3.0], [0.0]),
        ([0.0, 0.0, -4.0, 0.0, 1.0], [-2.0, 0.0, 2.0]),
        ([1.0, 0.0, 1.0], []),
        ([1e-6, 0.0, 1.0], []),
        ([1.0, 0.0, 2.0, 0.0, 1.0], []),
        ([-6.0, 11.0, -6.0, 1.0], [1.0, 2.0, 3.0]),
        ([-1.002, 2.002, -1.0], [1.0, 1.002]),
        ([-1.0001, 2.0001, -1.0], [1.00005]),
        ([-1e-12, 1.0, 0.0, 0.0, 1e-20], [-(1e20 ** (1 / 3)), 1e-12]),
    ],
)
def test_real_roots(polynomial, expected):
    np.testing.assert_allclose(real_roots(np.array(polynomial)), expected, rtol=1e-9, atol=1e-300)


@settings(max_examples=200, deadline=None)
@given(
    root=st.floats(0.1, 10.0),
    multiplicity=st.integers(1, 4),
    others=st.lists(st.tuples(st.floats(-3.0, 3.0), st.floats(1.0, 3.0)), max_size=2),
    opposite=st.booleans(),
)
def test_a_multiple_root_is_found_once_and_no_complex_one_is(root, multiplicity, others, opposite):
    pairs = [root * complex(re, sign * im) for re, im in others for sign in (1, -1)]
    found = real_roots(by_roots(*[root] * multiplicity, *pairs, *[-root] * opposite).astype(np.float64))
    expected = [*[-root] * opposite, root]
    np.testing.assert_allclose(found, expected, rtol=0.05 if multiplicity > 1 else 1e-3)


def test_poles_of_each_entry_padded_with_nan():
    denominators = [[-1.5, 0.5], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, -0.25], by_roots(3.0, 3.0)[1:].tolist()]
    module = make([1.0, 0.0], torch.tensor(denominators).view(3, 2, 2).tolist(), groups=2, batch_shape=(3,))
    nan = torch.nan
    expected = [[[1.0, 2.0], [nan, nan]], [[-2.0, nan], [nan, nan]], [[-2.0, 2.0], [3.0, nan]]]
    found = module.poles()
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True, rtol=1e-6, atol=0)
    assert not torch.isfinite(make([1.0], [-1.5, 0.5])(module.poles()[0, 0].float())).any()


@pytest.mark.parametrize("version", ["A", "B", "C"])
def test_guarded_versions_have_no_poles(version):
    module = make([-2.0, 1.0], [-1.5, 0.5], version, groups=3, batch_shape=(2,))
    assert module.poles().shape == (2, 3, 0)
    torch.testing.assert_close(module.zeros(), torch.full((2, 3, 1), 2.0, dtype=torch.float64))


def test_zeros_are_those_of_p_that_q_does_not_share():
    numerator = polyfromroots([1.0, 2.0, -3.0]).tolist()
    assert make(numerator, [0.0], "B").zeros().flatten().tolist() == pytest.approx([-3.0, 1.0, 2.0], rel=1e-12)
    module = make(numerator, by_roots(1.0, 4.0)[1:].tolist())
    assert module.zeros().flatten().tolist() == pytest.approx([-3.0, 2.0], rel=1e-12)
    assert module.poles().flatten().tolist() == pytest.approx([1.0, 4.0], rel=1e-6)
    assert make(numerator, by_roots(1.0, 2.001)[1:].tolist()).zeros().flatten().tolist() == pytest.approx([-3.0, 2.0])
    assert make([0.0, 0.0], [0.0]).zeros().shape == (1, 0)
    assert Rational("identity").zeros().tolist() == [[0.0]]
    assert Rational(batch_shape=(0,)).zeros().shape == (0, 1, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_zeros_of_fitted_rationals_are_where_they_change_sign(version):
    module = Rational("silu", version=version).double()
    zeros = module.zeros()[0]
    assert zeros.numel() >= 1
    step = 1e-6 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert (module(zeros[:, None] + step).prod(1) < 0).all()


def test_coefficients_that_are_not_finite():
    module = make([1.0, torch.nan], [torch.inf])
    for call in (module.poles, module.zeros, module.largest_slope, module.plot):
        with pytest.raises(ValueError, match="the coefficients are not all finite"):
            call()


@settings(max_examples=40, deadline=None)
@given(
    version=st.sampled_from(VERSIONS), m=st.integers(0, 6), n=st.integers(0, 5), seed=st.integers(0, 10**6),
    interval=st.sampled_from([(-5.0, 5.0), (-2.0, -1.0), (0.0, 3.0)]),
)  # fmt: skip
def test_the_largest_slope_is_that_of_a_dense_grid(version, m, n, seed, interval):
    random = np.random.default_rng(seed)
    a, b = (random.normal(size=(2, 2, k)) * 0.5 ** np.arange(k) for k in (m + 1, n + (version == "C")))
    module = make(a.tolist(), b.tolist(), version, groups=2, batch_shape=(2,)).double()
    found = module.largest_slope(interval)
    assert found.shape == (2, 2)
    x = torch.linspace(*interval, 5_003, dtype=torch.float64)[1:-1]  # at a corner, dR/dx at an end is the outer side's
    slopes = module.derivative(x.repeat(2, 2)).view(2, 2, -1).abs()
    poles = module.poles()
    infinite = ((poles >= interval[0]) & (poles <= interval[1])).any(-1)
    assert torch.equal(found.isinf(), infinite)
    largest = slopes.amax(-1)
    assert (found >= largest * (1 - 1e-12)).all()
    # A grid misses a smooth maximum by little, if the slope changes by little from point to point.
    tame = ~infinite & (slopes.diff().abs().amax(-1) < 3e-3 * largest)
    torch.testing.assert_close(found[tame], largest[tame], rtol=2e-2, atol=0)


def test_largest_slopes_known_in_closed_form():
    def slope(*arguments, interval=(-5.0, 5.0)):
        return make(*arguments).largest_slope(interval).item()

    assert slope([1.0], [0.0, 1.0]) == pytest.approx(27**0.5 / 8, rel=1e-12)  # 1 / (1 + x^2): at 1 / sqrt(3)
    assert slope([0.0, 0.0, 1.0], [0.0]) == 10.0
    assert slope([0.0, 0.0, 1.0], [0.0], interval=(-1, 3)) == 6.0
    assert slope([3.0], [0.0]) == 0.0
    # 1 / (1 + |x|), 1 / (1 + |x - x^2|) and x / (0.1 + |x - 1|): largest at a corner, where the grid's R' is one-sided.
    assert slope([1.0], [-1.0], "A") == 1.0
    assert slope([1.0], [1.0], "A", interval=(0.0, 1.0)) == 1.0
    assert slope([1.0], [1.0], "A", interval=(-1.0, 0.0)) == 1.0
    assert slope([1.0], [1.0, -1.0], "B") == pytest.approx(1.0, rel=1e-12)
    assert slope([0.0, 1.0], [1.0], "B", interval=(0.0, 3.0)) == 1.0
    assert slope([1.0, 1.0], [1.0], "B", interval=(0.0, 3.0)) == 0.0
    assert slope([1.0, 1.0], [1.0], "B", interval=(-0.5, 3.0)) == 2.0
    assert slope([0.0, 1.0], [-1.0, 1.0], "C") == pytest.approx(110.0, rel=1e-6)
    assert slope([0.0, 1.0], [-0.5]) == torch.inf
    assert slope([0.0, 1.0], [-0.5], interval=(-5.0, 1.0)) == pytest.approx(4.0, rel=1e-12)
    assert Rational("identity", batch_shape=(2,)).largest_slope().tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, -2.0), (0.0, torch.inf), (torch.nan, 1.0)])
def test_wrong_intervals(interval):
    for call in (Rational().largest_slope, lambda interval: Rational().plot(interval=interval)):
        with pytest.raises(ValueError, match="an interval must be finite and low < high"):
            call(interval)


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_plot_draws_the_learned_and_the_initial_function(pyplot, tmp_path):
    module = Rational("gelu")
    with torch.no_grad():
        module.numerator *= 2
    ax = module.plot()
    assert set(lines(ax)) == {"learned", "initial"}
    x, learned = lines(ax)["learned"].get_data()
    assert (x[0], x[-1]) == ax.get_xlim() == module.interval
    np.testing.assert_allclose(learned, module(torch.from_numpy(x)).detach().numpy())
    np.testing.assert_allclose(lines(ax)["initial"].get_ydata(), learned / 2)
    assert lines(ax)["initial"].get_linestyle() == "--"
    ax.figure.savefig(tmp_path / "plot.png")
    other = pyplot.figure().subplots()
    assert module.plot(ax=other, interval=(-1, 2)) is other
    assert other.get_xlim() == (-1, 2)


def test_plot_has_a_line_for_each_entry_or_a_band_for_many(pyplot):
    labels = lines(Rational(groups=2, batch_shape=(3,)).plot())
    assert list(labels) == [*(f"batch {i}, group {g}" for i in range(3) for g in range(2)), "initial"]
    assert list(lines(Rational(groups=2).plot())) == ["group 0", "group 1", "initial"]
    assert list(lines(Rational(batch_shape=(2, 1)).plot())) == ["batch 0, 0", "batch 1, 0", "initial"]
    module = Rational("identity", batch_shape=(7,))
    with torch.no_grad():
        module.numerator *= torch.arange(7.0).view(7, 1, 1)
    ax = module.plot()
    assert list(lines(ax)) == ["their median", "initial"]
    np.testing.assert_allclose(lines(ax)["their median"].get_ydata()[-1], 15.0)
    (band,) = ax.collections
    assert band.get_label() == "range of 7"
    assert band.get_datalim(ax.transData).bounds == pytest.approx((-5.0, -30.0, 10.0, 60.0))


def test_plot_shows_the_inputs(pyplot):
    module = Rational(batch_shape=(2,))
    with module.record_inputs() as inputs:
        for scale in (1.0, 2.0):
            module(torch.full((2, 50, 4), scale))
    inputs.append(torch.tensor([torch.nan, torch.inf]))
    ax = module.plot(inputs)
    heights, edges, _ = ax.patches[0].get_data()
    assert ax.get_xlim() == (-5.0, 5.0)
    assert edges[:-1][heights > 0] == pytest.approx([1.0, 2.0], abs=0.13)
    assert heights.max() == 0.25
    ax = module.plot(torch.linspace(-1, 9, 1001, dtype=torch.bfloat16))
    assert ax.get_xlim() == pytest.approx((-5.0, 9.0), abs=0.1)
    ax = module.plot(torch.full((3,), 100.0), interval=(-1.0, 1.0))
    assert ax.get_xlim() == (-1.0, 1.0)
    assert ax.patches[0].get_data().values.max() == 0.0


def test_plot_breaks_the_line_at_a_pole_and_keeps_the_rest_visible(pyplot):
    module = make([[[0.0, 1.0]], [[1.0, 0.0]]], [[[0.0, -0.25]], [[0.0, 0.0]]], batch_shape=(2,))
    ax = module.plot()
    x, y = lines(ax)["batch 0"].get_data()
    assert x[np.isnan(y)] == pytest.approx([-2.0, 2.0])
    assert not np.isnan(lines(ax)["batch 1"].get_ydata()).any()
    assert np.nanmax(np.abs(y)) > 100
    assert max(np.abs(ax.get_ylim())) < 50


def test_plot_without_inputs_or_without_matplotlib(monkeypatch):
    for inputs in ([], torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="there are no finite inputs to plot"):
            Rational().plot(inputs)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match="a plot needs matplotlib: pip install matplotlib"):
        Rational().plot()
