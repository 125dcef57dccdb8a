"""Count what a construction is made of, by computing it once with numbers that write down every operation."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Count operations by kind and constants; hold the degree of each polynomial that appears as a factor."""

    operations: Counter[str] = field(default_factory=Counter)
    constants: int = 0
    degrees: list[int] = field(default_factory=list)

    def variable(self) -> "Traced":
        """Return an input: a polynomial of degree one."""
        return Traced(self, self.polynomial(1))

    def polynomial(self, degree: int) -> Counter[int]:
        self.degrees.append(degree)
        return Counter({len(self.degrees) - 1: 1})


class Traced:
    """Stand for a rational function of the inputs, as powers of polynomials, and count what is done with it.

    A sum of two takes out the factors that they share, so that the degree is that of the rational in lowest terms,
    but for cancellations that hang on the constants. Whatever is not + - * / raises TypeError or AttributeError.
    """

    __array_ufunc__ = None  # NumPy hands operations on object arrays to the elements

    def __init__(self, tally: Tally, factors: Counter[int]) -> None:
        self.tally = tally
        self.factors = factors

    @property
    def degree(self) -> tuple[int, int]:
        """The degrees of the numerator and of the denominator."""
        degrees = self.tally.degrees
        above = sum(degrees[name] * power for name, power in self.factors.items() if power > 0)
        return above, sum(-degrees[name] * power for name, power in self.factors.items() if power < 0)

    def _operand(self, operation: str, other: Any) -> Counter[int]:
        self.tally.operations[operation] += 1
        if isinstance(other, Traced):
            return other.factors
        self.tally.constants += 1
        return Counter()

    def _sum(self, operation: str, other: Any) -> "Traced":
        factors = self._operand(operation, other)
        names = {*self.factors, *factors}
        shared = Counter({name: min(self.factors[name], factors[name]) for name in names})
        degrees = self.tally.degrees
        rests = [sum((each[name] - shared[name]) * degrees[name] for name in names) for each in (self.factors, factors)]
        if max(rests):
            shared.update(self.tally.polynomial(max(rests)))
        return Traced(self.tally, shared)

    def _product(self, factors: Counter[int], other: Counter[int], power: int) -> "Traced":
        product = Counter(factors)
        for name, exponent in other.items():
            product[name] += power * exponent
        return Traced(self.tally, product)

    def __add__(self, other: Any) -> "Traced":
        return self._sum("add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Traced":
        return self._sum("sub", other)

    __rsub__ = __sub__

    def __mul__(self, other: Any) -> "Traced":
        return self._product(self.factors, self._operand("mul", other), 1)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Traced":
        return self._product(self.factors, self._operand("div", other), -1)

    def __rtruediv__(self, other: Any) -> "Traced":
        return self._product(self._operand("div", other), self.factors, -1)
