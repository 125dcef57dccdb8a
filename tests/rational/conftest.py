"""Triton's interpreter, without what it does anew at every call."""

import operator

import numpy as np
import pytest

try:
    from triton.runtime import interpreter
except ImportError:  # no Triton, whose tests are left out
    interpreter = None


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter():
    """Have a launch replace `triton.language`'s functions once, instead of at every function that its kernel calls.

    What is replaced once is replaced until the launch ends, and looking for it takes 40% of the interpreter's time.
    """
    if interpreter is None or not all(hasattr(interpreter, name) for name in ("_patch_lang", "GridExecutor", "tl")):
        yield
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", replace_once)
        patch.setattr(interpreter.GridExecutor, "__call__", launch_anew)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_overflow_checks():
    """Have the interpreter look for overflows of integers in NumPy, not in operations that it interprets, too."""
    semantic = getattr(interpreter, "interpreter_semantic", None)
    if not hasattr(semantic, "binary_op_sanitize_overflow_impl"):
        yield
        return

    def check(left, right, operation):
        kind = left.type.scalar
        assert kind == right.type.scalar
        assert kind.is_int()
        if kind.int_bitwidth < 64:
            exact = getattr(operator, operation.__name__)(*(t.handle.data.astype(np.int64) for t in (left, right)))
            assert (exact >= kind.get_int_min_value()).all(), f"{kind} overflow"
            assert (exact <= kind.get_int_max_value()).all(), f"{kind} overflow"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "binary_op_sanitize_overflow_impl", check)
        yield
