"""Find the trained activations of a network: those with parameters of their own, which updates treat unlike weights."""

from torch import nn

from rlrat.errors import warn

_unmarked: set[type] = set()  # classes that a warning has named


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
