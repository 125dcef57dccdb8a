"""Triton's interpreter, without what it does anew at every call."""

import functools
import math
import operator

import numpy as np
import pytest

try:
    from triton.runtime import interpreter
except ImportError:  # no Triton, whose tests are left out
    interpreter = None


@pytest.fixture(scope="module", autouse=True)
def _quick_interpreter():
    """Interpret kernels in half the time; modules elsewhere, and their conftest.py, import it."""
    with pytest.MonkeyPatch.context() as patch:
        if interpreter is not None:
            _replace_language_once(patch)
            _check_overflows_in_numpy(patch)
            _look_shapes_up(patch)
        yield


def _replace_language_once(patch: pytest.MonkeyPatch) -> None:
    """Have a launch replace `triton.language`'s functions once, instead of at every function that its kernel calls.

    What is replaced once is replaced until the launch ends, and looking for it takes 40% of the interpreter's time.
    """
    if not all(hasattr(interpreter, name) for name in ("_patch_lang", "GridExecutor", "tl")):
        return
    language = (interpreter.tl, interpreter.tl.core)
    replace, launch, seen = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def replace_once(function):
        names = tuple(any(value is one for value in function.__globals__.values()) for one in language)
        if names in seen:
            return None
        seen.add(names)
        return replace(function)

    def launch_anew(self, *arguments, **settings):
        seen.clear()
        return launch(self, *arguments, **settings)

    patch.setattr(interpreter, "_patch_lang", replace_once)
    patch.setattr(interpreter.GridExecutor, "__call__", launch_anew)


def _check_overflows_in_numpy(patch: pytest.MonkeyPatch) -> None:
    """Have the interpreter look for overflows of integers in NumPy, not in operations that it interprets, too."""
    semantic = getattr(interpreter, "interpreter_semantic", None)
    if not hasattr(semantic, "binary_op_sanitize_overflow_impl"):
        return

    def check(left, right, operation):
        kind = left.type.scalar
        assert kind == right.type.scalar
        assert kind.is_int()
        if kind.int_bitwidth < 64:
            exact = getattr(operator, operation.__name__)(*(t.handle.data.astype(np.int64) for t in (left, right)))
            assert (exact >= kind.get_int_min_value()).all(), f"{kind} overflow"
            assert (exact <= kind.get_int_max_value()).all(), f"{kind} overflow"

    patch.setattr(semantic, "binary_op_sanitize_overflow_impl", check)


def _look_shapes_up(patch: pytest.MonkeyPatch) -> None:
    """Have the interpreter broadcast no tensors of equal shapes, and make a shape, and a table of types, once."""
    semantic = getattr(interpreter, "interpreter_semantic", None)
    if not all(hasattr(semantic, name) for name in ("broadcast_impl_value", "tensor")):
        return
    if not hasattr(interpreter, "_get_np_dtype"):
        return
    core, broadcast = interpreter.tl.core, semantic.broadcast_impl_value
    pointers, look_up = np.dtype(np.uint64), functools.cache(interpreter._get_np_dtype)

    def broadcast_others(left, right):
        if left.type.is_block() and right.type.is_block() and [*left.type.shape] == [*right.type.shape]:
            return left, right
        return broadcast(left, right)

    def numpy_type(kind):
        return pointers if kind.scalar.is_ptr() else look_up(kind.scalar)

    @functools.cache
    def shape_and_size(sizes):
        return core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))

    def make(self, handle, type):
        core.base_value.__init__(self)
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shape_and_size((*type.shape,) if type.is_block() else ())

    patch.setattr(semantic, "broadcast_impl_value", broadcast_others)
    patch.setattr(interpreter, "_get_np_dtype", numpy_type)
    patch.setattr(semantic.tensor, "__init__", make)
