"""Write an MLP policy as a Python file that needs NumPy alone, with its weights in an .npz beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.errors import reason
from rlrat.networks.policies import Policy
from rlrat.runs.exporting.weights import Hidden, Polynomials, read_layers

_HEAD = '''"""Act by a policy that was trained with rlrat. This file needs NumPy, and {weights} beside it.

    from {stem} import act
    action = act(observation)
"""

{about}

import math
from pathlib import Path
from typing import Any

import numpy as np

with np.load(Path(__file__).with_suffix(".npz")) as _file:
    W = {{name: _file[name] for name in _file.files}}
'''
_NORM = '''
def norm(x, weight, bias):
    """Layer normalisation over the features."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32({epsilon!r})) * weight + bias
'''
_ACT = '''
def act(observation):
    """Map observations [{obs}] or [batch, {obs}] into actions [{act}] or [batch, {act}] in the environment's units."""
    x = (np.asarray(observation, np.float32) - W["observation_mean"]) / W["observation_std"]
'''
_SOFTPLUS = "np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))"
_SIGMOID = "np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))"
_EXPM1 = "np.expm1(np.minimum(x, 0))"
# The body of `activation(x)`, for each name of the registry but rational; PReLU's is `activation(x, slope)`.
_ACTIVATIONS = {
    "relu": ("return np.maximum(x, 0)",),
    "leaky_relu": ("return np.where(x > 0, x, np.float32(0.01) * x)",),
    "prelu": ("return np.where(x > 0, x, slope * x)",),
    "elu": (f"return np.where(x > 0, x, {_EXPM1})",),
    "selu": (
        f"y = np.where(x > 0, x, np.float32(1.6732632423543772) * {_EXPM1})",
        "return np.float32(1.0507009873554805) * y",
    ),
    "celu": (f"return np.where(x > 0, x, {_EXPM1})",),
    "gelu": (
        "erf = np.vectorize(math.erf, otypes=[np.float32])  # NumPy has none",
        "return np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5))))",
    ),
    "gelu_tanh": (
        "inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)",
        "return np.float32(0.5) * x * (1 + np.tanh(inner))",
    ),
    "silu": (f"return x * {_SIGMOID}",),
    "mish": (f"return x * np.tanh({_SOFTPLUS})",),
    "softplus": (f"return {_SOFTPLUS}",),
    "sigmoid": (f"return {_SIGMOID}",),
    "logsigmoid": ("return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))",),
    "tanh": ("return np.tanh(x)",),
    "softmin": ("y = np.exp(x.min(-1, keepdims=True) - x)", "return y / y.sum(-1, keepdims=True)"),
    "softmax": ("y = np.exp(x - x.max(-1, keepdims=True))", "return y / y.sum(-1, keepdims=True)"),
    "logsoftmax": (
        "x = x - x.max(-1, keepdims=True)",
        "return x - np.log(np.exp(x).sum(-1, keepdims=True))",
    ),
    "identity": ("return x",),
}
# Q of u^n: of near |x|, where n is 0, and of far ones, where u is 1/x.
_GUARDED = {
    "A": "q",
    "B": "np.abs(q) + np.where(near, 1, np.abs(u)) ** layer_n",
    "C": "np.abs(q) + np.float32(0.1) * np.where(near, 1, np.abs(u)) ** layer_n",
    "N": "q",
}
_RATIONAL = '''
def horner(near, rows_near, rows_far, u):
    """A polynomial in u, whose coefficients are the rows, the highest power first."""
    y = np.zeros_like(u)
    for row_near, row_far in zip(rows_near, rows_far):
        y = y * u + np.where(near, row_near, row_far)
    return y


def rational(x, layer):
    """R(x) = P(x) / Q(x) of each feature; where |x| > 1 by powers of 1/x, so that none overflows."""
    near = np.abs(x) <= 1
    u = 1 / np.where(near, 1, x)
    u = np.where(near, x, u)
    p = horner(near, W[layer + "_p"], W[layer + "_p_far"], u)
    q = horner(near, W[layer + "_q"], W[layer + "_q_far"], {variable})
    layer_n = W[layer + "_n"]
    r = p / ({guarded})
    size = np.where(near, 1, np.abs(x)) ** (W[layer + "_m"] - layer_n)  # degrees of P and Q
    odd = W[layer + "_odd"] & (x < 0) & ~near
    return r * np.where(odd, -size, size)
'''


def write_numpy(policy: Policy, path: Path, about: Mapping[str, str]) -> None:
    """Write `path` and, beside it, the .npz."""
    weights, layers = read_layers(policy)
    rationals = [layer for layer in layers if layer.rationals]
    for layer in rationals:
        weights |= _rational_weights(layer)
    lines = "\n".join(f"# {name}: {reason(value)}" for name, value in about.items())
    parts = [_HEAD.format(stem=path.stem, weights=path.with_suffix(".npz").name, about=lines)]
    if layers and layers[0].norm is not None:
        parts.append(_NORM.format(epsilon=layers[0].norm.epsilon))
    if rationals:
        version = rationals[0].version
        parts.append(_RATIONAL.format(variable="np.abs(u)" if version == "A" else "u", guarded=_GUARDED[version]))
    elif layers:
        arguments = "x, slope" if layers[0].activation == "prelu" else "x"
        body = "".join(f"    {line}\n" for line in _ACTIVATIONS[layers[0].activation])
        parts.append(f"\ndef activation({arguments}):\n{body}")
    act = _ACT.format(obs=len(weights["observation_mean"]), act=len(weights["output_bias"]))
    code = "\n".join([*parts, act + "".join(_step(layer) for layer in layers)])
    end = '    x = x @ W["output_weight"] + W["output_bias"]\n'
    end += '    return np.tanh(x) * W["action_scale"] + W["action_offset"]\n'
    if "math." not in code:
        code = code.replace("import math\n", "")
    np.savez(path.with_suffix(".npz"), **weights)
    path.write_text(code + end, encoding="utf-8")


def _step(layer: Hidden) -> str:
    name = layer.name
    lines = [f'y = x @ W["{name}_weight"] + W["{name}_bias"]']
    norm = [] if layer.norm is None else [f'norm({{}}, W["{name}_norm_weight"], W["{name}_norm_bias"])']
    if not layer.norm_after:
        lines += [f"y = {call.format('y')}" for call in norm]
    slope = f', W["{name}_slope"]' if layer.activation == "prelu" else ""
    lines.append(f'y = rational(y, "{name}")' if layer.rationals else f"y = activation(y{slope})")
    lines.append(f'x = y * (x @ W["{name}_gate_weight"] + W["{name}_gate_bias"])' if layer.gated else "x = y")
    if layer.norm_after:
        lines += [f"x = {call.format('x')}" for call in norm]
    return "".join(f"    {line}\n" for line in lines)


def _rational_weights(layer: Hidden) -> dict[str, np.ndarray]:
    """Return coefficients `[degree + 1, features]`, and of each feature both degrees and whether far signs differ."""
    width = layer.width // len(layer.rationals)
    found = {}
    for name, letter in (("numerator", "p"), ("denominator", "q")):
        rows = [getattr(group, name) for group in layer.rationals]
        most = max(map(len, rows))
        # The highest power first: of x, a_m ... a_0, and of 1/x, a_0 ... a_m.
        near = [np.concatenate([np.zeros(most - len(row)), row[::-1]]) for row in rows]
        far = [np.concatenate([np.zeros(most - len(row)), row]) for row in rows]
        for end, table in (("", near), ("_far", far)):
            found[f"{layer.name}_{letter}{end}"] = np.repeat(np.array(table).T, width, axis=1).astype(np.float32)
    degrees = [_degrees(group) for group in layer.rationals]
    for letter, of_group in zip("mn", zip(*degrees, strict=True), strict=True):
        found[f"{layer.name}_{letter}"] = np.repeat(np.array(of_group), width).astype(np.float32)
    odd = [(m - n if layer.version == "N" else m) % 2 == 1 for m, n in degrees]
    found[f"{layer.name}_odd"] = np.repeat(np.array(odd), width)
    return found


def _degrees(group: Polynomials) -> tuple[int, int]:
    return len(group.numerator) - 1, len(group.denominator) - 1


def open_numpy(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Return what runs a file of `write_numpy`."""
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_bytes(), str(path), "exec"), names)  # an import would leave its bytecode beside
    return lambda arrays: [names["act"](*arrays)]
