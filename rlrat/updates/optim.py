"""Adam and Polyak averaging over the seed axis, in one pass over flat buffers.

torch.optim.Adam takes one rate for all seeds, and clip_grad_norm_ mixes their gradients. Here each seed has its own
rate, decay and clipping, and is frozen on its own when it diverges.
"""

import functools
import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from rlrat.errors import InputError
from rlrat.rational import launching
from rlrat.updates.flat import Layout, flatten, separate
from rlrat.updates.trained_activations import trained_activations

SMALLEST_FACTOR = 1e-37
"""Of clipping: float32 holds it with all digits, and a margin is left."""
# Elements of a program of the kernels: 16 bytes four times and twice for each thread, for each buffer.
_REDUCE_BLOCK, _UPDATE_BLOCK = 2048, 1024


class SeedGuard(nn.Module):
    """Knows which seeds are alive: freezes a seed at its first non-finite loss or gradient, and lets the others go on.

    A gradient counts as non-finite, too, if its square is. Everything stays on the device until `report` reads it. The
    learner adds 1 to `update` when an update begins. `names` are the tensors that may be found not finite; each
    optimizer adds its own when it is made.
    """

    EVALUATION = "return of an evaluation"

    alive: Tensor
    update: Tensor
    first_tensor: Tensor
    first_update: Tensor

    def __init__(self, num_seeds: int) -> None:
        super().__init__()
        self.names: list[str] = [self.EVALUATION]
        self.register_buffer("alive", torch.ones(num_seeds, dtype=torch.bool))
        self.register_buffer("update", torch.zeros(num_seeds, dtype=torch.int64))
        self.register_buffer("first_tensor", torch.full((num_seeds,), -1))
        self.register_buffer("first_update", torch.full((num_seeds,), -1))

    def check(self, name: str, values: Tensor) -> Tensor:
        """Freeze the seeds whose `values` `[S]` are not finite and remember the first such `name`; return `alive`.

        Raises:
            ValueError: a name that is not in `names`.
        """
        finite = values * 0.0 == 0.0  # torch.isfinite is twice as many operations
        dies = self.alive > finite
        self.first_tensor.masked_fill_(dies, self.names.index(name))
        torch.where(dies, self.update, self.first_update, out=self.first_update)
        self.alive.logical_and_(finite)
        return self.alive

    def freeze(self, dies: Tensor, update: int) -> None:
        """Freeze the seeds of `dies` `[S]`: their evaluation after `update` was not finite, whatever they met since."""
        dies = dies.to(self.alive.device)
        self.first_tensor.masked_fill_(dies, self.names.index(self.EVALUATION))
        self.first_update.masked_fill_(dies, update)
        self.alive.masked_fill_(dies, False)

    def report(self) -> list[tuple[str, int] | None]:
        """Return None for each seed, or the name of its first non-finite tensor and the update (from 1) that met it."""
        columns = zip(self.alive.tolist(), self.first_tensor.tolist(), self.first_update.tolist(), strict=True)
        return [None if alive else (self.names[tensor], update) for alive, tensor, update in columns]


class Adam(nn.Module):
    """Adam (Kingma & Ba 2015) for S seeds side by side; with `decoupled`, AdamW (Loshchilov & Hutter 2019).

    On a GPU a step, a target network's included, is three launches: one joins the gradients, two are of
    optim_kernels.py.

    Args:
        network: has a `batch_shape` whose first axis is S; its parameters are moved into one flat buffer.
        learning_rate, weight_decay, max_norm: one number, or one for each seed, in any shape. `max_norm` clips the norm
            of a seed's gradient over the whole network (all its critics together). A seed also diverges at a finite
            gradient for which float32 has no step: its norm is above 1.8e19 or, with `max_norm`, above 1e37 times that.
        undecayed: modules whose parameters `weight_decay` leaves alone, besides `trained_activations`.
        rational_rate_scale: multiplies the learning rate of `trained_activations` alone: of rational coefficients.
        cosine_updates: the number of steps over which the learning rate falls to 0, see `cosine`.
        warmup_updates: the number of steps over which the learning rate grows to its full size, by the same in each.
        guard, name: `guard` checks the loss and the gradient of each seed under this name.
    """

    betas: tuple[float, float]
    eps: float
    decoupled: bool
    name: str
    cosine_updates: int | None
    warmup_updates: int | None
    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float | Sequence[float],
        *,
        guard: SeedGuard,
        name: str,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Sequence[float] = 0.0,
        decoupled: bool = False,
        undecayed: Iterable[nn.Module] = (),
        max_norm: float | Sequence[float] | None = None,
        rational_rate_scale: float = 1.0,
        cosine_updates: int | None = None,
        warmup_updates: int | None = None,
    ) -> None:
        super().__init__()
        self.betas, self.eps, self.decoupled, self.name = betas, eps, decoupled, name
        self.cosine_updates, self.warmup_updates = cosine_updates, warmup_updates
        self._parameters_in_order = tuple(network.parameters())
        # In tuples: their tensors belong to the learner, not to each optimizer.
        self._guard, self._network = (guard,), (network,)
        # Here and not at the first step, which may be compiled with them.
        guard.names += [f"{name} loss", f"{name} gradient"]
        self.flat: Tensor = flatten(network)
        self._layout = Layout(self._parameters_in_order, network.batch_shape)
        device, seeds, rows = self.flat.device, self.flat.shape[0], math.prod(network.batch_shape)
        self._gradient = torch.zeros_like(self.flat)  # padding stays zero

        def per_seed(value: float | Sequence[float]) -> Tensor:
            values = torch.as_tensor(value, dtype=torch.float32, device=device)
            return values.reshape(-1).expand(seeds).unsqueeze(-1)

        trained = trained_activations(network).values()
        coefficients = {id(p) for module in trained for p in module.parameters()}
        apart = coefficients | {id(p) for module in undecayed for p in module.parameters()}
        self._scales = [rational_rate_scale if id(p) in coefficients else 1.0 for p in self._parameters_in_order]
        self._decays = [id(p) not in apart for p in self._parameters_in_order]
        self._scaled, self._decaying = rational_rate_scale != 1.0, bool(torch.as_tensor(weight_decay).any())
        self._seed_rate, self._seed_decay = per_seed(learning_rate), per_seed(weight_decay)
        self._max_norm = None if max_norm is None else per_seed(max_norm)
        # beta^t through expm1: 1 - 0.999^t keeps its digits in float32.
        logs = [math.log(beta) if beta else -math.inf for beta in betas]
        self._log_betas = torch.tensor(logs, device=device)
        self.register_buffer("first_moment", torch.zeros_like(self.flat))
        self.register_buffer("second_moment", torch.zeros_like(self.flat))
        self.register_buffer("steps", torch.zeros(seeds, device=device))  # float32, as PyTorch's kernel wants
        # For torch.compile: tensors that share memory with the buffers, but are no views of them to autograd.
        moments = (separate(self._layout.pieces(moment)) for moment in (self.first_moment, self.second_moment))
        self._by_parameter = list(zip(self._parameters_in_order, *moments, self._scales, self._decays, strict=True))
        self._ones = torch.ones(seeds, device=device)
        self._shared = torch.empty(4, seeds, device=device)
        self._in_kernels = launching.takes(self.flat)
        if self._in_kernels:
            from rlrat.updates import optim_kernels

            self._kernels, self._log_beta_numbers = optim_kernels, logs
            largest = torch.full_like(self._seed_rate, math.inf) if self._max_norm is None else self._max_norm
            self._settings = torch.cat([self._seed_rate, self._seed_decay, largest], dim=1).T.contiguous()
            self._row_scales = torch.stack([self._layout.expand(v, device) for v in (self._scales, self._decays)])
            self._names = [guard.names.index(f"{name} {tensor}") for tensor in ("loss", "gradient")]
            self._programs = -(-self.flat[0].numel() // _REDUCE_BLOCK)  # of each seed
            self._partials = torch.empty(seeds * self._programs, dtype=torch.float64, device=device)
            return
        self._rate = self._seed_rate
        if self._scaled:
            self._rate = self._rate * self._layout.expand(self._scales, device).repeat(rows // seeds)
        if self._decaying:
            self._decay = self._seed_decay * self._layout.expand(self._decays, device).repeat(rows // seeds)
        # PyTorch's own kernel passes over memory once instead of seven times, which saves 5% of an IQL update on 2
        # cores. It takes one rate a call: this pays on a CPU, where a call for each seed costs little.
        self._fused = device.type == "cpu" and self._rate.shape[1] == 1
        self._gradients = self._layout.pieces(self._gradient)
        # Views made once, which saves 3% of an IQL update: `[S, parameters of a seed]`, and each seed's row of them.
        tensors = (self.flat, self._gradient, torch.empty_like(self.flat), self.first_moment, self.second_moment)
        self._flattened = tuple(tensor.flatten(1) for tensor in tensors)
        flat, gradient, _, first, second = self._flattened
        self._rows = list(zip(flat, gradient, first, second, self.steps, strict=True))
        self._rates = self._rate.squeeze(1).unbind() if self._fused else ()

    @property
    def guard(self) -> SeedGuard:
        """Return what freezes the seeds whose loss or gradient is not finite."""
        return self._guard[0]

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """Leave the padding out: what is saved on one device is loaded on another."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("first_moment", "second_moment"):
            destination[prefix + name] = self._layout.pack(destination[prefix + name])

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        for name in ("first_moment", "second_moment"):
            if (saved := state_dict.get(prefix + name)) is not None:
                state_dict[prefix + name] = self._layout.unpack(saved)
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def step(
        self,
        loss: Tensor,
        schedule: Tensor | None = None,
        gradients: Sequence[Tensor] | None = None,
        target: nn.Module | None = None,
        polyak: float | Tensor = 0.0,
    ) -> None:
        """Minimise `loss` `[S]` by one step.

        Args:
            loss: of each seed.
            schedule: `[S, 1]`, multiplies the learning rate.
            gradients: of the sum of `loss`, in the order of the network's parameters, where they are known already.
            target: a network that then moves towards the optimizer's, as `polyak_` does, for the seeds that are alive
                after this step; on a GPU this is no launch more.
            polyak: its rate, one number, or `[S, 1]`.

        Raises:
            InputError: the network was moved to another device, or is a copy: the step would not reach its parameters.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling and self._parameters_in_order[0].data_ptr() != self.flat.data_ptr():
            raise InputError(
                f"the optimizer {self.name} does not reach its network, which was moved or copied since: make "
                "optimizers after learner.to(device), and a learner anew instead of a copy"
            )
        if gradients is None:
            gradients = torch.autograd.grad(loss, self._parameters_in_order, self._ones)
        loss = loss.detach()
        if self._in_kernels and not compiling:
            # Of another layout it would be read past its end.
            fused = target if target is not None and _moves_in_kernels(_flat(target), self.flat) else None
            self._step_in_kernels(loss, schedule, gradients, fused, polyak)
            target = None if fused is target else target
        else:
            schedule = self._scheduled(schedule)
            self.steps += 1
            (self._step_by_parameter if compiling else self._step)(loss, schedule, gradients)
        if target is not None:
            polyak_(target, self._network[0], polyak, self._guard[0].alive)

    def _scheduled(self, schedule: Tensor | None) -> Tensor | None:
        """Return the factor `[S, 1]` of the next step's learning rate, or None where that is 1."""
        factors = [] if schedule is None else [schedule]
        if self.cosine_updates is not None:
            factors.append(cosine(self, self.cosine_updates))
        if self.warmup_updates is not None:
            factors.append(((self.steps + 1) / self.warmup_updates).clamp(max=1.0).unsqueeze(-1))
        return functools.reduce(operator.mul, factors) if factors else None

    def _step(self, loss: Tensor, schedule: Tensor | None, gradients: Sequence[Tensor]) -> None:
        """Step in operations of PyTorch over the flat buffers."""
        torch._foreach_copy_(self._gradients, gradients)
        flat, gradient, scratch, first, second = self._flattened
        guard = self._guard[0]
        guard.check(f"{self.name} loss", loss)
        # The norm is finite only if every element is, and takes a fifth of the time that the largest element does. With
        # clipping it is float64: a gradient that can be clipped may have a square that does not fit into float32.
        if self._max_norm is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
        elif len(gradient) == 1:  # the norm's square, in a third of the time on a CPU
            norm = gradient[0].dot(gradient[0]).unsqueeze(0)
        else:
            norm = torch.linalg.vector_norm(gradient, dim=1)
        factor, norm = self._clipping(norm, gradient.dtype)
        alive = guard.check(f"{self.name} gradient", norm)
        if factor is not None:
            gradient.mul_(factor.unsqueeze(-1))
        if not self._fused:
            gradient.masked_fill_(~alive.unsqueeze(-1), 0.0)  # zero times NaN would be NaN
        rate = self._rate if schedule is None else self._rate * schedule
        if self._decaying:
            if self.decoupled:
                flat.mul_(1.0 - rate * alive.unsqueeze(-1) * self._decay)
            else:
                gradient.addcmul_(flat, self._decay)

        beta1, beta2 = self.betas
        if self._fused:
            dead = (~alive).float()
            rates = self._rates if schedule is None else rate.squeeze(1).unbind()
            for (p, g, m, v, step), lr, found_inf in zip(self._rows, rates, dead.unbind(), strict=True):
                torch._fused_adam_(
                    [p], [g], [m], [v], [], [step], lr=lr, beta1=beta1, beta2=beta2, eps=self.eps, weight_decay=0.0,
                    amsgrad=False, maximize=False, found_inf=found_inf,
                )  # fmt: skip
            return
        first.lerp_(gradient, 1.0 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        # Algorithm 1 of the paper, the bias corrections 1 - beta^t moved to factors [S, 1].
        correction1, correction2 = torch.expm1(self.steps.unsqueeze(-1) * self._log_betas).neg_().split(1, dim=-1)
        root = correction2.sqrt()
        torch.sqrt(second, out=scratch).add_(self.eps * root)
        flat.addcmul_(
            torch.div(first, scratch, out=scratch), rate * alive.unsqueeze(-1) * (root / correction1), value=-1.0
        )

    def _clipping(self, norm: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """Return the factors `[S]` of gradients with these norms (None without clipping), and numbers for the guard.

        The numbers are finite where a step can be made: where both the second moment and the factor fit into float32.
        Without `max_norm` the norm itself says so, as its squares are summed in float32.
        """
        if self._max_norm is None:
            return None, norm
        factor = (self._max_norm.squeeze(1) / (norm + 1e-6)).clamp(max=1.0)
        square = torch.where(factor < SMALLEST_FACTOR, torch.inf, (norm * factor).square())
        return factor.to(dtype), square.to(dtype)

    def _step_in_kernels(
        self,
        loss: Tensor,
        schedule: Tensor | None,
        gradients: Sequence[Tensor],
        target: nn.Module | None,
        polyak: float | Tensor,
    ) -> None:
        """Do the same in three launches; a dead seed's moments stay as they are, too."""
        device, guard, seeds = self.flat.device, self._guard[0], len(loss)
        size, programs, factors = self.flat[0].numel(), self._programs, self._shared
        given = None if schedule is None else schedule.expand(seeds, 1)
        self._layout.join(gradients, out=self._gradient)
        launching.launch(
            self._kernels.prepare_kernel, seeds * programs,
            self._gradient, self._partials, launching.tickets(device).take(seeds), loss,
            factors if given is None else given, self._settings, factors, self.steps, guard.alive, guard.update,
            guard.first_tensor, guard.first_update, size, programs, seeds, loss.stride(0),
            0 if given is None else given.stride(0), *self._names, *self._log_beta_numbers, float(self.eps),
            float(self.cosine_updates or 1), float(self.warmup_updates or 1),
            device=device, SCHEDULE=given is not None, COSINE=self.cosine_updates is not None,
            WARMUP=self.warmup_updates is not None, DECOUPLED=self.decoupled,
            SMALLEST_FACTOR=SMALLEST_FACTOR, BLOCK=_REDUCE_BLOCK,
        )  # fmt: skip
        width, rows = self.flat.shape[-1], self.flat.numel() // self.flat.shape[-1]
        tiles, (beta1, beta2) = -(-width // _UPDATE_BLOCK), self.betas
        rates, *rate = _rates(polyak, seeds, factors)
        launching.launch(
            self._kernels.update_kernel, rows * tiles,
            self.flat, self._gradient, self.first_moment, self.second_moment,
            self.flat if target is None else target.flat, self._row_scales, factors, rates,
            width, tiles, rows // seeds, seeds, *rate, 1.0 - beta1, float(beta2), 1.0 - beta2,
            device=device, SCALED=self._scaled, DECAY=self._decaying, DECOUPLED=self.decoupled,
            TARGET=target is not None, RATES=rates is not factors, BLOCK=_UPDATE_BLOCK,
        )  # fmt: skip

    def _step_by_parameter(self, loss: Tensor, schedule: Tensor | None, gradients: Sequence[Tensor]) -> None:
        """Do the same in operations of which torch.compile makes one pass over memory."""
        seeds, guard = len(loss), self._guard[0]
        guard.check(f"{self.name} loss", loss)
        wide = gradients[0].dtype if self._max_norm is None else torch.float64
        norm = sum(g.reshape(seeds, -1).to(wide).square().sum(1) for g in gradients).sqrt()
        factor, norm = self._clipping(norm, gradients[0].dtype)
        alive = guard.check(f"{self.name} gradient", norm)
        factor = torch.ones_like(loss) if factor is None else factor
        rate = (self._seed_rate if schedule is None else self._seed_rate * schedule).squeeze(1) * alive
        beta1, beta2 = self.betas
        correction1, correction2 = torch.expm1(self.steps.unsqueeze(-1) * self._log_betas).neg_().unbind(-1)
        root = correction2.sqrt()
        # Stored: else the loops compute for every 16 elements again what all elements of a seed share.
        decay = (rate if self.decoupled else alive) * self._seed_decay.squeeze(1)
        shared = factor * alive, rate * root / correction1, self.eps * root, decay
        self._shared.copy_(torch.stack(shared))
        for (parameter, first, second, scale, decays), gradient in zip(self._by_parameter, gradients, strict=True):
            factor, size, floor, decay = self._shared.view(len(shared), seeds, *[1] * (parameter.ndim - 1)).unbind()
            g = torch.where(factor > 0.0, gradient * factor, 0.0)
            p = parameter
            if self._decaying and decays:
                if self.decoupled:
                    p = p * (1.0 - scale * decay)
                else:
                    g = g + decay * parameter
            m = torch.lerp(first, g, 1.0 - beta1)
            v = beta2 * second + (1.0 - beta2) * g * g
            p = p - scale * size * m / (v.sqrt() + floor)
            for old, new in ((first, m), (second, v), (parameter, p)):  # last, so that it is one pass over memory
                old.copy_(new)


def cosine(optimizer: Adam, total_updates: int) -> Tensor:
    """Return the factor `[S, 1]` of the next step's learning rate: 1 at the first step, 0 after `total_updates`."""
    return 0.5 * (1.0 + torch.cos(math.pi * optimizer.steps / total_updates)).unsqueeze(-1)


@torch.no_grad()
def polyak_(target: nn.Module, source: nn.Module, rate: float | Tensor, alive: Tensor) -> None:
    """Move `target` towards `source`, for the seeds that are `alive` `[S]`: target <- target + rate (source - target).

    Both are networks that `flatten` has seen; an optimizer's network has been. `rate` is one number, or `[S, 1]`.

    Raises:
        InputError: a network that `flatten` has not seen.
    """
    ours, theirs = _flat(target), _flat(source)
    if torch.compiler.is_compiling():
        rates = rate * alive.unsqueeze(1)
        for part, other in zip(target.parameters(), source.parameters(), strict=True):
            part.lerp_(other, rates.view(-1, *[1] * (part.ndim - 1)))
    elif _moves_in_kernels(ours, theirs):
        from rlrat.updates.optim_kernels import polyak_kernel

        width, rows = ours.shape[-1], ours.numel() // ours.shape[-1]
        tiles = -(-width // _UPDATE_BLOCK)
        rates, stride, number = _rates(rate, len(ours), ours)
        launching.launch(
            polyak_kernel, rows * tiles, ours, theirs, alive, rates, width, tiles, rows // len(ours), stride, number,
            device=ours.device, RATES=rates is not ours, BLOCK=_UPDATE_BLOCK,
        )  # fmt: skip
    else:
        ours.lerp_(theirs, (rate * alive.unsqueeze(1)).view(-1, *[1] * (ours.ndim - 1)))


def _flat(network: nn.Module) -> Tensor:
    if not hasattr(network, "flat"):
        raise InputError(
            "polyak_ moves networks that `rlrat.updates.flatten` has seen, as `Adam` has its own: call it with the "
            "target, after learner.to(device)"
        )
    return network.flat


def _moves_in_kernels(target: Tensor, source: Tensor) -> bool:
    return launching.takes(target, source) and (target.device, target.shape) == (source.device, source.shape)


def _rates(rate: float | Tensor, seeds: int, otherwise: Tensor) -> tuple[Tensor, int, float]:
    """Return a kernel's rates, `[S, 1]` or else the tensor `otherwise`, their stride, and the one number."""
    if not isinstance(rate, Tensor):
        return otherwise, 0, float(rate)
    rates = rate.expand(seeds, 1)
    return rates, rates.stride(0), 0.0
