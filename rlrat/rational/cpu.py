"""The rational activation on a CPU, by the C kernels of cpu.c; `unavailable` says why there are none."""

import ctypes
import importlib.util
import math
import warnings

import torch
from torch import Tensor

from .layout import empty_output, is_flat, rows_of

MAX_DEGREE = 8  # MAX_TERMS in cpu.c
_THREADED = 32_768  # elements from which on a second thread pays, as in torch's own elementwise operations

_WIDE = {torch.float32: 0, torch.float64: 1}  # whether the kernels compute in double
_pointer, _int64, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    spec = importlib.util.find_spec(f"{__package__}._cpu")
    if spec is None or spec.origin is None:
        return None, "the C kernels were not built: install again where there is a C compiler (gcc or clang)"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        return None, f"the C kernels cannot be loaded: {error}"
    library.rational_forward.argtypes = [_pointer] * 4 + [_int64] * 6 + [_int] * 5
    library.rational_forward.restype = None
    library.rational_backward.argtypes = [_pointer] * 7 + [_int64] * 8 + [_int] * 5
    library.rational_backward.restype = _int
    library.rational_instructions.restype = ctypes.c_char_p
    # torch's own OpenMP runtime, so that there is one pool of threads; without it the kernels use one thread.
    pool = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    library.rational_pool.argtypes = [_pointer]
    library.rational_pool(ctypes.cast(pool, _pointer) if pool is not None else None)
    return library, None


_library, unavailable = _load()


def instructions() -> str:
    """The instruction set in use: avx512, avx2 or baseline."""
    return _library.rational_instructions().decode()


def choose_instructions(level: int) -> str:
    """For tests: 0 baseline, 1 avx2, 2 avx512 (or the best that there is), -1 the best; returns its name."""
    _library.rational_choose(level)
    return instructions()


def warn_if_unavailable() -> None:
    """One warning in a process that computes rationals on a CPU without the kernels."""
    global _warned
    if unavailable is not None and not _warned:
        _warned = True
        warnings.warn(f"rational activations run on plain PyTorch, several times slower: {unavailable}", stacklevel=4)


_warned = False


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: str, out: Tensor | None = None) -> Tensor:
    """R(x), in `out` if that is given (of x's shape, type and strides)."""
    if x.dtype not in _WIDE:
        return forward(x.float(), numerator, denominator, version).to(x.dtype)
    y = empty_output(x, numerator) if out is None else out
    if x.numel():
        x, a, b, sizes, strides, rest = _arguments(x, numerator, denominator, version)
        _library.rational_forward(
            x.data_ptr(), y.data_ptr(), a.data_ptr(), b.data_ptr(), *sizes, *strides, *rest, _threads(x)
        )
    return y


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, numerator and denominator."""
    if x.dtype not in _WIDE:
        dx, da, db = backward(grad.float(), x.float(), numerator, denominator, version)
        return dx.to(x.dtype), da, db
    dx = empty_output(x, numerator)
    if x.numel() == 0:
        return dx, torch.zeros_like(numerator), torch.zeros_like(denominator)
    if grad.stride() != x.stride() and is_flat(x, numerator):
        grad = torch.empty_like(x).copy_(grad)  # the same memory order
    x, a, b, sizes, x_strides, rest = _arguments(x, numerator, denominator, version)
    if grad.stride() == x.stride():
        grad_strides = x_strides
    else:
        grad, *grad_strides = rows_of(grad, numerator.ndim - 2)
    da, db = torch.empty_like(a), torch.empty_like(b)
    failed = _library.rational_backward(
        grad.data_ptr(), x.data_ptr(), dx.data_ptr(), da.data_ptr(), db.data_ptr(), a.data_ptr(), b.data_ptr(),
        *sizes, *grad_strides, *x_strides, *rest, _threads(x),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the partial sums of a rational activation's gradient")
    if a.dtype != numerator.dtype or b.dtype != denominator.dtype:
        return dx, da.to(numerator.dtype), db.to(denominator.dtype)
    return dx, da, db


_contiguous: dict[tuple, tuple] = {}  # sizes, strides and the rest for what is called again and again


def _arguments(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> tuple:
    """x, a, b, copies of them where need be; (batch, rows, groups, width); strides of batch and rows; the rest."""
    key = (x.shape, numerator.shape, denominator.shape, version, x.dtype)
    a = numerator if numerator.dtype == x.dtype else numerator.to(x.dtype)
    b = denominator if denominator.dtype == x.dtype else denominator.to(x.dtype)
    if not (a.is_contiguous() and b.is_contiguous()):
        a, b = a.contiguous(), b.contiguous()
    contiguous = x.is_contiguous()
    if contiguous and key in _contiguous:
        return x, a, b, *_contiguous[key]
    rest = (a.shape[-1] - 1, b.shape[-1] - (version == "C"), ord(version), _WIDE[x.dtype])
    if is_flat(x, numerator):
        sizes, strides = (1, 1, 1, x.numel()), (0, 0)
    else:
        batch_dims, groups = numerator.ndim - 2, numerator.shape[-2]
        x, *strides = rows_of(x, batch_dims)
        batch, features = math.prod(x.shape[:batch_dims]), x.shape[-1]
        sizes = (batch, x.numel() // (batch * features), groups, features // groups)
    if contiguous:
        if len(_contiguous) > 1000:
            _contiguous.clear()
        _contiguous[key] = sizes, strides, rest
    return x, a, b, sizes, strides, rest


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= _THREADED else 1


def supports(numerator: Tensor, denominator: Tensor) -> bool:
    """Whether the degrees are ones that the kernels know."""
    return max(numerator.shape[-1], denominator.shape[-1]) <= MAX_DEGREE + 1
