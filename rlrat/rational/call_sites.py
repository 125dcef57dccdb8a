"""Compute by rationals what a module's forward calls as functions: a TorchFunctionMode around it, a rational per call.

The module gets a class derived from its own, whose forward runs the former one inside the mode, and a child `rationals`
with a `Rational` for each call site. A call site is known by the places in the code, from the module's forward down to
the call, by the function's name, and by the number of the call there within one forward (of a loop, each round is a
site). A graph compiler does not see places: there the calls are counted, if every forward makes the same ones in the
same order, and else the module runs uncompiled.
"""

import functools
import itertools
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .called import known
from .module import Rational

Location = tuple[tuple[str, int, int | None], ...]
"""From the call outwards: the functions that are being run, their lines, counted from their first, and the columns."""
_NOT_COUNTED = ("torch.", f"{__package__}.")
STAYS = -1
"""Stands for the index of a rational where a call is known and computes what it did."""


@dataclass(frozen=True)
class CallSites:
    """Say which of a module's rationals each call takes.

    `table` maps a place and a function's name to the index of the rational for each call there within one forward, or
    to one index for all calls. `order` has name and index of a forward's calls one after another, or is None where
    forwards differ, and where `has_others`: where modules below, compiled or generated, make calls that stay what they
    are. `in_place` are the indices of calls that overwrite their input.
    """

    child: str
    table: dict[tuple[Location, str], tuple[int, ...] | int]
    order: tuple[tuple[str, int], ...] | None
    in_place: frozenset[int] = frozenset()
    has_others: bool = False


def locate(frame: FrameType | None, is_outermost: Callable[[FrameType], bool]) -> Location:
    """Return where `frame` is, up to the frame that is the outermost. PyTorch's code and this package do not count."""
    frames = _counted(frame, is_outermost)
    return tuple((at.f_code.co_qualname, *_position(at.f_code, at.f_lasti)) for at in frames)


_positions: dict[tuple[int, int], tuple[CodeType, tuple[int, int | None]]] = {}


def _position(code: CodeType, instruction: int) -> tuple[int, int | None]:
    """Return line and column of an instruction; they are kept, for finding them takes a walk through the function."""
    key = id(code), instruction
    if key not in _positions:  # the code is kept, too, so that no other gets its id
        line, _, column, _ = next(itertools.islice(code.co_positions(), instruction // 2, None))
        _positions[key] = code, ((line or code.co_firstlineno) - code.co_firstlineno, column)
    return _positions[key][1]


def describe(frame: FrameType | None, is_outermost: Callable[[FrameType], bool]) -> str:
    """Say for a reader where a call is made; empty where no code but PyTorch's is between it and the outermost."""
    at = next(_counted(frame, is_outermost), None)
    return f"{at.f_code.co_qualname}, {Path(at.f_code.co_filename).name}:{at.f_lineno}" if at is not None else ""


def _counted(frame: FrameType | None, is_outermost: Callable[[FrameType], bool]) -> Iterator[FrameType]:
    while frame is not None and not is_outermost(frame):
        if not f"{frame.f_globals.get('__name__')}.".startswith(_NOT_COUNTED):
            yield frame
        frame = frame.f_back


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an activation function is applied to."""
    return args[0] if args else kwargs.get("input")


class _Calls(TorchFunctionMode):
    """Replace the calls of one forward of `module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.sites: CallSites = module._call_sites
        self.counts: Counter[Any] = Counter()
        self.count = 0
        self.is_counted = False
        """Whether a compiler took the rational of any call by its number."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (name := known(func)) is None:
            return func(*args, **kwargs)
        index = self.counted(name) if torch.compiler.is_dynamo_compiling() else self.find(name)
        if index == STAYS:
            with torch._C.DisableTorchFunction():  # a mode further out shall not take it for a call of its own
                return func(*args, **kwargs)
        x = first_argument(args, kwargs)
        rational = getattr(self.module, self.sites.child)[index]
        if index in self.sites.in_place:
            return x.copy_(_apply(rational, x.clone()))
        return _apply(rational, x)

    def counted(self, name: str) -> int:
        """Return the index for the next call."""
        if self.sites.has_others:
            return STAYS
        self.is_counted = True
        order = self.sites.order or ()
        if self.count >= len(order) or order[self.count][0] != name:
            raise self.other_calls()
        self.count += 1
        return order[self.count - 1][1]

    def check(self) -> None:
        """Raise RuntimeError if calls were counted, and were not those that were seen."""
        if self.is_counted and self.sites.order is not None and self.count != len(self.sites.order):
            raise self.other_calls()

    def other_calls(self) -> RuntimeError:
        return RuntimeError(
            f"a compiled {type(self.module).__name__} calls other activations than on the data given to rationalize: "
            "give data that makes all calls, or do not compile it (torch.compiler.disable)"
        )

    def find(self, name: str) -> int:
        """Find the index for the call of this function that is being made."""
        place = locate(sys._getframe(2), _is_forward)
        key = place, name
        indices, number = self.sites.table.get(key, ()), self.counts[key]
        self.counts[key] += 1
        if isinstance(indices, int) or number < len(indices):
            self.count += 1
            return indices if isinstance(indices, int) else indices[number]
        if self.sites.has_others and _is_of_others(sys._getframe(2)):
            return STAYS
        if self.sites.order is not None and _is_made_by_compiler(sys._getframe(2)):
            return self.counted(name)
        self.count = sys.maxsize  # a compiler would count wrongly from here
        where = describe(sys._getframe(2), _is_forward) or "its forward"
        warnings.warn(
            f"{type(self.module).__name__} calls {name} where it did not on the data given to rationalize ({where}): "
            "this call stays what it was; give data that reaches it",
            stacklevel=2,
        )
        return STAYS


def is_compiled(module: nn.Module) -> bool:
    """Say whether a module runs what torch.compile has made of it."""
    return getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"


def _is_of_others(frame: FrameType | None) -> bool:
    """Say whether a call is made inside a module whose forward is compiled or generated."""
    while frame is not None and not _is_forward(frame):
        module = frame.f_locals.get("self") if frame.f_code is nn.Module._call_impl.__code__ else None
        if isinstance(module, nn.Module) and (isinstance(module, fx.GraphModule) or is_compiled(module)):
            return True
        frame = frame.f_back
    return False


def _is_made_by_compiler(frame: FrameType | None) -> bool:
    """Say whether code on the way to this frame was made by PyTorch's compiler, which moves places."""
    while frame is not None:
        code = frame.f_code
        made = any(name.startswith(("__compiled_fn", "__resume_at")) for name in code.co_names)
        if made or code.co_name.startswith("torch_dynamo_resume_in"):
            return True
        frame = frame.f_back
    return False


def _apply(rational: nn.Module, x: Tensor) -> Tensor:
    # To torch.fx, x is no tensor, and not asked.
    return rational(x.unsqueeze(0)).squeeze(0) if isinstance(x, Tensor) and x.ndim == 0 else rational(x)


def _is_forward(frame: FrameType) -> bool:
    return frame.f_code is _forward_code


@functools.cache
def derived(kind: type[nn.Module]) -> type[nn.Module]:
    """Make the class of modules of this kind whose forward runs inside the mode."""

    @functools.wraps(kind.forward)
    def forward(self, *args, **kwargs):
        if self._call_sites is None:  # an instance that the model has made by its class
            return kind.forward(self, *args, **kwargs)
        if self._call_sites.order is None and torch.compiler.is_dynamo_compiling():
            return _uncompiled(self, *args, **kwargs)
        calls = _Calls(self)
        with calls:
            inner = self._own_forward
            y = kind.forward(self, *args, **kwargs) if inner is None else inner(*args, **kwargs)
        calls.check()
        return y

    def reduce(self, protocol):
        # Pickle cannot find a class that is made here: it is given the one that this comes from.
        make, args, *rest = kind.__reduce_ex__(self, protocol)
        args = tuple(kind if argument is type(self) else argument for argument in args)
        return (_remake, (kind, make, args), *rest)

    def fill(namespace: dict[str, Any]) -> None:
        namespace |= {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": reduce,
            "forward": forward,
            "_call_sites": None,
            "_own_forward": None,
        }

    return types.new_class(kind.__name__, (kind,), exec_body=fill)


_forward_code = derived(nn.Identity).forward.__code__  # the same for all kinds


def _remake(kind: type[nn.Module], make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    module = make(*args)
    object.__setattr__(module, "__class__", derived(kind))
    return module


@torch.compiler.disable
def _uncompiled(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.forward(*args, **kwargs)


class InPlaceRational(Rational):
    """Overwrite the input by R of it, as the activation did whose place it takes, and return it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.copy_(super().forward(x.clone()))


class ReplacedByCaller(nn.Module):
    """Stand where an activation was that is called several times: the modules that call it have the rationals.

    Called by anything else it computes what the activation did.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation: tuple[nn.Module] = (activation,)  # not a child: its parameters are used no more
        keep_hooks(activation, self)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_dynamo_compiling() and not any(
            isinstance(mode, _Calls) for mode in _get_current_function_mode_stack()
        ):
            warnings.warn(
                f"{self.activation[0]} is called where it was not on the data given to rationalize: this call stays "
                "what it was; give data that reaches it",
                stacklevel=2,
            )
        return self.activation[0].forward(x)

    def extra_repr(self) -> str:
        return repr(self.activation[0])


def keep_hooks(activation: nn.Module, successor: nn.Module) -> None:
    """Hang the hooks of an activation on what takes its place; their handles remove them there."""
    for name, value in vars(activation).items():
        if name.startswith(("_forward_", "_backward_", "_is_full_backward_hook")):
            vars(successor)[name] = value


def install(module: nn.Module, rationals: nn.ModuleList, sites: CallSites) -> None:
    """Let the forward of `module` compute these calls by these rationals; where all calls stay, it gets no child."""
    if len(rationals):
        module._modules[sites.child] = rationals
    vars(module)["_call_sites"] = sites
    if "forward" in vars(module):
        vars(module)["_own_forward"] = vars(module).pop("forward")
    object.__setattr__(module, "__class__", derived(type(module)))


def is_installed(module: nn.Module) -> bool:
    """Say whether calls of the module's forward are computed by rationals."""
    return "_call_sites" in vars(module)


def free_name(module: nn.Module) -> str:
    """Return a name for the child with the rationals that the module has not used."""
    name = "rationals"
    while hasattr(module, name):
        name += "_"
    return name
