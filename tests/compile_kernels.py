"""Say what Triton compiles for a launch; compile it for GPUs that need not be there, and count what the result has.

Tests record launches (`Launches`) where Triton may be an interpreter, and give them to `compile_launches`, which runs
this file as a program of its own.
"""

import functools
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from tests.forked import Forked

TYPES = {"float32": "fp32", "float64": "fp64", "int32": "i32", "int64": "i64", "bool": "i1"}


class Launches(list):
    """Takes the place of `launching.launch` and launches nothing: keeps what a compiler needs to know of a launch."""

    def __call__(self, kernel, programs, *arguments, device, load=False, warps=4, **constants) -> None:
        said = [
            [f"*{TYPES[str(a.dtype).removeprefix('torch.')]}", a.data_ptr() % 16 == 0] if isinstance(a, Tensor) else a
            for a in arguments
        ]
        function = kernel.fn
        self.append([function.__module__, function.__name__, said, constants, warps])


@functools.cache
def _binder(kernel) -> Callable:
    """Return Triton's function from a launch's arguments to what it compiles, also of an interpreted kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    function = JITFunction(kernel.fn, **kernel.kwargs) if hasattr(kernel, "kwargs") else kernel
    return create_function_from_signature(function.signature, function.params, make_backend(GPUTarget("cuda", 90, 32)))


def compiled_for(kernel, arguments: tuple, warps: int, constants: dict) -> str:
    """Name the compiled kernel that a launch needs: by types, alignment to 16 bytes, integers 1 or divisible by 16."""
    _, specialization, options = _binder(kernel)(*arguments, num_warps=warps, **constants)
    return f"{kernel.__name__}: {specialization} {options}"


def compile_launches(
    launches: list, wanted: list[int], architectures: list[int], folder: Path
) -> tuple[list[str], list[dict]]:
    """Say what each launch is specialized for, and compile those with the numbers `wanted` for each architecture.

    Launches of one kernel that are specialized alike take the same one. Architectures are such as 80; Triton's cache is
    `folder`; see `figures`.
    """
    command = [sys.executable, __file__, json.dumps([launches, wanted, architectures])]
    return tuple(compiler_says(command, folder))


def compiler_says(command: list[str], folder: Path):
    """Run a Python file where Triton compiles, its cache in `folder`, and return the JSON that it prints."""
    done = Forked(command, folder, TRITON_CACHE_DIR=str(folder)).wait(600.0)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def specialize(module: str, name: str, arguments: list, constants: dict, warps: int) -> tuple:
    """Find the kernel, its arguments' types, its constants, the numbers of arguments that 16 divides, and the options.

    arguments: in order; a tensor is its type and whether it is aligned to 16 bytes.
    """
    kernel = getattr(importlib.import_module(module), name)
    options = {
        "num_warps": warps,
        "enable_fp_fusion": True,
        **{n: value for n, value in constants.items() if n not in kernel.arg_names},
    }
    types, divided, constants = {}, [], {n: value for n, value in constants.items() if n in kernel.arg_names}
    for parameter, value in zip(kernel.params, arguments, strict=False):
        if isinstance(value, list):
            types[parameter.name], aligned = value
        elif isinstance(value, float):
            types[parameter.name], aligned = "fp32", False
        else:
            types[parameter.name], aligned = parameter.annotation_type or "i32", value % 16 == 0
            if value == 1 and not parameter.do_not_specialize:
                constants[parameter.name] = 1
        if aligned and not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment):
            divided.append(parameter.num)
    types |= dict.fromkeys(constants, "constexpr")
    return kernel, {parameter.name: types[parameter.name] for parameter in kernel.params}, constants, divided, options


def figures(launch: list, architecture: int) -> dict:
    """Compile a launch, and return what `resources` finds and the kernel's name."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, divided, options = specialize(*launch)
    attributes = {(number,): [["tt.divisibility", 16]] for number in divided}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return {"kernel": launch[1], **resources(compiled)}


def resources(compiled) -> dict:
    """Count the registers of a compiled kernel, the bytes that it spills, and some of its instructions."""
    usage, ptx = disassembled(compiled, "cuobjdump", "-res-usage"), compiled.asm["ptx"]
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    wide = r"\.global\S*\.(v4\.[bf]32|v2\.[bf]64)"
    return {
        "registers": registers,
        "spilled": stack + local,
        "wide loads": len(re.findall("ld" + wide, ptx)),
        "wide stores": len(re.findall("st" + wide, ptx)),
        "float atomics": len(re.findall(r"(atom|red)\S*\.f(16|32|64)", ptx)),
        "high products": len(re.findall(r"mul\.(hi|wide)\.u", ptx)),
        "fused": len(re.findall(r"fma\.rn\.f32", ptx)),
        "approximate": sorted(set(re.findall(r"\w+\.approx\S*", ptx))),
    }


def disassembled(compiled, tool: str, option: str) -> str:
    """Return what a tool that comes with Triton says of a compiled kernel."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    launches, wanted, architectures = json.loads(sys.argv[1])
    specialized = [str((launch[:2], *specialize(*launch)[1:])) for launch in launches]
    found = [figures(launches[number], architecture) for number in wanted for architecture in architectures]
    print(json.dumps([specialized, found]))
