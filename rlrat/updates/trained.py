"""Which modules of a network are activations with parameters of their own, which updates treat apart from weights."""

from torch import nn

from rlrat.errors import warn

_unmarked: set[type] = set()  # that have been named


def trained_activations(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of `network` whose attribute `trained_activation` is true, by name: rationals, PReLUs, anybody's own.

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
    """Also one that is made of several modules, unless it has some that say so themselves."""
    named = "activation" in name.rpartition(".")[2].lower()
    if not (named or isinstance(module, nn.PReLU)):
        return False
    parts = [part for part in module.modules() if getattr(part, "trained_activation", None) is not None]
    known = {id(parameter) for part in parts for parameter in part.parameters()}
    return any(id(parameter) not in known for parameter in module.parameters())
