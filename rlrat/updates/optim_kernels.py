"""Step Adam on a GPU and move targets, over flat buffers; optim.py is the definition and launches the kernels.

Every seed has the same number of elements, one row of the buffers for each of its critics, 128 bytes aligned: a thread
takes 16 bytes at once. What is one number for each seed is computed in float64, by the seed's last program: it is
little, and the norm of a gradient that can be clipped may have a square that does not fit into float32.
"""

import triton
import triton.language as tl

_LARGEST = tl.constexpr(3.4028234663852886e38)  # of float32
_PI = tl.constexpr(3.141592653589793)


@triton.jit
def _half_cosine(x):
    """Compute (1 + cos(pi x)) / 2 for x >= 0 in float64.

    Not by the library's cosine, whose way for large arguments takes memory of its own.
    """
    y = _PI * (tl.abs(x - 2.0 * tl.floor(0.5 * x + 0.5)) - 0.5)  # cos(pi x) = -sin(y), |y| <= pi / 2
    sine = y * 0.0 + 1.0
    for i in tl.static_range(9, 0, -1):
        sine = 1.0 - sine * (y * y) * (1.0 / (2 * i * (2 * i + 1)))
    return 0.5 - 0.5 * (y * sine)


@triton.jit
def _lerp(start, end, weight):
    """Compute start + weight (end - start) as torch.lerp does, exactly `end` at weight 1."""
    way = end - start
    return tl.where(tl.abs(weight) < 0.5, start + weight * way, end - way * (1.0 - weight))


@triton.jit(
    do_not_specialize=["programs", "seeds", "loss_stride", "schedule_stride", "loss_name", "gradient_name"],
    do_not_specialize_on_alignment=[
        *("ticket_ptr", "loss_ptr", "schedule_ptr", "settings_ptr", "factors_ptr", "steps_ptr", "alive_ptr"),
        *("update_ptr", "first_tensor_ptr", "first_update_ptr"),
    ],
)
def prepare_kernel(
    gradient_ptr, partial_ptr, ticket_ptr, loss_ptr, schedule_ptr, settings_ptr, factors_ptr, steps_ptr, alive_ptr,
    update_ptr, first_tensor_ptr, first_update_ptr,
    size, programs, seeds, loss_stride, schedule_stride, loss_name, gradient_name,
    log_beta1, log_beta2, eps, cosine_updates, warmup_updates,
    SCHEDULE: tl.constexpr, COSINE: tl.constexpr, WARMUP: tl.constexpr, DECOUPLED: tl.constexpr,
    SMALLEST_FACTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Find each seed's norm by `programs` programs; the last one checks the seed, counts its step and writes factors.

    gradient_ptr: `[S, size]`; partial_ptr: float64 `[S, programs]`; ticket_ptr: `[S]` zeros, which the kernel leaves as
    zeros; loss_ptr, schedule_ptr: `[S]` with a stride; settings_ptr: `[3, S]`, learning rate, decay and largest norm
    (infinite without clipping); factors_ptr: `[4, S]` for `update_kernel`: of the gradient (0 where the seed is dead),
    of the decay, of the step, and what is added to the root of the second moment; the rest are `Adam.steps` and the
    buffers of `SeedGuard`, `[S]`.
    """
    seed, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    index = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gradient = tl.load(gradient_ptr + seed.to(tl.int64) * size + index, index < size, 0.0).to(tl.float64)
    tl.store(partial_ptr + seed * programs + program, tl.sum(gradient * gradient, 0))
    tl.debug_barrier()  # every thread has stored before one of them takes the ticket
    if tl.atomic_add(ticket_ptr + seed, 1, sem="acq_rel") == programs - 1:
        LANES: tl.constexpr = 256
        lane = tl.arange(0, LANES)
        total = tl.zeros([LANES], tl.float64)
        for start in range(0, programs, LANES):  # read past the first cache, which is not coherent
            found = partial_ptr + seed * programs + start + lane
            total += tl.load(found, start + lane < programs, 0.0, cache_modifier=".cg")
        norm = tl.sqrt(tl.sum(total, 0))
        max_norm = tl.load(settings_ptr + 2 * seeds + seed).to(tl.float64)
        clip = tl.minimum(max_norm / (norm + 1e-6), 1.0)
        held = norm * clip
        loss = tl.load(loss_ptr + seed * loss_stride)
        finite_loss = tl.abs(loss) < float("inf")
        finite = finite_loss & (clip >= SMALLEST_FACTOR) & (held * held <= _LARGEST)  # not where one is NaN
        alive = tl.load(alive_ptr + seed)
        dies = alive & (finite == 0)
        tl.store(first_tensor_ptr + seed, tl.where(finite_loss, gradient_name, loss_name).to(tl.int64), dies)
        tl.store(first_update_ptr + seed, tl.load(update_ptr + seed), dies)
        tl.store(alive_ptr + seed, finite, dies)

        before = tl.load(steps_ptr + seed)
        tl.store(steps_ptr + seed, before + 1.0)
        done = before.to(tl.float64)
        rate = tl.load(settings_ptr + seed).to(tl.float64)
        if SCHEDULE:
            rate *= tl.load(schedule_ptr + seed * schedule_stride).to(tl.float64)
        if COSINE:
            rate *= _half_cosine(done / cosine_updates)
        if WARMUP:
            rate *= tl.minimum((done + 1.0) / warmup_updates, 1.0)
        # In float64 1 - beta^t keeps its digits.
        correction1 = 1.0 - tl.exp((done + 1.0) * log_beta1)
        root = tl.sqrt(1.0 - tl.exp((done + 1.0) * log_beta2))
        decay = tl.load(settings_ptr + seeds + seed).to(tl.float64)
        if DECOUPLED:
            decay *= rate
        tl.store(factors_ptr + seed, tl.where(alive & finite, clip, 0.0).to(tl.float32))
        tl.store(factors_ptr + seeds + seed, decay.to(tl.float32))
        tl.store(factors_ptr + 2 * seeds + seed, (rate * root / correction1).to(tl.float32))
        tl.store(factors_ptr + 3 * seeds + seed, (eps * root).to(tl.float32))
        tl.store(ticket_ptr + seed, 0)


@triton.jit(
    do_not_specialize=["tiles", "critics", "seeds", "rate_stride"],
    do_not_specialize_on_alignment=["factors_ptr", "rate_ptr"],
)
def update_kernel(
    parameter_ptr, gradient_ptr, first_ptr, second_ptr, target_ptr, scales_ptr, factors_ptr, rate_ptr,
    width, tiles, critics, seeds, rate_stride, rate, weight1, beta2, weight2,
    SCALED: tl.constexpr, DECAY: tl.constexpr, DECOUPLED: tl.constexpr, TARGET: tl.constexpr, RATES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Step BLOCK elements of a row in each program, and move the target's with TARGET; dead seeds stay as they are.

    All but scales_ptr, factors_ptr and rate_ptr: `[S * critics, width]`. scales_ptr: `[2, width]`, of the learning rate
    (used if SCALED) and of the decay; factors_ptr: of `prepare_kernel`; rate, or with RATES rate_ptr `[S]` with a
    stride: of the target; weight1 and weight2: 1 - beta.
    """
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    seed = row // critics
    clip = tl.load(factors_ptr + seed)
    if clip > 0.0:
        decay = tl.load(factors_ptr + seeds + seed)
        size = tl.load(factors_ptr + 2 * seeds + seed)
        floor = tl.load(factors_ptr + 3 * seeds + seed)
        column = tile * BLOCK + tl.arange(0, BLOCK)
        at, mask = row.to(tl.int64) * width + column, column < width
        gradient = tl.load(gradient_ptr + at, mask, 0.0) * clip
        parameter = tl.load(parameter_ptr + at, mask, 0.0)
        first, second = tl.load(first_ptr + at, mask, 0.0), tl.load(second_ptr + at, mask, 0.0)
        if SCALED:
            scale = tl.load(scales_ptr + column, mask, 0.0)
            size = size * scale
        if DECAY:
            decay = decay * tl.load(scales_ptr + width + column, mask, 0.0)
            if DECOUPLED:
                if SCALED:
                    decay = decay * scale
                parameter *= 1.0 - decay
            else:
                gradient += decay * parameter
        first = _lerp(first, gradient, weight1)
        second = beta2 * second + weight2 * gradient * gradient
        parameter -= size * tl.div_rn(first, tl.sqrt_rn(second) + floor)
        tl.store(first_ptr + at, first, mask)
        tl.store(second_ptr + at, second, mask)
        tl.store(parameter_ptr + at, parameter, mask)
        if TARGET:
            if RATES:
                rate = tl.load(rate_ptr + seed * rate_stride)
            tl.store(target_ptr + at, _lerp(tl.load(target_ptr + at, mask, 0.0), parameter, rate), mask)


@triton.jit(
    do_not_specialize=["tiles", "critics", "rate_stride"], do_not_specialize_on_alignment=["alive_ptr", "rate_ptr"]
)
def polyak_kernel(
    target_ptr, source_ptr, alive_ptr, rate_ptr, width, tiles, critics, rate_stride, rate,
    RATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move BLOCK elements of a row `[S * critics, width]` in each program; the targets of dead seeds stay."""
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    seed = row // critics
    if tl.load(alive_ptr + seed):
        if RATES:
            rate = tl.load(rate_ptr + seed * rate_stride)
        column = tile * BLOCK + tl.arange(0, BLOCK)
        at, mask = row.to(tl.int64) * width + column, column < width
        target = _lerp(tl.load(target_ptr + at, mask, 0.0), tl.load(source_ptr + at, mask, 0.0), rate)
        tl.store(target_ptr + at, target, mask)
