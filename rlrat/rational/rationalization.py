"""Tell what `rationalize` did to a model: what was replaced, how well, what stays, and how much outputs change."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Replaced:
    """Tell of one rational that `rationalize` made.

    `name` is its place in the model (`model.get_submodule(name)`), `function` what it approximates and `where` the
    place in the code that calls it, empty for a module or attribute that it took the place of. `interval` is where it
    was fitted, and `error` the largest difference from the function there: `kind` is "certified" for an upper bound of
    it, "sampled" for the largest at many points. `range` are the smallest and the largest input on the data, or None.
    """

    name: str
    function: str
    where: str
    interval: tuple[float, float]
    error: float
    kind: str
    range: tuple[float, float] | None


@dataclass(frozen=True)
class Rationalization:
    """Tell what `rationalize` did to a model.

    `stays` says, a line each, which activations were not replaced, and where. `max_change` and `mean_change` are the
    largest and the mean absolute difference between the outputs before and after, in evaluation mode, over the
    `batches` of data that were used; None without data, or if the model returns no tensor of floating point.

    `bound` is an upper bound of `max_change`, or None, and `why_no_bound` says why: the sum over the rationals of their
    errors times the norms of the linear maps and the largest slopes of the rationals behind them, in the infinity norm.
    It holds on inputs with which the input of every rational stays inside its interval, as on these data, for exact
    arithmetic; it is as good as the errors that it is made of, `is_certified` if all of these are.
    """

    replaced: tuple[Replaced, ...]
    stays: tuple[str, ...]
    batches: int = 0
    max_change: float | None = None
    mean_change: float | None = None
    bound: float | None = None
    why_no_bound: str = ""

    @property
    def is_certified(self) -> bool:
        """Say whether every error is an upper bound."""
        return all(one.kind == "certified" for one in self.replaced)

    def __str__(self) -> str:
        rows = [("rational", "of", "interval", "error", "")] + [
            (one.name, one.function, "[{:.4g}, {:.4g}]".format(*one.interval), f"{one.error:.2e} {one.kind}", one.where)
            for one in self.replaced
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows]
        lines += [f"stays: {line}" for line in self.stays]
        if self.max_change is not None:
            change = f"{self.mean_change:.3g} on average, {self.max_change:.3g} at most"
            lines.append(f"change of the outputs on {self.batches} batches: {change}")
        lines.append(f"no bound: {self.why_no_bound}" if self.bound is None else f"its bound: {self.bound:.3g}")
        return "\n".join(lines)


def rationalized(model: nn.Module) -> Rationalization:
    """Return what the last call of `rationalize` did to this model.

    Raises:
        ValueError: `rationalize` did not return this model.
    """
    found = vars(model).get("_rationalization")
    if found is None:
        raise ValueError(f"this {type(model).__name__} does not come from rationalize: give the model that it returned")
    return found
