#!/usr/bin/env bash
# triton 3.9.0 and 3.6.0: in a kernel an `if` on a tl.constexpr chooses code when it is compiled, and what is not chosen is not
# looked at: a branch may hold what has no meaning for this type. That holds for `if` and `else`. It does not hold for
# what follows an `if` that returns: `if WIDE: return x.to(tl.float64)` and then `return x` are both compiled for a true
# WIDE, and refused as returns of two types. With `else` the same function compiles. (The interpreter, TRITON_INTERPRET=1,
# runs Python, which returns: there both forms work, so that only compiling shows it; no GPU is needed for that.)
#
# Seen: "Return type mismatch: fp64 and fp32" (3.6.0: "Inconsistent return types") for the first form, a compiled kernel for
# the second.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PYTHON'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def returned(x, WIDE: tl.constexpr):
    if WIDE:
        return x.to(tl.float64)
    return x


@triton.jit
def assigned(x, WIDE: tl.constexpr):
    if WIDE:
        y = x.to(tl.float64)
    else:
        y = x
    return y


@triton.jit
def early(out_ptr, WIDE: tl.constexpr):
    tl.store(out_ptr, returned(tl.load(out_ptr), WIDE))


@triton.jit
def chosen(out_ptr, WIDE: tl.constexpr):
    tl.store(out_ptr, assigned(tl.load(out_ptr), WIDE))


for kernel in (early, chosen):
    source = ASTSource(kernel, {"out_ptr": "*fp32", "WIDE": "constexpr"}, constexprs={"WIDE": True})
    try:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
        said = "compiles"
    except triton.CompilationError as error:
        said = re.search("[A-Z][a-z ]*return type.*?: fp64 and fp32|Return type mismatch: fp64 and fp32", repr(error.__cause__))[0]
    print(triton.__version__, kernel.__name__, said)
PYTHON
for version in 3.9.0 3.6.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "triton==$version"
    "$folder/$version/bin/python" -W ignore "$folder/seen.py"
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
3.9.0 early Return type mismatch: fp64 and fp32
3.9.0 chosen compiles
3.6.0 early Inconsistent return types: fp64 and fp32
3.6.0 chosen compiles
SEEN
