"""Hold the coefficients of a rational activation in a module."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import analysis
from .initial import find
from .op import rational
from .reference import VERSIONS, derivative, shift
from .table import Fit, Function

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Rational(nn.Module):
    """Apply a learnable activation R(x) = P(x) / Q(x) to x `[*batch_shape, ..., features]`, element by element.

    Args:
        init: what R approximates at first: a name (`rlrat.rational.FUNCTIONS`), an elementwise PyTorch function or
            module, or a `Fit`, whose degrees and version must then be the ones given here.
        degrees: (m, n), of P and Q.
        version: the form of Q, "A", "B", "C" or "N"; see `rlrat.rational.reference`.
        groups: split the features into this many equal groups, each with its own coefficients.
        batch_shape: leading axes of x (seeds, critics), each of whose entries has its own coefficients.
        train_numerator, train_denominator: False freezes these coefficients: their `requires_grad` is False.

    The parameters `numerator` `[*batch_shape, groups, m + 1]` and `denominator` `[*batch_shape, groups, n]` (version C:
    n + 1) are float32. R is computed in float64 for a float64 x, in float32 for every other type. `interval` is where R
    was fitted. Applying the module raises what `rational` raises.

    Raises:
        ValueError: an unknown name or version, degrees or groups that are not possible, a function that is not
            elementwise.
    """

    trained_activation = True
    """Tell optimizers and records to treat the parameters of this activation apart."""

    degrees: tuple[int, int]
    version: str
    groups: int
    batch_shape: tuple[int, ...]
    interval: tuple[float, float]
    numerator: nn.Parameter
    denominator: nn.Parameter

    def __init__(
        self,
        init: str | Function | Fit = "relu",
        degrees: tuple[int, int] = (5, 4),
        version: str = "A",
        groups: int = 1,
        batch_shape: tuple[int, ...] = (),
        *,
        train_numerator: bool = True,
        train_denominator: bool = True,
    ) -> None:
        super().__init__()
        fit = init if isinstance(init, Fit) else find(init, degrees, version)
        if (fit.degrees, fit.version) != (tuple(degrees), version):
            raise ValueError(f"the fit is of degrees {fit.degrees}, version {fit.version}, not {degrees}, {version}")
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups must be an integer >= 1, not {groups!r}")
        self.degrees, self.version, self.groups, self.batch_shape = fit.degrees, version, groups, tuple(batch_shape)
        self.interval = fit.interval
        self._initial = fit
        named = getattr(init, "func", init)  # the function of a functools.partial
        self._init_name = init if isinstance(init, str) else getattr(named, "__name__", type(named).__name__)
        shape = (*self.batch_shape, groups, -1)
        numerator, denominator = (
            torch.tensor(coefficients, dtype=torch.float32).expand(shape).clone()
            for coefficients in (fit.numerator, fit.denominator)
        )
        self.numerator = nn.Parameter(numerator, requires_grad=train_numerator)
        self.denominator = nn.Parameter(denominator, requires_grad=train_denominator)

    @classmethod
    def from_rational_activations(
        cls, source: nn.Module | Mapping[str, Tensor], version: str | None = None
    ) -> "Rational":
        """Make a Rational of the coefficients of a `rational.torch.Rational` (package rational-activations 0.2).

        Args:
            source: that module, or its `state_dict()`, for which the package need not be installed.
            version: needed with a state_dict, which does not say it.

        The coefficients stay on their device and are rounded to float32 if their type is wider; those that a module
        has frozen stay frozen. `interval` is (-3, 3), where the package fits nearly all of its initial coefficients.

        Raises:
            ValueError: a version that is not in `VERSIONS`, such as the package's D, or not the module's own;
                coefficients that are missing or have not one axis.
            TypeError: another kind of source.
        """
        if isinstance(source, nn.Module):
            coefficients, own = dict(source.named_parameters(recurse=False)), getattr(source, "version", None)
            if version not in (None, own):
                raise ValueError(f"the module is of version {own!r}, not {version!r}")
            version = own
        elif isinstance(source, Mapping):
            coefficients = source
            if version is None:
                raise ValueError(f"a state_dict does not say its version: give it, one of {', '.join(VERSIONS)}")
        else:
            raise TypeError(f"source must be a module or its state_dict, not {type(source).__name__}")
        if version not in VERSIONS:
            hint = "; in evaluation it is B: give the state_dict and version='B'" if version == "D" else ""
            raise ValueError(f"there is no version {version!r} here, only {', '.join(VERSIONS)}{hint}")
        for name, least in (("numerator", 1), ("denominator", int(version == "C"))):
            if name not in coefficients:
                raise ValueError(f"there is no {name} among {', '.join(coefficients) or 'no parameters'}")
            if coefficients[name].ndim != 1 or len(coefficients[name]) < least:
                shape = list(coefficients[name].shape)
                raise ValueError(f"the {name} must have one axis of at least {least} coefficients, not {shape}")
        numerator, denominator = coefficients["numerator"], coefficients["denominator"]
        unknown = math.nan
        fit = Fit(tuple(numerator.tolist()), tuple(denominator.tolist()), version, (-3.0, 3.0), unknown, (unknown,) * 4)
        frozen = [isinstance(c, nn.Parameter) and not c.requires_grad for c in (numerator, denominator)]
        module = cls(fit, fit.degrees, version, train_numerator=not frozen[0], train_denominator=not frozen[1])
        module._init_name = "rational-activations"
        return module.to(numerator.device)

    def forward(self, x: Tensor, bias: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """Compute R(x), or R(x + bias) gate in one pass: `bias` is `[*batch_shape, features]`, `gate` has x's shape."""
        return rational(x, self.numerator, self.denominator, self.version, bias=bias, gate=gate)

    def argument(self, x: Tensor, bias: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """Compute what R is applied to when the module is called with these: x + bias."""
        return x if bias is None else shift(x, bias)

    def derivative(self, x: Tensor) -> Tensor:
        """Compute dR/dx at every element of x, without a graph."""
        return derivative(x, self.numerator, self.denominator, self.version)

    def record(self) -> tuple[str, Tensor, Tensor]:
        """Return what tells the function: version, numerator and denominator."""
        return self.version, self.numerator, self.denominator

    @torch.no_grad()
    def scalars(self, x: Tensor) -> dict[str, Tensor]:
        """Measure what it does on x `[S, ...]`: numbers `[S]`, each over all else.

        They are the slope that R tends to at large |x| (`asymptotic_slope`), the largest |dR/dx| on these inputs
        (`largest_slope`), and the share of inputs that lie `outside` the interval that R was fitted on.
        """
        seeds, (low, high) = x.shape[0], self.interval
        return {
            "asymptotic_slope": self.asymptotic_slope().reshape(seeds, -1).mean(1),
            "largest_slope": self.derivative(x).abs().reshape(seeds, -1).amax(1),
            "outside": ((x < low) | (x > high)).float().reshape(seeds, -1).mean(1),
        }

    @torch.no_grad()
    def asymptotic_slope(self) -> Tensor:
        """Compute the limit of R(x) / x as x goes to +infinity, `[*batch_shape, groups]`.

        Let a_m and b_n be the last coefficients that are not zero. The limit is a_m / |b_n| (version N: a_m / b_n) if
        m = n + 1, zero if m is smaller, infinite if m is larger. If m = n + 1, the limit towards -infinity is (-1)^n
        times that in versions A, B and C.
        """
        a, b = self.numerator, self.denominator
        if self.version == "C":
            b = torch.cat([0.1 + b[..., :1].abs(), b[..., 1:]], dim=-1)
        else:
            b = torch.cat([torch.ones_like(a[..., :1]), b], dim=-1)
        if self.version != "N":
            b = b.abs()
        m, n = ((torch.arange(c.shape[-1], device=c.device) * (c != 0)).amax(-1, keepdim=True) for c in (a, b))
        ratio = (a.gather(-1, m) / b.gather(-1, n)).squeeze(-1)
        excess = (m - n - 1).squeeze(-1)
        return torch.where(excess > 0, ratio * torch.inf, torch.where(excess < 0, torch.zeros_like(ratio), ratio))

    def poles(self) -> Tensor:
        """Find the real x with Q(x) = 0, where R is not finite: `[*batch_shape, groups, k]`.

        They are in ascending order. The entry with the most poles has k, the others are padded with NaN. Versions A, B
        and C have none by construction (k = 0). A multiple root is listed once, and so is a root that P shares,
        because R, computed as P / Q, is NaN there. A nearly real root counts as real, and neighbouring roots as one,
        if relative changes of 2^-23 in the coefficients, about the rounding of float32, can make them so. The result
        is float64, on the CPU.

        Raises:
            ValueError: coefficients that are not finite.
        """
        return analysis.poles(self.denominator, self.version)

    def zeros(self) -> Tensor:
        """Find the real x with P(x) = 0 and Q(x) != 0, listed as `poles` are. A P that is zero everywhere has none.

        Raises:
            ValueError: coefficients that are not finite.
        """
        return analysis.zeros(self.numerator, self.denominator, self.version)

    def largest_slope(self, interval: tuple[float, float] | None = None) -> Tensor:
        """Find the largest |dR/dx| on an interval (default: `self.interval`), `[*batch_shape, groups]`.

        At a corner of versions A, B and C inside the interval, the slopes of both sides count. If the interval holds
        one of `poles`, the result is infinite. The search looks at the ends, the corners and the points where R'' = 0;
        its relative error is below 1e-8. The result is float64, on the CPU.

        Raises:
            ValueError: an interval that is not finite and low < high, coefficients that are not finite.
        """
        interval = self.interval if interval is None else interval
        return analysis.largest_slope(self.numerator, self.denominator, self.version, interval)

    @contextlib.contextmanager
    def record_inputs(self) -> Iterator[list[Tensor]]:
        """Collect a copy, on the CPU, of every input that the module is given inside the block, for `plot`.

        All of them are kept, so run a few batches and not an epoch.
        """
        inputs: list[Tensor] = []

        def record(module: nn.Module, args: tuple, kwargs: dict) -> None:
            inputs.append(module.argument(*args, **kwargs).detach().to("cpu", copy=True))

        handle = self.register_forward_pre_hook(record, with_kwargs=True)
        try:
            yield inputs
        finally:
            handle.remove()

    def plot(
        self,
        inputs: Tensor | Sequence[Tensor] | None = None,
        interval: tuple[float, float] | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Draw R and, dashed, what it was when the module was made, before a histogram of `inputs`.

        There is a line for each batch entry and group; of more than six, their median in a band that holds them all.

        Args:
            inputs: of any shape, as `record_inputs` collects them; those that are not finite are left out.
            interval: the range of x. Default: `self.interval`, widened to hold 99.8% of the inputs.
            ax: the matplotlib axes to draw on. Default: those of a new pyplot figure.

        Returns:
            The axes: `module.plot().figure.savefig("rational.png")`.

        Raises:
            RuntimeError: matplotlib is not installed.
            ValueError: no finite inputs, coefficients that are not finite, an interval that is not low < high.
        """
        return analysis.plot(self.numerator, self.denominator, self.version, self._initial, inputs, interval, ax)

    def extra_repr(self) -> str:
        text = f"init={self._init_name}, degrees={self.degrees}, version={self.version}, groups={self.groups}"
        text += f", batch_shape={self.batch_shape}" if self.batch_shape else ""
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        return text + (f", frozen={'+'.join(frozen)}" if frozen else "")
