#!/usr/bin/env bash
# triton 3.9.0 and 3.6.0: `do_not_specialize` says of an integer argument that no kernel shall be compiled for its values,
# such as 1 or multiples of 16. Its type still follows the value: below 2^31 it is i32, from there on i64, from 2^63 on u64,
# and each is a kernel of its own, compiled when it is first met. A counter that grows by one from launch to launch thus
# compiles in the middle of a run, or inside of a CUDA graph's capture, where that fails. Annotated as tl.int64 it is i64
# always. No GPU is needed to see it: Triton's own binder of arguments is asked what it would compile for.
#
# Seen: three types without the annotation and one with it, in both versions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature


@triton.jit(do_not_specialize=["count"])
def plain(count):
    pass


@triton.jit(do_not_specialize=["count"])
def annotated(count: tl.int64):
    pass


backend = CUDABackend(GPUTarget("cuda", 90, 32))
for kernel in (plain, annotated):
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    types = [bind(value)[1][0][0] for value in (1, 16, 2**31 - 1, 2**31, 2**63)]
    print(triton.__version__, kernel.__name__, *types)
PYTHON
for version in 3.9.0 3.6.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "triton==$version"
    "$folder/$version/bin/python" "$folder/seen.py"
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
3.9.0 plain i32 i32 i32 i64 u64
3.9.0 annotated i64 i64 i64 i64 i64
3.6.0 plain i32 i32 i32 i64 u64
3.6.0 annotated i64 i64 i64 i64 i64
SEEN
