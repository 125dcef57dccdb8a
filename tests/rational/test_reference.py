import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlrat.rational import VERSIONS, backend, derivative, rational


@pytest.fixture
def plain_pytorch():
    with backend("reference"):
        yield


def numpy_rational(x, a, b, version):
    """The definition, one set of coefficients at a time, in float64."""
    x, a, b = (np.asarray(t, dtype=np.float64) for t in (x, a, b))
    p = sum(c * x**j for j, c in enumerate(a))
    terms = [c * x**i for i, c in enumerate(b, start=0 if version == "C" else 1)]
    if version == "A":
        return p / (1 + sum(np.abs(t) for t in terms))
    if version == "B":
        return p / (1 + np.abs(sum(terms)))
    if version == "C":
        return p / (0.1 + np.abs(sum(terms)))
    return p / (1 + sum(terms))


def draw(seed, batch, groups, m, n, version, shape, dtype=torch.float64):
    """Arguments of `rational`, those with a corner at zero at a distance from it."""
    generator = torch.Generator().manual_seed(seed)

    def away_from_zero(*shape):
        values = torch.rand(shape, generator=generator, dtype=torch.float64) * 1.9 + 0.1
        return torch.where(torch.rand(shape, generator=generator) < 0.5, -values, values)

    x = away_from_zero(*batch, *shape)
    a = torch.randn(*batch, groups, m + 1, generator=generator, dtype=torch.float64)
    b = 0.3 * away_from_zero(*batch, groups, n + 1 if version == "C" else n)
    return x.to(dtype), a.to(dtype), b.to(dtype)


def smooth(x, b, version):
    """Whether a finite difference over 1e-6 is a derivative: no corner of B and C, no pole of N is near."""
    if version == "A":
        return True
    inside = each_element(x, b, lambda x, b: sum(c * x**i for i, c in enumerate(b, start=version != "C")))
    return bool((inside.abs() > 1e-3).all() if version != "N" else ((1 + inside).abs() > 0.2).all())


def each_element(x, coefficients, function):
    """Apply function(x, coefficients) to each batch entry and group by a plain loop."""
    batch, groups = coefficients.shape[:-2], coefficients.shape[-2]
    out = torch.empty_like(x)
    for entry in np.ndindex(*batch):
        for g, (source, target) in enumerate(
            zip(x[entry].chunk(groups, -1), out[entry].chunk(groups, -1), strict=True)
        ):
            target[...] = torch.as_tensor(function(source, coefficients[entry][g]))
    return out


def definition(x, a, b, version):
    both = torch.cat([a, b], dim=-1)
    m = a.shape[-1]
    return each_element(x, both, lambda x, c: numpy_rational(x, c[:m], c[m:], version))


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "batch": st.sampled_from([(), (1,), (3,), (2, 2)]),
        "groups": st.integers(1, 3),
        "m": st.integers(0, 6),
        "n": st.integers(1, 5),
        "version": st.sampled_from(VERSIONS),
        "rows": st.sampled_from([(), (1,), (2, 2)]),
        "size": st.integers(1, 2),
    }
)


def arguments(case, **kwargs):
    shape = (*case["rows"], case["groups"] * case["size"])
    return draw(*(case[key] for key in ("seed", "batch", "groups", "m", "n", "version")), shape, **kwargs)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_value_and_gradients_are_those_of_the_definition(case):
    x, a, b = arguments(case)
    assume(smooth(x, b, case["version"]))
    torch.testing.assert_close(rational(x, a, b, case["version"]), definition(x, a, b, case["version"]))
    inputs = [t.requires_grad_() for t in (x, a, b)]
    assert torch.autograd.gradcheck(lambda *t: rational(*t, case["version"]), inputs)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_derivative_is_the_gradient_of_x(case):
    x, a, b = arguments(case)
    assume(smooth(x, b, case["version"]))
    slope = derivative(x, a, b, case["version"])
    assert slope.shape == x.shape
    x.requires_grad_()
    (grad,) = torch.autograd.grad(rational(x, a, b, case["version"]).sum(), x)
    torch.testing.assert_close(slope, grad)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("m", [0, 1, 3])
def test_denominator_of_degree_zero_is_a_polynomial(version, m):
    x, a, b = draw(3, (2,), 2, m, 0, version, (5, 4))
    torch.testing.assert_close(rational(x, a, b, version), definition(x, a, b, version))
    assert torch.autograd.gradcheck(lambda *t: rational(*t, version), [t.requires_grad_() for t in (x, a, b)])


@pytest.mark.parametrize("version", VERSIONS)
def test_each_gradient_is_the_same_when_it_is_the_only_one_wanted(version):
    values = draw(0, (2,), 2, 5, 4, version, (7, 6))
    every = [t.clone().requires_grad_() for t in values]
    expected = torch.autograd.grad(rational(*every, version).square().sum(), every)
    for k in range(3):
        some = [t.clone().requires_grad_(i == k) for i, t in enumerate(values)]
        (grad,) = torch.autograd.grad(rational(*some, version).square().sum(), some[k])
        torch.testing.assert_close(grad, expected[k], rtol=0, atol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_zero_denominator_coefficients_move(version):
    x = torch.tensor([[-2.0], [0.5], [1.5]], dtype=torch.float64)
    a = torch.tensor([[0.3, 1.0, -0.2]], dtype=torch.float64)
    b = torch.zeros(1, 2 + (version == "C"), dtype=torch.float64, requires_grad=True)
    rational(x, a, b, version).sum().backward()
    p = a[0, 0] + a[0, 1] * x + a[0, 2] * x**2
    offset, first = (0.1, 0) if version == "C" else (1.0, 1)
    base = x.abs() if version == "A" else x
    expected = torch.stack([-(p / offset**2 * base ** (i + first)).sum() for i in range(b.shape[-1])])
    torch.testing.assert_close(b.grad[0], expected)


def test_a_negative_denominator_coefficient_of_version_a_has_the_mirrored_gradient():
    x, a, b = draw(5, (), 1, 5, 4, "A", (9, 3))
    grads = []
    for sign in (1.0, -1.0):
        denominator = (sign * b.abs()).requires_grad_()
        grads += torch.autograd.grad(rational(x, a, denominator).sum(), denominator)
    torch.testing.assert_close(grads[0], -grads[1], rtol=0, atol=0)


def test_slope_of_version_a_at_zero_is_the_one_from_the_right():
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[0.5, 0.1]])
    assert derivative(torch.tensor([0.0]), a, b).item() == 3.0 - 2.0 * 0.5
    assert derivative(torch.tensor([-0.0]), a, b).item() == 3.0 + 2.0 * 0.5


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_entry_does_not_depend_on_the_others(version):
    x, a, b = draw(11, (3, 2), 2, 5, 4, version, (33, 8), dtype=torch.float32)
    together = [t.clone().requires_grad_() for t in (x, a, b)]
    y = rational(*together, version)
    y.square().sum().backward()
    for entry in np.ndindex(3, 2):
        alone = [t[entry].clone().requires_grad_() for t in (x, a, b)]
        out = rational(*alone, version)
        out.square().sum().backward()
        torch.testing.assert_close(out, y[entry], rtol=0, atol=0)
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one.grad, all_of_them.grad[entry], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(version, dtype):
    x, a, b = draw(7, (), 2, 5, 4, version, (50, 6), dtype=torch.float32)
    half = [x.to(dtype).requires_grad_(), a.clone().requires_grad_(), b.clone().requires_grad_()]
    full = [x.to(dtype).float().requires_grad_(), a.clone().requires_grad_(), b.clone().requires_grad_()]
    y, expected = rational(*half, version), rational(*full, version)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), rtol=0, atol=0)
    y.sum().backward()
    expected.sum().backward()
    assert [t.grad.dtype for t in half] == [dtype, torch.float32, torch.float32]
    torch.testing.assert_close(half[0].grad, full[0].grad.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close([t.grad for t in half[1:]], [t.grad for t in full[1:]], rtol=0, atol=0)


def test_float64_x_is_computed_in_float64_with_float32_coefficients():
    x, a, b = draw(8, (), 1, 5, 4, "A", (20, 3))
    a, b = a.float(), b.float()
    y = rational(x, a, b)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, definition(x, a.double(), b.double(), "A"), rtol=1e-14, atol=1e-14)


def test_float32_stays_close_to_float64_and_sums_are_accurate():
    x = torch.randn(1, 256, 1024, generator=torch.Generator().manual_seed(0)) * 3
    x, a, b = x, torch.rand(1, 1, 6) + 0.1, torch.rand(1, 1, 4) + 0.1
    grads = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in (x, a, b)]
        y = rational(*inputs)
        grads.append([y.detach(), *torch.autograd.grad(y.square().sum(), inputs)])
    for single, double in zip(*grads, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("plain_pytorch")
def test_float32_is_finite_where_the_result_is():
    a, b = torch.tensor([[0.0, 0.5, 0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    x = torch.tensor([4e7, -4e7], requires_grad=True)
    y = rational(x, a, b)
    torch.testing.assert_close(y, x.detach())
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2))
    assert rational(torch.tensor([1e8, -1e38]), a, b).tolist() == [1e8, pytest.approx(-1e38)]


@pytest.mark.parametrize("shape", [(2, 0, 6), (2, 5, 0), (2, 0)])
def test_empty_tensors(shape):
    x = torch.empty(shape, requires_grad=True)
    a, b = torch.ones(2, 2, 6, requires_grad=True), torch.ones(2, 2, 4, requires_grad=True)
    y = rational(x, a, b)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert a.grad.abs().sum() == b.grad.abs().sum() == 0.0
    assert rational(torch.empty(0, 4), torch.ones(0, 1, 6), torch.ones(0, 1, 4)).shape == (0, 4)


def test_a_transposed_input_is_not_changed_and_gives_the_same():
    x, a, b = draw(9, (), 2, 5, 4, "A", (6, 4))
    transposed = x.t().contiguous().t()
    before = transposed.clone()
    torch.testing.assert_close(rational(transposed, a, b), rational(x, a, b), rtol=0, atol=0)
    assert torch.equal(transposed, before)


def test_functional_gradient():
    x, a, b = draw(10, (), 1, 3, 2, "A", (5,))
    expected = torch.autograd.grad(rational(x, a.requires_grad_(), b).sum(), a)[0]
    found = torch.func.grad(lambda a: rational(x, a, b).sum())(a.detach())
    torch.testing.assert_close(found, expected)


X, A, B = torch.ones(2, 3, 4), torch.ones(2, 2, 6), torch.ones(2, 2, 4)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X, A, B, "D"), ValueError, "no version 'D' of a rational, only A, B, C, N"),
        ((X.int(), A, B), TypeError, "x is torch.int32"),
        ((X, A, B.long()), TypeError, "denominator is torch.int64"),
        ((X, A[0, 0], B[0, 0]), ValueError, r"not \[6\] and \[4\]"),
        ((X, A, B[:1]), ValueError, r"not \[2, 2, 6\] and \[1, 2, 4\]"),
        ((X, A[..., :0], B), ValueError, "at least its constant"),
        ((X, A, B[..., :0], "C"), ValueError, "at least its constant"),
        ((X[:1], A, B), ValueError, r"with batch \[2\], not \[1, 3, 4\]"),
        ((X[:, 0, 0], A, B), ValueError, r"with batch \[2\], not \[2\]"),
        ((X[..., :3], A, B), ValueError, "3 features do not split into 2 equal groups"),
        ((X, A[:, :0], B[:, :0]), ValueError, "into 0 equal groups"),
    ],
)
def test_wrong_arguments(args, error, message):
    with pytest.raises(error, match=message) as caught:
        rational(*args)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=message):
        derivative(*args)
