"""Make constructions by name: modules for PyTorch that also compute in mpmath and say what they are made of."""

import inspect
import math
import random
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from mpmath import floor, log10, mp, mpf, nstr
from torch import Tensor, nn

from . import activations, agm, exponentials, roots, zolotarev
from .plans import Plan, Real, constants, convert
from .references import REFERENCES
from .traced import Tally

PLANS: dict[str, Callable[..., Plan]] = {
    "relu": zolotarev.relu,
    "abs": zolotarev.absolute,
    "sign": zolotarev.sign,
    "step": zolotarev.step,
    "root": roots.root,
    "exp": exponentials.exponential,
    "log": agm.logarithm,
    "tanh": exponentials.hyperbolic_tangent,
    "sigmoid": activations.sigmoid,
    "gelu": activations.gelu,
    "silu": activations.silu,
    "mish": activations.mish,
    "softplus": activations.softplus,
    "logsigmoid": activations.logsigmoid,
    "leaky_relu": activations.leaky_relu,
    "elu": activations.elu,
    "selu": activations.selu,
    "celu": activations.celu,
    "softmax": activations.softmax,
    "logsoftmax": activations.logsoftmax,
    "softmin": activations.softmin,
    "swiglu": activations.swiglu,
    "geglu": activations.geglu,
}
MOST_DIGITS = 1280
"""Constructions whose error is smaller than so many digits show are refused."""
_GATES = {"swiglu", "geglu"}
_TARGETS = {"p", "slope", "alpha"}  # settings that change what is approximated
_MOST_STEPS = 16
_SPARE_DIGITS = 15


def names() -> tuple[str, ...]:
    """Return the names of all constructions."""
    return tuple(PLANS)


def construction(
    name: str,
    steps: int | None = None,
    *,
    error: float | None = None,
    domain: tuple[float, float] | None = None,
    strict: bool = False,
    **settings: Any,
) -> "Construction":
    """Make the construction of a function from the paper's proofs: low-degree rationals in rationals.

    Args:
        name: one of `names()`.
        steps: how often the outermost iteration runs; 3 unless `error` is given.
        error: the largest absolute error that is wanted, in exact arithmetic, instead of steps: the fewest that do.
        domain: where the function is wanted, (low, high); each construction has its own default.
        strict: whether inputs outside the domain raise ValueError (their values are read, which waits for a GPU).
        settings: gap (of sign and step), scaled (of these, abs and relu: Zolotarev's scaling or Halley's iteration), p
            and alpha0 (of root), slope (of leaky_relu), alpha (of elu and celu), features (of softmaxes).

    Raises:
        ValueError: there is no such construction or setting, or one has a value that it cannot have.
    """
    if name not in PLANS:
        raise ValueError(f"there is no construction {name!r}, only {', '.join(names())}")
    known = [each.name for each in inspect.signature(PLANS[name]).parameters.values() if each.kind == each.KEYWORD_ONLY]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}, only {', '.join(['domain', *known])}")
    if steps is not None and error is not None:
        raise ValueError("a construction is made of steps or for an error, not both")
    if error is not None:
        return _least(name, error, domain, strict, settings)
    steps = 3 if steps is None else steps
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= _MOST_STEPS:
        raise ValueError(f"the steps of {name} must be an integer from 1 to {_MOST_STEPS}, not {steps!r}")
    return Construction(name, steps, domain, strict, settings)


def _least(name: str, error: float, domain: Any, strict: bool, settings: dict[str, Any]) -> "Construction":
    if not error > 0:
        raise ValueError(f"the error of {name} must be above 0, not {error}")
    for steps in range(1, _MOST_STEPS + 1):
        found = Construction(name, steps, domain, strict, settings)
        if found.error_bound <= error:
            return found
    raise ValueError(f"{name} has no error of {error} after {_MOST_STEPS} steps, but {nstr(found.error_bound, 3)}")


class Construction(nn.Module):
    """Compute a function by an explicit composition of low-degree rationals: only + - * / and constants.

    Called with a tensor (float32 or float64, any shape; gates and softmaxes act along the last axis), it returns one,
    and can be differentiated. Made by `construction`.

    Attributes:
        name: which function.
        steps: how often its outermost iteration runs.
        domain: (low, high), where it is claimed; for a softmax, rows whose entries differ by at most high - low.
            Outside, values may be anything, NaN too.
        gap: |x| below which it is not claimed (sign, step), or 0.
        error_bound: the largest absolute error in exact arithmetic, an mpmath number, which may be below 1e-308.
    """

    def __init__(
        self, name: str, steps: int, domain: tuple[float, float] | None, strict: bool, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.name = name
        self.steps = steps
        self.strict = strict
        self.settings = settings
        self._target = {name: value for name, value in settings.items() if name in _TARGETS}
        if domain is not None and not (len(domain) == 2 and -math.inf < domain[0] < domain[1] < math.inf):
            raise ValueError(f"the domain of {name} must be finite and low < high, not {domain}")
        self._asked = {} if domain is None else {"domain": domain}
        self._digits, self._plan = self._enough_digits()
        self.domain: tuple[float, float] = tuple(map(float, self._plan.domain))
        self.gap: float = float(self._plan.gap)
        self.error_bound: Real = self._plan.error
        self._largest = max(map(abs, constants(self._plan.compute)))
        self._compute = convert(self._plan.compute, _to_float)

    def _build(self, digits: int) -> Plan:
        asked = {}
        with mp.workdps(digits):
            if self._asked:
                asked = {"domain": tuple(map(mpf, self._asked["domain"]))}
            return PLANS[self.name](self.steps, **asked, **self.settings)

    def _enough_digits(self) -> tuple[int, Plan]:
        digits = 40
        while digits <= MOST_DIGITS:
            plan = self._build(digits)
            needed = _SPARE_DIGITS - int(floor(log10(plan.error))) if plan.error > 0 else 2 * digits
            if needed <= digits:
                return digits, plan
            digits = max(needed, digits * 3 // 2)  # where digits are too few, the error is not that small
        raise ValueError(
            f"{self.name} with {self.steps} steps has an error below 1e-{MOST_DIGITS - _SPARE_DIGITS}: fewer steps do"
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{self.name} computes in float32 or float64, not in {x.dtype}")
        if self._largest > torch.finfo(x.dtype).max:
            raise ValueError(
                f"{self.name} with {self.steps} steps has a constant {nstr(self._largest, 3)}, which {x.dtype} "
                "does not hold: take a narrower domain, a wider gap, fewer steps or float64"
            )
        if self._plan.inputs > 1:
            self._check_width(x.shape[-1] if x.ndim else 0)
        if self.strict and x.numel():
            self._check(x)
        return self._compute(x)

    def _check_width(self, width: int) -> None:
        if self.is_gate and (width == 0 or width % 2):
            raise ValueError(f"{self.name} takes a last axis of two halves, not of {width} entries")
        if not self.is_gate and width != self._plan.inputs:
            raise ValueError(f"{self.name} is made for a last axis of {self._plan.inputs} features, not of {width}")

    @property
    def is_gate(self) -> bool:
        """Whether it multiplies the halves of the last axis."""
        return self.name in _GATES

    def _check(self, x: Tensor) -> None:
        low, high = self.domain
        if self._plan.inputs > 1 and not self.is_gate:
            spread = (x.amax(-1) - x.amin(-1)).max().item()
            if not spread <= high - low:
                raise ValueError(
                    f"{self.name} is claimed for rows whose entries differ by at most {high - low:g}, and here they "
                    f"differ by {spread:g}"
                )
            return
        least, most = x.min().item(), x.max().item()
        if not low <= least <= most <= high:
            raise ValueError(f"{self.name} is claimed from {low:g} to {high:g}, and x goes from {least:g} to {most:g}")

    def mpmath(self, x: Any, digits: int | None = None) -> Any:
        """Compute in mpmath: the same definition, with constants of so many digits.

        Args:
            x: a number, or a decimal in a string; for softmaxes and gates a list of them, and a list is returned.
            digits: how many are right but for the construction's own error; as many as show that if None.

        Raises:
            ValueError: the error of so many steps is below what so many digits show.
        """
        needed = self.digits_needed
        digits = needed if digits is None else digits
        if digits < needed:
            raise ValueError(
                f"{digits} digits do not suffice for {self.name} with {self.steps} steps, whose error is "
                f"{nstr(self.error_bound, 3)}: {needed} do"
            )
        if digits + _SPARE_DIGITS > self._digits:
            self._digits, self._plan = digits + _SPARE_DIGITS, self._build(digits + _SPARE_DIGITS)
        with mp.workdps(digits + _SPARE_DIGITS):
            if self._plan.inputs > 1:
                self._check_width(len(x))
                x = np.array([mpf(each) for each in x], dtype=object)
            else:
                x = mpf(x)
            if self.strict:
                self._check(torch.tensor(np.array(x, dtype=np.float64)))
            y = self._plan.compute(x)
            return y.tolist() if self._plan.inputs > 1 else y

    @property
    def digits_needed(self) -> int:
        """How many digits show the construction's own error."""
        return max(15, 1 - int(floor(log10(self.error_bound))))

    @cached_property
    def _tally(self) -> tuple[Tally, tuple[int, int]]:
        tally = Tally()
        if self._plan.inputs == 1:
            return tally, self._plan.compute(tally.variable()).degree
        x = np.array([tally.variable() for _ in range(self._plan.inputs)], dtype=object)
        return tally, max(y.degree for y in self._plan.compute(x))

    @property
    def parameters_count(self) -> int:
        """How many constants stand in the composition, written out: each is counted where it is used."""
        return self._tally[0].constants

    @property
    def operations(self) -> int:
        """How many + - * / a value takes."""
        return self._tally[0].operations.total()

    @property
    def degree(self) -> tuple[int, int]:
        """The degrees of the numerator and denominator of the one rational that the composition is."""
        return self._tally[1]

    def exact(self, x: Any) -> Any:
        """Compute what is approximated, in mpmath at the precision that is set; of a list for softmaxes and gates."""
        return REFERENCES[self.name](x, **self._target)

    def points(self, count: int) -> list[Any]:
        """Return inputs from all over the domain.

        Numbers: even ones, and ones that crowd towards the gap or 0. For softmaxes and gates rows: of the domain's
        ends, and of numbers drawn from it.
        """
        low, high = self.domain
        if self._plan.inputs > 1:
            draw = random.Random(count)
            width = self._plan.inputs
            rows = [[draw.uniform(low, high) for _ in range(width)] for _ in range(count)]
            return rows + [[high] * place + [low] * (width - place) for place in range(width + 1)]
        even = [low + (high - low) * i / (count - 1) for i in range(count)]
        start = self.gap or 1e-6 * max(-low, high)
        sides = [end for end in (low, high) if abs(end) > start]
        near = [end * (start / abs(end)) ** (i / (count - 1)) for end in sides for i in range(count)]
        return sorted(x for x in {*even, *near} if low <= x <= high and abs(x) >= self.gap)

    def measured_error(self, number: str = "float64", count: int = 101) -> Real:
        """Measure the largest absolute error on `points(count)`.

        Args:
            number: "float32", "float64" or "mpmath", in which it computes with as many digits as show its error.
            count: how many points.
        """
        points = self.points(count)
        digits = self.digits_needed * 11 // 10 if number == "mpmath" else 30
        if number == "mpmath":
            values = [self.mpmath(x, digits) for x in points]
        else:
            x = torch.tensor(points, dtype=getattr(torch, number))
            points, values = x.tolist(), self(x).tolist()
        with mp.workdps(digits + _SPARE_DIGITS):
            if self._plan.inputs == 1:
                return max(abs(y - self.exact(mpf(x))) for x, y in zip(points, values, strict=True))
            exact = [self.exact([mpf(each) for each in x]) for x in points]
            pairs = zip(chain(*exact), chain(*values), strict=True)
            return max(abs(a - b) for a, b in pairs)

    def extra_repr(self) -> str:
        return f"{self.name}, steps={self.steps}, domain={self.domain}, error_bound={nstr(self.error_bound, 3)}"


def _to_float(constant: Real) -> float:
    return float(constant) if abs(constant) < mpf(2) ** 1023 else float("inf")
