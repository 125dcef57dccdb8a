"""Compile Triton kernels as they were launched, for GPUs that need not be there, and count what the result has.

Tests record launches (`Launches`) where Triton may be an interpreter, and give them to `compile_launches`, which runs
this file as a program of its own.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

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


def compile_launches(launches: list, architectures: list[int], folder: Path) -> list[dict]:
    """Compile each for each architecture (80, 90); see `figures`. Triton's cache is `folder`."""
    cases = [[*launch, architecture] for launch in launches for architecture in architectures]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, __file__, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(module: str, name: str, arguments: list, constants: dict, warps: int, architecture: int) -> dict:
    """Compile one launch; registers, bytes of stack, and accesses of the kernel, as `launching.launch` would have it.

    arguments: in order; a tensor is its type and whether it is aligned to 16 bytes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(module), name)
    signature, attributes, constants = {}, {}, dict(constants)
    for parameter, value in zip(kernel.params, arguments, strict=False):
        if isinstance(value, list):
            signature[parameter.name], aligned = value
        elif isinstance(value, float):
            signature[parameter.name], aligned = "fp32", False
        else:
            signature[parameter.name], aligned = "i32", value % 16 == 0
            if value == 1 and not parameter.do_not_specialize:
                constants[parameter.name] = 1
        unspecialized = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        if aligned and not unspecialized:
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {parameter.name: signature[parameter.name] for parameter in kernel.params}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    ptx = compiled.asm["ptx"]
    wide = r"\.global\S*\.(v4\.[bf]32|v2\.[bf]64)"
    return {
        "registers": registers,
        "spilled": stack + local,
        "wide loads": len(re.findall("ld" + wide, ptx)),
        "wide stores": len(re.findall("st" + wide, ptx)),
        "float atomics": len(re.findall(r"(atom|red)\S*\.f(16|32|64)", ptx)),
    }


if __name__ == "__main__":
    print(json.dumps([figures(*case) for case in json.loads(sys.argv[1])]))
