"""Register activations: map a name to a module that acts on x `[*batch_shape, ..., features]`."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from rlrat.environments.registry import import_modules
from rlrat.errors import InputError, reason
from rlrat.networks.choices import own_module
from rlrat.rational import FUNCTIONS, Rational
from rlrat.rational.called import ELEMENTWISE
from rlrat.rational.table import sample


class PReLU(nn.Module):
    """x where x > 0, else slope * x, with one learnable slope for each entry of `batch_shape` (He et al. 2015, eq. 1).

    PyTorch's own PReLU has its slopes along axis 1. The parameter `weight` is `[*batch_shape]`, 0.25 at first.
    """

    trained_activation = True

    def __init__(self, batch_shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.full(tuple(batch_shape), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[: self.weight.ndim] != self.weight.shape:
            raise ValueError(f"x must be [*batch_shape, ...] with {list(self.weight.shape)}, not {list(x.shape)}")
        slope = self.weight.to(x.dtype).reshape(*self.weight.shape, *(1,) * (x.ndim - self.weight.ndim))
        return torch.where(x > 0, x, slope * x)

    def record(self) -> tuple[str, Tensor, Tensor]:
        """Return what tells the function: the slope is the numerator."""
        slopes = self.weight[..., None, None]
        return "prelu", slopes, slopes[..., :0]

    def extra_repr(self) -> str:
        return f"batch_shape={tuple(self.weight.shape)}"


# In the order of the documentation. A trained one is a class made with `batch_shape`; rationals have more settings.
_REGISTRY: dict[str, Callable[..., nn.Module] | None] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "tanh": nn.Tanh,
    "softmin": lambda: nn.Softmin(dim=-1),
    "softmax": lambda: nn.Softmax(dim=-1),
    "logsoftmax": lambda: nn.LogSoftmax(dim=-1),
    "identity": nn.Identity,
    "rational": None,
}


_modules: set[str] = set()  # of the user's, from which activations may be made


def names() -> tuple[str, ...]:
    """List every name that `make_activation` takes, besides `rational:<name>` for an elementwise `<name>`."""
    return tuple(_REGISTRY)


def name_modules(modules: Iterable[str], option: str = "--activation-modules") -> None:
    """Import modules that the user names: an activation that data names, `my_module:Snake`, may then come from them.

    Raises:
        InputError: no such module, or one that cannot be imported.
    """
    for name in modules:
        import_modules(name, option)
        _modules.add(name)


def name_activation(name: str) -> None:
    """Import the module in an activation that the user names, as `--activation my_module:Snake` does, and check it.

    Raises:
        InputError: no such module or activation.
    """
    if (module := own_module(name)) is not None:
        name_modules([module], "--activation")
    check_activation(name)


def _own_class(name: str) -> type[nn.Module]:
    module, _, kind = name.partition(":")
    if module not in _modules:
        raise InputError(
            f"activation {name!r} is of a module of yours, which only you may name: add --activation-modules {module} "
            f"if you trust it (in Python, activation_modules=[{module!r}])"
        )
    found = getattr(sys.modules[module], kind, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    kinds = [name for name, value in vars(sys.modules[module]).items() if _is_module_class(value, module)]
    raise InputError(
        f"activation {name!r}: the module {module} has no class {kind} of torch.nn.Module: it has "
        f"{', '.join(kinds) or 'none'}"
    )


def _is_module_class(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module


def _make_own(name: str, features: int | None, batch_shape: tuple[int, ...]) -> nn.Module:
    """Make a user's activation; one that has parameters and does not say what it is counts as trained."""
    kind, called = _own_class(name), f"{name.partition(':')[2]}(features={features}, batch_shape={batch_shape})"
    try:
        made = kind(features=features, batch_shape=batch_shape)
        with torch.no_grad():
            x = torch.zeros(*batch_shape, 3, features or 1)
            y = made(x)
    except Exception as error:  # whatever the user's class raises
        raise InputError(
            f"activation {name!r} cannot be made as {called} and applied to zeros: {type(error).__name__}: "
            f"{reason(error)}"
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        is_ = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InputError(f"activation {name!r} must give what has the shape of its input, {list(x.shape)}, not {is_}")
    for parameter, value in made.named_parameters():
        if value.shape[: len(batch_shape)] != batch_shape:
            raise InputError(
                f"activation {name!r} has {parameter} of shape {list(value.shape)}: its first axes must be "
                f"batch_shape, here {list(batch_shape)}, so that seeds and critics have their own"
            )
    if next(made.parameters(), None) is not None and not hasattr(made, "trained_activation"):
        made.trained_activation = True
    return made


def check_activation(name: str) -> None:
    """Raise InputError, with the nearest names and all the valid ones, unless `make_activation` knows `name`."""
    if own_module(name) is not None:
        _own_class(name)
        return
    prefix, colon, start = name.partition(":")
    if name in _REGISTRY or (prefix == "rational" and (start in FUNCTIONS or _is_elementwise(start))):
        return
    if prefix == "rational" and colon:
        possible = [entry for entry in _REGISTRY if entry in FUNCTIONS or _is_elementwise(entry)]
        if start in _REGISTRY:
            why = "is one itself" if start == "rational" else "is not elementwise"
            raise InputError(f"activation {name!r}: {start} {why}; a rational can start as {', '.join(possible)}")
        if start in ELEMENTWISE.values():
            raise InputError(
                f"activation {name!r}: {start} is no entry of the registry; a rational can start as "
                f"{', '.join(possible)}; in Python, rlrat.Rational(torch.nn.functional.{start}) fits it"
            )
        valid = tuple(f"rational:{entry}" for entry in possible)
    else:
        valid = (*names(), "rational:<name>", "my_module:MyClass")
    nearest = get_close_matches(name.lower(), valid, n=3)
    hint = f"did you mean {' or '.join(nearest)}? V" if nearest else "v"
    raise InputError(f"unknown activation {name!r}: {hint}alid names are {', '.join(valid)}")


def _is_elementwise(name: str) -> bool:
    """Tell whether a registry entry that is not in `FUNCTIONS`, such as a user's own, can be approximated."""
    if _REGISTRY.get(name) is None:
        return False
    try:
        sample(_REGISTRY[name](), torch.linspace(-5.0, 5.0, 11, dtype=torch.float64))
    except (ValueError, RuntimeError):
        return False
    return True


def make_activation(
    name: str,
    features: int | None = None,
    batch_shape: tuple[int, ...] = (),
    *,
    degrees: tuple[int, int] = (5, 4),
    version: str = "A",
    groups: int = 1,
) -> nn.Module:
    """Make the activation called `name`, a module for x `[*batch_shape, ..., features]`.

    softmin, softmax and logsoftmax act along the features. prelu and rational have parameters of their own for each
    entry of `batch_shape`. `degrees`, `version` and `groups` are settings of rationals (see `rlrat.Rational`); the
    other activations do not use them. `my_module:Snake` is a class of the user's, made as
    `Snake(features=..., batch_shape=...)`, of a module that `name_modules` has imported. `features` is needed only for
    these, and to check that `groups` divides it.

    Raises:
        InputError: the name is unknown, or there is no rational with these settings.
    """
    check_activation(name)
    if own_module(name) is not None:
        return _make_own(name, features, tuple(batch_shape))
    if name.partition(":")[0] != "rational":
        kind = _REGISTRY[name]
        return kind(batch_shape=batch_shape) if getattr(kind, "trained_activation", False) else kind()
    if features is not None and groups > 0 and features % groups:
        raise InputError(f"activation {name!r}: {groups} groups do not divide {features} features")
    try:
        start = name.partition(":")[2] or "relu"
        init = start if start in FUNCTIONS else _REGISTRY[start]()
        return Rational(init, degrees, version, groups, batch_shape)
    except ValueError as error:
        raise InputError(f"activation {name!r}: {error}") from None
