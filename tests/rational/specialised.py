"""Say which kernel Triton would compile for a launch, also where it interprets kernels."""

import functools

from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


@functools.cache
def _binder(kernel):
    """Make what Triton itself asks for the types, alignments and constants of a launch."""
    keep = ("do_not_specialize", "do_not_specialize_on_alignment")
    compiled = (
        JITFunction(kernel.fn, **{name: kernel.kwargs[name] for name in keep}) if hasattr(kernel, "kwargs") else kernel
    )
    return create_function_from_signature(compiled.signature, compiled.params, make_backend(GPUTarget("cuda", 90, 32)))


def specialised(kernel, programs: int, arguments: tuple, constants: dict) -> str:
    """Return what differs where Triton compiles another kernel; `programs` does not."""
    _, found, options = _binder(kernel)(*arguments, **constants)
    return f"{kernel.fn.__name__} {found} {sorted(options.items())}"
