"""Compile the kernels of random numbers for GPUs that need not be there; run as a program, it prints what
test_random_kernels.py asks for. A program of its own, because in the tests' process Triton may run as an interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from rlrat.rational import launching
from rlrat.updates import random, random_kernels

DTYPES = {"bits": "i64", "integers": "i64"}  # of the others: fp32


def compile_kernel(kind: str, listed: bool, shift: int, architecture: int) -> dict:
    """Registers, bytes of stack and the like of a kernel as random_kernels.py launches it; `kind` may be `dropout`."""
    lanes = random_kernels._LANES
    if kind == "dropout":
        kernel, constants = random_kernels.dropout_kernel, {"FIELDS": 8, "MASKS": 16, "LANES": lanes}
    else:
        constants = {"KIND": kind, "LISTED": listed, "SHIFT": shift, "LANES": lanes}
        kernel = random_kernels.draw_kernel
    types = {"out_ptr": f"*{DTYPES.get(kind, 'fp32')}", **dict.fromkeys(("purpose", "first", "update", "high"), "i64")}
    types |= dict.fromkeys(("seeds_ptr", "updates_ptr", "table_ptr"), "*i64") | dict.fromkeys(constants, "constexpr")
    # What a draw of whole vectors has: Triton then knows that they are.
    aligned = [
        place
        for place, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or (name == "count" and shift == 0)
    ]
    source = ASTSource(
        kernel,
        {name: types.get(name, "i32") for name in kernel.arg_names},
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    ptx = compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    return {
        "registers": registers,
        "spilled": stack + local,
        "high products": len(re.findall(r"mul\.(hi|wide)\.u", ptx)),
        "fused": len(re.findall(r"fma\.rn\.f32", ptx)),
        "approximate": sorted(set(re.findall(r"\w+\.approx\S*", ptx))),
        "wide stores": len(re.findall(r"st\.global\S*\.(v4\.b32|v2\.b64)", ptx)),
    }


def specializations() -> dict[str, list[str]]:
    """What Triton would compile each kernel for, as random_kernels.py launches it at updates 0, 1, 16 and 2^32."""
    found = {}

    def launch(kernel, programs, *arguments, device, **constants):
        backend = make_backend(GPUTarget("cuda", 90, 32))
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        name = f"{kernel.fn.__name__} {constants.get('KIND')}"
        found.setdefault(name, []).append(repr(binder(*arguments, **constants, debug=False)[1]))

    launching.launch, launching.runs_on = launch, lambda device: True
    stream = random.Stream([3, 4, 5], "noise")
    masks = random.DropoutMasks([stream], [0.5], [(3, 3)])
    for update in (0, 1, 16, 2**32):
        stream.normal(range(update, update + 1 + update % 16), (3,))
        stream.integers(update, (3,), 2**31)
        masks.at(update)
    return found


if __name__ == "__main__":
    kernels = [compile_kernel(*case) for case in json.loads(sys.argv[1])]
    print(json.dumps({"kernels": kernels, "specializations": specializations()}))
