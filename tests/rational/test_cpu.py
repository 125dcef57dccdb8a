"""The C kernels under sanitizers: exact buffers, odd sizes, every version, type and instruction set, and on arm64."""

import shutil
import subprocess
from pathlib import Path

import pytest

import rlrat.rational

SOURCES = Path(rlrat.rational.__file__).parent
MAIN = """
#include "cpu.c"
#include <stdio.h>

static void *filled(int64_t count, int wide, double scale) {
    void *p = malloc(count * (wide ? 8 : 4) + (count == 0));
    for (int64_t i = 0; i < count; i++) {
        double value = scale * ((i * 7919 % 1000) / 500.0 - 1.0);
        if (wide) ((double *)p)[i] = value; else ((float *)p)[i] = (float)value;
    }
    return p;
}

int main(int argc, char **argv) {
    int64_t shapes[][4] = {{1, 1, 1, 1}, {2, 3, 2, 5}, {1, 1, 1, 257}, {1, 7, 3, 31}, {2, 2, 1, 513}, {1, 400, 2, 1}};
    int degrees[][2] = {{5, 4}, {8, 8}, {0, 1}, {3, 7}};
    for (int level = 0; level <= best(); level++)
    for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int d = 0; d < 4; d++)
    for (const char *version = "ABCN"; *version; version++)
    for (int wide = 0; wide < 2; wide++)
    for (int large = 0; large < 2; large++) {
        int64_t *z = shapes[s], row = z[2] * z[3], units = z[0] * z[2], size = z[0] * z[1] * row;
        int m = degrees[d][0], n = degrees[d][1], given = n + (*version == 'C');
        if (argc > 1 && large && size > 1500) continue; /* long double is software on arm64 */
        rational_choose(level);
        for (int fused = 0; fused < 4; fused++) {
        void *x = filled(size, wide, large ? 1e30 : 2), *g = filled(size, wide, 1), *y = filled(size, wide, 0);
        void *a = filled(units * (m + 1), wide, 1), *b = filled(units * given, wide, 1);
        void *da = filled(units * (m + 1), wide, 0), *db = filled(units * given, wide, 0);
        void *bias = fused & 1 ? filled(z[0] * row, wide, 1) : NULL, *dbias = filled(z[0] * row, wide, 0);
        void *gate = fused & 2 ? filled(size, wide, 1) : NULL, *dgate = filled(size, wide, 0);
        Call call = {z[0], z[1], z[2], z[3], z[1] * row, row, z[1] * row, row, z[1] * row, row,
                     z[2] * (m + 1), z[2] * given, row, m, n, *version, wide};
        rational_forward(&call, x, y, a, b, bias, gate, 1);
        if (rational_backward(&call, g, x, y, da, db, a, b, bias, dbias, gate, dgate, 1)) return 1;
        free(bias); free(dbias); free(gate); free(dgate);
        free(x); free(g); free(y); free(a); free(b); free(da); free(db);
        }
    }
    puts("clean");
    return 0;
}
"""


def _run(tmp_path: Path, compiler: str, *flags: str, command: tuple[str, ...] = ("./main",)) -> None:
    """Build MAIN and run it; skip where the compiler, or a header or library of its system, is missing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    (tmp_path / "main.c").write_text(MAIN)
    # Smaller blocks, so that little makes several, and outputs of some of these sizes are written past the cache.
    source = (SOURCES / "cpu.c").read_text()
    for usual, here in (
        ("BLOCK_ELEMENTS 4096", "BLOCK_ELEMENTS 256"),
        ("STREAMED_BYTES (32 << 20)", "STREAMED_BYTES 8192"),
    ):
        assert source.count(usual) == 1
        source = source.replace(usual, here)
    (tmp_path / "cpu.c").write_text(source)
    built = subprocess.run(
        [compiler, "-std=gnu11", *flags, "-fno-sanitize-recover=undefined", "-Wno-psabi",
         "-I", str(SOURCES), "main.c", "-o", "main", "-lm"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    if "cannot find" in built.stderr or ".h: No such file" in built.stderr:
        pytest.skip(f"{compiler} lacks a header or a library: {built.stderr}")
    assert built.returncode == 0, built.stderr
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.stdout == "clean\n", f"exit code {run.returncode}: {run.stderr}"


def test_the_kernels_stay_inside_their_buffers(tmp_path):
    # Undefined behaviour is a trap without words here, which takes a quarter less time to build.
    _run(tmp_path, "gcc", "-O0", "-fsanitize=address,undefined", "-fsanitize-undefined-trap-on-error")


def test_the_kernels_run_on_arm64(tmp_path):
    """Debian and Ubuntu: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("no qemu-aarch64")
    flags = ("-O2", "-static", "-fsanitize=undefined")
    _run(tmp_path, "aarch64-linux-gnu-gcc", *flags, command=(emulator, "./main", "fewer"))
