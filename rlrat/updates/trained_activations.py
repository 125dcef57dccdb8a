"""Define what a trained activation says of itself, and find those of a network, which updates treat unlike weights."""

from typing import Protocol

from torch import Tensor, nn

from rlrat.errors import warn

_unmarked: set[type] = set()  # classes that a warning has named


class TrainedActivation(Protocol):
    """What an activation with parameters of its own says of itself: an `nn.Module` that maps x to the same shape.

    The mark is all that it needs. Weight decay leaves its parameters alone, `--rational.rate-scale` multiplies their
    learning rate, `activations.csv` records its parameters, its inputs and its values between the least and the
    greatest of them, and reports draw these. Each parameter has the leading axes of x, `[*batch_shape, ...]`.
    """

    trained_activation: bool
    """True, of the class."""

    def scalars(self, x: Tensor) -> dict[str, Tensor]:
        """Measure what is logged of it on inputs x `[S, ...]`: each `[S]`, by name. It may be left out."""

    def record(self) -> tuple[str, Tensor, Tensor]:
        """Return a version that reports compute by themselves, numerator and denominator `[*batch_shape, groups, n]`.

        It is left out by all but rlrat's own: `rlrat.runs.schema` names the versions.
        """


def trained_activations(network: nn.Module) -> dict[str, nn.Module]:
    """Find the modules of `network` whose attribute `trained_activation` is true: rationals, PReLUs, your own; by name.

    Weight decay leaves their parameters alone, and `activations.csv` records them. A warning names, once for each
    class, a module that has parameters of its own and looks like an activation but has no such attribute.
    """
    found = {}
    for name, module in network.named_modules():
        marked = getattr(module, "trained_activation", None)
        if marked:
            found[name] = module
        elif marked is None and type(module) not in _unmarked and _looks_trained(name, module):
            _unmarked.add(type(module))
            warn(
                f"{name} ({type(module).__name__}) looks like a trained activation: its parameters decay as weights do "
                "and activations.csv leaves it out, unless its class says trained_activation = True (or False)"
            )
    return found


def _looks_trained(name: str, module: nn.Module) -> bool:
    """Tell by its name; parts of the module that say themselves what they are do not count."""
    named = "activation" in name.rpartition(".")[2].lower()
    if not (named or isinstance(module, nn.PReLU)):
        return False
    parts = [part for part in module.modules() if getattr(part, "trained_activation", None) is not None]
    known = {id(parameter) for part in parts for parameter in part.parameters()}
    return any(id(parameter) not in known for parameter in module.parameters())
