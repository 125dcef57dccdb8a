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
    """Interpret kernels in a third of the time; modules elsewhere, and their conftest.py, import it."""
    with pytest.MonkeyPatch.context() as patch:
        if interpreter is not None:
            _replace_language_once(patch)
            _check_overflows_in_numpy(patch)
            _look_shapes_up(patch)
            _call_at_once(patch)
            _promote_what_differs(patch)
        yield


def _replace_language_once(patch: pytest.MonkeyPatch) -> None:
    """Have a launch replace `triton.language`'s functions once, instead of at every function that its kernel calls.

    What is replaced once is replaced until the launch ends, and looking for it takes 40% of the interpreter's time.
    """
    if not all(hasattr(interpreter, name) for name in ("_patch_lang", "GridExecutor", "tl")):
        return
    language = (interpreter.tl, interpreter.tl.core)
    replace, launch, seen = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    @functools.cache
    def named(function):
        return tuple(any(value is one for value in function.__globals__.values()) for one in language)

    def replace_once(function):
        names = named(function)
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
    """Have the interpreter broadcast no tensors of equal shapes, and make a shape, and tables of types, once."""
    semantic = getattr(interpreter, "interpreter_semantic", None)
    if not all(hasattr(semantic, name) for name in ("broadcast_impl_value", "tensor")):
        return
    if not hasattr(interpreter, "_get_np_dtype"):
        return
    core, broadcast = interpreter.tl.core, semantic.broadcast_impl_value
    check_block = core.block_type.__init__
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

    @functools.cache
    def shape_and_more(sizes, element):
        kind = core.block_type.__new__(core.block_type)
        check_block(kind, core.int32, [*sizes])
        return kind.shape, kind.numel, f"<{kind.shape}, {element}>"

    def make_block(self, element, shape):
        self.element_ty = element
        sizes = tuple([getattr(size, "value", size) for size in shape])
        self.shape, self.numel, self.name = shape_and_more(sizes, element.name)

    patch.setattr(core.block_type, "__init__", make_block)
    patch.setattr(semantic, "broadcast_impl_value", broadcast_others)
    patch.setattr(interpreter, "_get_np_dtype", numpy_type)
    patch.setattr(semantic.tensor, "__init__", make)


def _call_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have `triton.language`'s functions called without a look at their arguments, and arrays kept without one."""
    if not all(hasattr(interpreter, name) for name in ("_patch_attr", "interpreter_semantic", "TensorHandle")):
        return
    semantic = interpreter.interpreter_semantic

    def replace(owner, name, member, builder, scope):
        function = getattr(member, "__wrapped__", member)

        def call(*arguments, _semantic=None, **settings):
            return function(*arguments, **settings, _semantic=semantic)

        scope.set_attr(owner, name, call)

    def keep(self, data, dtype, attr=None):
        self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr

    patch.setattr(interpreter, "_patch_attr", replace)
    patch.setattr(interpreter.TensorHandle, "__init__", keep)


def _promote_what_differs(patch: pytest.MonkeyPatch) -> None:
    """Have the interpreter look for no common type of two tensors of one, nor of a tensor and a number of its kind."""
    semantic = getattr(interpreter, "interpreter_semantic", None)
    names = ("binary_op_type_checking_impl", "broadcast_impl_value", "scalar_constant", "tensor")
    if not all(hasattr(semantic, name) for name in names):
        return
    tensor, promote = semantic.tensor, semantic.binary_op_type_checking_impl
    kinds = {"fp32": (int, float), "fp64": (int, float), "int32": (int,), "int64": (int,)}  # short floats are promoted

    def alike(value, other):
        """The value as a tensor, if its type is the other's."""
        if type(value) in kinds.get(other.dtype.name, ()) and abs(value) < 2**31:
            return semantic.scalar_constant(value, dtype=other.dtype)
        same = isinstance(value, tensor) and value.dtype.name == other.dtype.name
        return value if same and value.dtype.name in kinds else None

    def promote_others(left, right, *arguments, **settings):
        if isinstance(left, tensor) and (found := alike(right, left)) is not None:
            return semantic.broadcast_impl_value(left, found)
        if isinstance(right, tensor) and (found := alike(left, right)) is not None:
            return semantic.broadcast_impl_value(found, right)
        return promote(left, right, *arguments, **settings)

    patch.setattr(semantic, "binary_op_type_checking_impl", promote_others)
