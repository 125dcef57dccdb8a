"""Write an MLP policy as a C99 header of plain loops, with its weights in a second header beside it."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from rlrat.errors import InputError, reason
from rlrat.networks.policies import Policy
from rlrat.runs.exporting.weights import Hidden, read_layers

_HEAD = """/* A policy that was trained with rlrat: C99, no libraries but libm (link with -lm).
 *
 *     #include "@.h"
 *     float observation[@_OBSERVATION_SIZE], action[@_ACTION_SIZE];
 *     @_act(observation, action);
 *
 * Observations are raw, actions in the environment's units. It uses no heap and no state.
 *
{about}
 */
#ifndef @_H
#define @_H

#include <math.h>
#include "@_weights.h"

/* y = x W + b, W stored by rows of inputs. */
static inline void @_linear(const float *x, int in, const float *weight, const float *bias, float *y, int out) {{
    for (int j = 0; j < out; j++) y[j] = bias[j];
    for (int i = 0; i < in; i++)
        for (int j = 0; j < out; j++) y[j] += x[i] * weight[i * out + j];
}}
"""
_NORM = """
/* Layer normalisation, in place. */
static inline void @_norm(float *x, int size, const float *weight, const float *bias) {
    float mean = 0, variance = 0;
    for (int i = 0; i < size; i++) mean += x[i] / size;
    for (int i = 0; i < size; i++) variance += (x[i] - mean) * (x[i] - mean) / size;
    for (int i = 0; i < size; i++) x[i] = (x[i] - mean) / sqrtf(variance + EPSILON) * weight[i] + bias[i];
}
"""
_SOFTPLUS = "fmaxf(v, 0) + log1pf(expf(-fabsf(v)))"
_SIGMOID = "0.5f * (1 + tanhf(0.5f * v))"
# An activation of each element v, for each name of the registry but rational.
_ELEMENTWISE = {
    "relu": "fmaxf(v, 0)",
    "leaky_relu": "v > 0 ? v : 0.01f * v",
    "prelu": "v > 0 ? v : slope * v",
    "elu": "v > 0 ? v : expm1f(v)",
    "selu": "1.0507009873554805f * (v > 0 ? v : 1.6732632423543772f * expm1f(v))",
    "celu": "v > 0 ? v : expm1f(v)",
    "gelu": "0.5f * v * (1 + erff(v * 0.7071067811865476f))",
    "gelu_tanh": "0.5f * v * (1 + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)))",
    "silu": f"v * {_SIGMOID}",
    "mish": f"v * tanhf({_SOFTPLUS})",
    "softplus": _SOFTPLUS,
    "sigmoid": _SIGMOID,
    "logsigmoid": "fminf(v, 0) - log1pf(expf(-fabsf(v)))",
    "tanh": "tanhf(v)",
    "identity": "v",
}
_ACTIVATION = """
static inline void @_activation(float *x, int size{slope}) {{
    for (int i = 0; i < size; i++) {{
        float v = x[i];
        x[i] = {value};
    }}
}}
"""
# Of all elements together: the sign of the argument, and what is done with each in the end.
_SOFT = {
    "softmax": ("", "expf({v} - most) / sum"),
    "softmin": ("-", "expf({v} - most) / sum"),
    "logsoftmax": ("", "{v} - most - logf(sum)"),
}
_SOFTMAX = """
static inline void @_activation(float *x, int size) {{
    float most = {sign}x[0], sum = 0;
    for (int i = 1; i < size; i++) most = fmaxf(most, {sign}x[i]);
    for (int i = 0; i < size; i++) sum += expf({sign}x[i] - most);
    for (int i = 0; i < size; i++) x[i] = {value};
}}
"""
# Q by its polynomial s; scale is |1/x|^n where |x| > 1, else 1.
_GUARDED = {"A": "s", "B": "fabsf(s) + scale", "C": "fabsf(s) + 0.1f * scale", "N": "s"}
_RATIONAL = """
/* R(x) = P(x) / Q(x), of degrees m and n, constant terms first; where |x| > 1 by powers of 1/x: none overflows. */
static inline float @_rational(float x, const float *a, int m, const float *b, int n) {{
    int far = fabsf(x) > 1;
    float u = far ? 1 / x : x, v = {variable}, p = 0, s = 0, scale = 1;
    for (int i = 0; i <= m; i++) p = p * u + a[far ? i : m - i];
    for (int i = 0; i <= n; i++) s = s * v + b[far ? i : n - i];
    if (!far) return p / ({guarded});
    for (int i = 0; i < n; i++) scale *= fabsf(u);
    float r = p / ({guarded});
    for (int i = n; i < m; i++) r *= fabsf(x);
    for (int i = m; i < n; i++) r *= fabsf(u);
    return x < 0 && ({power}) % 2 != 0 ? -r : r;
}}

/* Each of the groups of features has its own coefficients and degrees. */
static inline void @_rationals(float *x, int size, int groups, const float *a, const float *b, const int *degrees) {{
    int width = size / groups;
    for (int g = 0; g < groups; g++) {{
        int m = degrees[2 * g], n = degrees[2 * g + 1];
        for (int i = g * width; i < (g + 1) * width; i++) x[i] = @_rational(x[i], a, m, b, n);
        a += m + 1;
        b += n + 1;
    }}
}}
"""


class NoCompiler(Exception):
    """This machine has no C compiler, so that nothing can be compared."""


def write_c(policy: Policy, path: Path, about: Mapping[str, str]) -> None:
    """Write the header `path` and, beside it, `<stem>_weights.h`. Every name in them begins with the stem."""
    weights, layers = read_layers(policy)
    stem = path.stem
    code = "".join(_code(weights, layers, about)).replace("@_H", f"{stem.upper()}_H").replace("@", stem)
    for name in ("OBSERVATION_SIZE", "ACTION_SIZE"):
        code = code.replace(f"{stem}_{name}", f"{stem.upper()}_{name}")
    path.with_name(f"{stem}_weights.h").write_text("".join(_tables(stem, weights, layers)), encoding="utf-8")
    path.write_text(code, encoding="utf-8")


def _code(weights: Mapping[str, np.ndarray], layers: list[Hidden], about: Mapping[str, str]) -> Iterator[str]:
    words = {name: reason(value).replace("*", "+").replace("\\", "/") for name, value in about.items()}
    lines = "\n".join(f" * {name}: {value}" for name, value in words.items())
    yield _HEAD.format(about=lines)
    if layers and layers[0].norm is not None:
        yield _NORM.replace("EPSILON", _literal(np.float32(layers[0].norm.epsilon)))
    if layers:
        yield _activation(layers[0])
    observation_size, action_size = len(weights["observation_mean"]), len(weights["output_bias"])
    widest = max([observation_size, *(layer.width for layer in layers)])
    buffers = f"x[{widest}], y[{widest}]" + (f", gate[{widest}]" if any(layer.gated for layer in layers) else "")
    yield f"""
static inline void @_act(const float *observation, float *action) {{
    float {buffers};
    for (int i = 0; i < {observation_size}; i++)
        x[i] = (observation[i] - @_observation_mean[i]) / @_observation_std[i];
"""
    size, here, there = observation_size, "x", "y"
    for layer in layers:
        name, width = f"@_{layer.name}", layer.width
        yield f"\n    @_linear({here}, {size}, {name}_weight, {name}_bias, {there}, {width});\n"
        norm = f"    @_norm({there}, {width}, {name}_norm_weight, {name}_norm_bias);\n" if layer.norm else ""
        yield "" if layer.norm_after else norm
        if layer.rationals:
            tables = f"{name}_numerator, {name}_denominator, {name}_degrees"
            yield f"    @_rationals({there}, {width}, {len(layer.rationals)}, {tables});\n"
        else:
            slope = f", {name}_slope[0]" if layer.activation == "prelu" else ""
            yield f"    @_activation({there}, {width}{slope});\n"
        if layer.gated:
            yield f"    @_linear({here}, {size}, {name}_gate_weight, {name}_gate_bias, gate, {width});\n"
            yield f"    for (int i = 0; i < {width}; i++) {there}[i] *= gate[i];\n"
        yield norm if layer.norm_after else ""
        size, here, there = width, there, here
    yield f"""
    @_linear({here}, {size}, @_output_weight, @_output_bias, action, {action_size});
    for (int i = 0; i < {action_size}; i++)
        action[i] = tanhf(action[i]) * @_action_scale[i] + @_action_offset[i];
}}

#endif
"""


def _activation(layer: Hidden) -> str:
    if layer.rationals:
        variable, power = "fabsf(u)" if layer.version == "A" else "u", "m - n" if layer.version == "N" else "m"
        return _RATIONAL.format(variable=variable, guarded=_GUARDED[layer.version], power=power)
    if layer.activation in _SOFT:
        sign, value = _SOFT[layer.activation]
        return _SOFTMAX.format(sign=sign, value=value.format(v=f"{sign}x[i]"))
    slope = ", float slope" if layer.activation == "prelu" else ""
    return _ACTIVATION.format(slope=slope, value=_ELEMENTWISE[layer.activation])


def _tables(stem: str, weights: Mapping[str, np.ndarray], layers: list[Hidden]) -> Iterator[str]:
    sizes = {"OBSERVATION_SIZE": len(weights["observation_mean"]), "ACTION_SIZE": len(weights["output_bias"])}
    yield f"#ifndef {stem.upper()}_WEIGHTS_H\n#define {stem.upper()}_WEIGHTS_H\n\n"
    yield from (f"#define {stem.upper()}_{name} {size}\n" for name, size in sizes.items())
    tables = dict(weights)
    for layer in layers:
        if layer.rationals:
            for part in ("numerator", "denominator"):
                tables[f"{layer.name}_{part}"] = np.concatenate([getattr(g, part) for g in layer.rationals])
            degrees = [[len(g.numerator) - 1, len(g.denominator) - 1] for g in layer.rationals]
            tables[f"{layer.name}_degrees"] = np.array(degrees)
    for name, table in tables.items():
        kind = "float" if table.dtype == np.float32 else "int"
        words = [_literal(value) if kind == "float" else str(value) for value in table.ravel()]
        yield f"\nstatic const {kind} {stem}_{name}[{len(words)}] = {{\n"
        yield from (f"    {', '.join(words[place : place + 8])},\n" for place in range(0, len(words), 8))
        yield "};\n"
    yield "\n#endif\n"


def _literal(value: np.float32) -> str:
    return f"{np.format_float_scientific(value, unique=True, trim='0')}f"


def open_c(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Compile a header of `write_c`, and return what runs it.

    Raises:
        NoCompiler: there is none.
        InputError: the compiler refuses it.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or shutil.which(compiler) is None:
        raise NoCompiler
    stem = path.stem
    sizes = [f"{stem.upper()}_{name}_SIZE" for name in ("OBSERVATION", "ACTION")]
    source = f"""#include "{path.resolve()}"
void rows(const float *observations, float *actions, int count) {{
    for (int i = 0; i < count; i++) {stem}_act(observations + i * {sizes[0]}, actions + i * {sizes[1]});
}}
int action_size(void) {{ return {sizes[1]}; }}
"""
    with tempfile.TemporaryDirectory() as folder:
        file, library = Path(folder) / "rows.c", Path(folder) / "rows.so"
        file.write_text(source)
        flags = ["-std=c99", "-O2", "-shared", "-fPIC"]
        done = subprocess.run(
            [compiler, *flags, "-o", str(library), str(file), "-lm"], capture_output=True, text=True
        )  # fmt: skip
        if done.returncode:
            raise InputError(f"{compiler} does not compile what was written: {reason(done.stderr)}")
        loaded = ctypes.CDLL(str(library))
    size = loaded.action_size()
    pointer = ctypes.POINTER(ctypes.c_float)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        observations = np.ascontiguousarray(arrays[0], np.float32)
        actions = np.empty((len(observations), size), np.float32)
        loaded.rows(observations.ctypes.data_as(pointer), actions.ctypes.data_as(pointer), len(observations))
        return [actions]

    return run
