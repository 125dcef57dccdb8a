"""Compile the Triton kernels for GPUs that need not be there; run as a program, it prints what test_triton_kernels.py
asks for. A program of its own, because in the tests' process Triton may run as an interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rlrat.rational import gpu, triton_kernels

SIZES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


def compile_kernel(direction, dtype, version, degrees, fused, architecture) -> dict:
    """Registers, bytes of stack and 16-byte accesses of a kernel as gpu.py would launch it, with whole 16-byte rows."""
    kernel, flat = getattr(triton_kernels, f"{direction}_kernel"), not fused
    warps, vectors = gpu.TILES[direction][SIZES[dtype]]
    vector, lanes = 16 // SIZES[dtype], 32 * warps * vectors
    constants = {
        "M": degrees[0], "N": degrees[1], "VERSION": version, "BIAS": fused, "GATE": fused, "FLAT": flat,
        "LIMIT": 2.0 ** ((900.0 if dtype == "fp64" else 100.0) / max(*degrees, 1)), "LANES": lanes,
        "CHUNKS": lanes if flat else 256 // vector, "VECTOR": vector,
    }  # fmt: skip
    like_x = {"x_ptr", "y_ptr", "grad_ptr", "dx_ptr", "gate_ptr", "dgate_ptr"}
    wide = "*fp64" if dtype == "fp64" else "*fp32"

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name == "ticket_ptr":
            return "*i32"
        if name.endswith("_ptr"):
            return f"*{dtype}" if name in like_x else wide
        return "i32"

    signature = {name: kind(name) for name in kernel.arg_names}
    aligned = [index for index, name in enumerate(kernel.arg_names) if name not in {*constants, "groups", "splits"}]
    source = ASTSource(
        kernel, signature, constexprs=constants, attrs={(index,): [["tt.divisibility", 16]] for index in aligned}
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    ptx = compiled.asm["ptx"]
    wide_access = r"\.global\S*\.(v4\.b32|v2\.b64)"
    return {
        "registers": registers,
        "spilled": stack + local,
        "wide loads": len(re.findall("ld" + wide_access, ptx)),
        "wide stores": len(re.findall("st" + wide_access, ptx)),
        "float atomics": len(re.findall(r"(atom|red)\S*\.f(16|32|64)", ptx)),
    }


if __name__ == "__main__":
    print(json.dumps([compile_kernel(*case) for case in json.loads(sys.argv[1])]))
