"""Compile the Triton kernels for GPUs that need not be there; run as a program, it prints what test_triton_kernels.py
asks for, and without cases a table of the common ones. A program of its own, because in the tests' process Triton may
run as an interpreter.
"""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rlrat.rational import gpu, triton_kernels
from rlrat.rational.layout import Layout
from tests.compile_kernels import disassembled, resources

SIZES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


def compile_kernel(direction, dtype, version, degrees, fused, architecture, width=256) -> dict:
    """Say what ptxas makes of a kernel as gpu.py would launch it.

    Args:
        fused: with bias and gate, on rows of `width` elements; else without, on any number of elements.
    """
    kernel = getattr(triton_kernels, f"{direction}_kernel")
    layout = Layout(2, 256, 1, width, False, 1) if fused else Layout(1, 1, 1, 2**20, True, 0)
    strides = (256 * width, width) * (1 + fused)
    tiles = gpu._Tiles.of(gpu.TILES[direction][SIZES[dtype]], layout, SIZES[dtype], strides, 4000, 1)
    constants = {
        "M": degrees[0], "N": degrees[1], "VERSION": version, "BIAS": fused, "GATE": fused, "FLAT": layout.flat,
        "LIMIT": 2.0 ** ((900.0 if dtype == "fp64" else 100.0) / max(*degrees, 1)), **tiles.constants,
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
    # What gpu.py launches is divisible by 16 where Triton asks for it: integers and parameters it may not ask for.
    attributes = {
        (parameter.num,): [["tt.divisibility", 16]]
        for parameter in kernel.params
        if parameter.name.endswith("_ptr") and not parameter.do_not_specialize_on_alignment
    }
    options = {"num_warps": tiles.warps, "enable_fp_fusion": True}
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32), options=options,
    )  # fmt: skip
    loop, stored = main_loop(disassembled(compiled, "nvdisasm", "-c"))
    return {
        **resources(compiled),
        "instructions per element": len(loop) * SIZES[dtype] * (1 + (fused and direction == "backward")) / stored,
        "loop": loop,
    }


def main_loop(assembly: str) -> tuple[list[str], int]:
    """Find the instructions of the loop over full tiles, and the bytes that a thread stores in a turn of it.

    It is the one with most stores of 16 bytes, and of those the first: the path for large inputs has none.
    """
    instructions, labels = [], {}
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?) ?;", line):
            instructions.append(instruction[1])
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*\((\.L_x_\d+)\)", instruction)
        if target and labels.get(target[1], end + 1) <= end:
            body = instructions[labels[target[1]] : end + 1]
            stores = [text for text in body if re.search(r"\bSTG\b", text)]
            loops.append((sum(".128" in text for text in stores), body, stores))
    _, body, stores = max(loops, key=lambda loop: loop[0])
    bytes_of = {"128": 16, "64": 8, "U16": 2, "U8": 1}
    return body, sum(next((n for kind, n in bytes_of.items() if f".{kind}" in text), 4) for text in stores)


def _table() -> None:
    print("| kernel | type | registers | bytes spilled | loads of 16 bytes | stores | SASS instructions an element |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for direction in ("forward", "backward"):
        for dtype in ("fp32", "bf16"):
            for fused in (False, True):
                found = compile_kernel(direction, dtype, "A", [5, 4], fused, 90)
                name = f"{direction}{', fused' * fused} | {dtype}"
                keys = ("registers", "spilled", "wide loads", "wide stores")
                print(
                    f"| {name} | {' | '.join(str(found[k]) for k in keys)} | {found['instructions per element']:.1f} |"
                )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps([compile_kernel(*case) for case in json.loads(sys.argv[1])]))
    else:
        _table()
