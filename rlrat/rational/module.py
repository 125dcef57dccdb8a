"""The rational activation as a module, and the swap of a model's activations for it."""

import torch
from torch import Tensor, nn

from .op import rational
from .reference import derivative
from .table import Fit, Function, find

# Elementwise and deterministic. nn.Identity is not here: in models it stands for "nothing", not for an activation.
ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink,
)  # fmt: skip


class Rational(nn.Module):
    """A learnable activation R(x) = P(x) / Q(x), applied to x `[*batch_shape, ..., features]` element by element.

    Args:
        init: what R approximates at first: a name (`rlrat.rational.FUNCTIONS`), an elementwise PyTorch function or
            module, or a `Fit`, whose degrees and version must then be the ones given here.
        degrees: (m, n), of P and Q.
        version: the form of Q, "A", "B", "C" or "N"; see `rlrat.rational.reference`.
        groups: the features are split into this many equal groups with coefficients of their own.
        batch_shape: leading axes of x (seeds, critics) whose entries have coefficients of their own.

    The parameters `numerator` `[*batch_shape, groups, m + 1]` and `denominator` `[*batch_shape, groups, n]` (version C:
    n + 1) are float32, and R is computed in float32 whatever the type of x (float64: in float64). `interval` is where R
    was fitted. Applying the module raises what `rational` raises.

    Raises:
        ValueError: an unknown name or version, degrees or groups that are not possible, a function that is not
            elementwise.
    """

    def __init__(
        self,
        init: str | Function | Fit = "relu",
        degrees: tuple[int, int] = (5, 4),
        version: str = "A",
        groups: int = 1,
        batch_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        fit = init if isinstance(init, Fit) else find(init, degrees, version)
        if (fit.degrees, fit.version) != (tuple(degrees), version):
            raise ValueError(f"the fit is of degrees {fit.degrees}, version {fit.version}, not {degrees}, {version}")
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups must be an integer >= 1, not {groups!r}")
        self.degrees, self.version, self.groups, self.batch_shape = fit.degrees, version, groups, tuple(batch_shape)
        self.interval = fit.interval
        self._init_name = init if isinstance(init, str) else getattr(init, "__name__", type(init).__name__)
        shape = (*self.batch_shape, groups, -1)
        self.numerator = nn.Parameter(torch.tensor(fit.numerator, dtype=torch.float32).expand(shape).clone())
        self.denominator = nn.Parameter(torch.tensor(fit.denominator, dtype=torch.float32).expand(shape).clone())

    def forward(self, x: Tensor) -> Tensor:
        return rational(x, self.numerator, self.denominator, self.version)

    def derivative(self, x: Tensor) -> Tensor:
        """dR/dx at every element of x, without a graph."""
        return derivative(x, self.numerator, self.denominator, self.version)

    @torch.no_grad()
    def asymptotic_slope(self) -> Tensor:
        """The limit of R(x) / x as x goes to +infinity, `[*batch_shape, groups]`.

        With a_m and b_n the last coefficients that are not zero it is a_m / |b_n| (version N: a_m / b_n) if m = n + 1,
        zero if m is smaller, infinite if m is larger. Towards -infinity versions A, B and C have (-1)^n times that
        where m = n + 1.
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

    def extra_repr(self) -> str:
        text = f"init={self._init_name}, degrees={self.degrees}, version={self.version}, groups={self.groups}"
        return text + (f", batch_shape={self.batch_shape}" if self.batch_shape else "")


def rationalize(module: nn.Module, degrees: tuple[int, int] = (5, 4), version: str = "A") -> nn.Module:
    """Replace every activation module (`ACTIVATIONS`) inside `module` by a `Rational` fitted to it, settings included.

    Works in place and returns `module`; if `module` is itself an activation, returns its `Rational`. A module found at
    several places is replaced by one `Rational` at all of them. The new parameters are on the device of the model's
    first one; give an optimizer its parameters after this call. Activations that a forward method calls as functions
    cannot be seen. If anything is raised, the model is as it was.

    Raises:
        ValueError: an nn.PReLU with several slopes, which no single rational approximates; wrong degrees or version.
    """
    device = next((parameter.device for parameter in module.parameters()), None)
    replacements: dict[nn.Module, Rational] = {}
    places = []
    for path, child in module.named_modules(remove_duplicate=False):
        if type(child) not in ACTIVATIONS:
            continue
        if isinstance(child, nn.PReLU) and child.num_parameters > 1:
            raise ValueError(f"{path or 'module'} is an nn.PReLU with {child.num_parameters} slopes, one is possible")
        if child not in replacements:
            replacements[child] = Rational(child, degrees, version).to(device).train(child.training)
        places.append((path, replacements[child]))
    for path, replacement in places:
        if not path:
            return replacement
        module.set_submodule(path, replacement)
    return module
