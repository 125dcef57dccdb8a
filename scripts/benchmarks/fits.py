"""Fit the activations by rationals of rising degrees, and write the errors of the best: a table and a picture.

    python scripts/benchmarks/fits.py

What a run has finished is kept in fits.json, so that it can be stopped and started again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from rlrat.rational import FUNCTIONS, VERSIONS
from rlrat.rational.certificates import lower_bound, upper_bound
from rlrat.rational.exact import define
from rlrat.rational.fit import find_best
from rlrat.rational.minimax import Problem, coefficients
from rlrat.rational.table import INTERVAL

_FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
_ABS = "abs"
NAMES = (*FUNCTIONS, _ABS)
DEGREES = ((1, 0), (3, 2), (5, 4), (7, 6), (9, 8))
# Newman (1964): root-exponential; Gonchar (1967): geometric where f is analytic around the interval.
KINDS = {
    "kinks": ("relu", "leaky_relu", "prelu", "elu", "celu", "selu", _ABS),
    "branch points": ("softplus", "logsigmoid"),
    "others": ("gelu", "gelu_tanh", "silu", "mish", "sigmoid", "tanh"),
}
_COLOURS = {"kinks": "#D55E00", "branch points": "#009E73", "others": "#0072B2"}
_MARKERS = "osD^vP*"


def function_of(name: str) -> torch.nn.Module:
    return torch.abs if name == _ABS else FUNCTIONS[name]


def measure(name: str, degrees: tuple[int, int], version: str, interval: tuple[float, float] = INTERVAL) -> dict:
    """Find the best R, without rounding and with a free tail, and bound its error from both sides."""
    began = time.process_time()
    function = function_of(name)
    exact = define(function)

    def values(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(np.array(x))).numpy()

    found = find_best(Problem(values, degrees, version, interval, exact.kinks), exact)
    seconds = time.process_time() - began
    numerator, denominator = coefficients(found, version)
    upper = upper_bound(numerator, denominator, version, exact, interval, found.error, bits=300)
    return {
        "name": name, "degrees": degrees, "version": version, "interval": interval, "upper": upper,
        "lower": lower_bound(found, exact), "seconds": round(seconds, 2),
    }  # fmt: skip


def run(names: tuple[str, ...], degrees: tuple[tuple[int, int], ...], folder: Path) -> list[dict]:
    """Measure what fits.json does not have yet: every version, and |x| of type (n, n) on [-1, 1]."""
    file = folder / "fits.json"
    done = json.loads(file.read_text())["fits"] if file.exists() else []
    known = {_key(**e) for e in done}
    wanted = [(name, pair, version, INTERVAL) for version in VERSIONS for name in names for pair in degrees]
    if _ABS in names:
        most = max(max(pair) for pair in degrees)
        wanted += [(_ABS, (n, n), "N", (-1.0, 1.0)) for n in range(2, 16, 2) if n < most + 6]
    for one in wanted:
        if _key(*one) in known:
            continue
        done.append(measure(*one))
        print(json.dumps(done[-1]), flush=True)
        lines = ",\n".join("  " + json.dumps(entry) for entry in done)
        file.write_text('{\n "written by": "python scripts/benchmarks/fits.py",\n "fits": [\n' + lines + "\n ]\n}\n")
    order = {_key(*one): i for i, one in enumerate(wanted)}
    return sorted(done, key=lambda e: order.get(_key(**e), len(order)))


def _key(name: str, degrees: tuple[int, int], version: str, interval: tuple[float, float], **_: object) -> tuple:
    return name, tuple(degrees), version, tuple(interval)


def write_table(fits: list[dict]) -> str:
    """Write a table for each version: a row for each function, a column for each pair of degrees."""
    parts = []
    for version in VERSIONS:
        chosen = [e for e in fits if e["version"] == version and tuple(e["interval"]) == INTERVAL]
        degrees = sorted({tuple(e["degrees"]) for e in chosen})
        parts.append(f"\n## Version {version}\n\n| | {' | '.join(f'({m}, {n})' for m, n in degrees)} |")
        parts.append("| --- |" + " --- |" * len(degrees))
        for name in dict.fromkeys(e["name"] for e in chosen):
            errors = {tuple(e["degrees"]): e["upper"] for e in chosen if e["name"] == name}
            row = " | ".join(f"{errors[pair]:.4g}" if pair in errors else "" for pair in degrees)
            parts.append(f"| {name} | {row} |")
    small = [e for e in fits if tuple(e["interval"]) != INTERVAL]
    if small:
        parts.append("\n## |x| on `[-1, 1]`, type (n, n), version N\n\n| n | error | of a proved lower bound |")
        parts.append("| --- | --- | --- |")
        for e in small:
            within = f"{e['upper'] / e['lower']:.6f}" if e["lower"] else "not proved"
            parts.append(f"| {e['degrees'][0]} | {e['upper']:.6g} | {within} |")
    return "\n".join(parts) + "\n"


def draw(fits: list[dict], file: Path) -> None:
    """Draw the errors over the degree of Q, a panel for each version, a colour for each kind of function."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for ax, version in zip(axes.flat, VERSIONS, strict=True):
        for kind, names in KINDS.items():
            for name, marker in zip(names, _MARKERS, strict=False):
                points = sorted(
                    (e["degrees"][1], e["upper"])
                    for e in fits
                    if (e["name"], e["version"], tuple(e["interval"])) == (name, version, INTERVAL) and e["upper"] > 0
                )
                x, y = zip(*points, strict=True) if points else ((), ())
                ax.semilogy(x, y, marker=marker, markersize=5, color=_COLOURS[kind], linewidth=1.2, label=name)
        ax.set(title=f"version {version}", xlabel="degree n of Q (P has n + 1)", ylabel="largest error on [-5, 5]")
        ax.grid(alpha=0.25)
        ax.label_outer()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--largest", type=int, default=8, help="degree of Q")
    parser.add_argument("--output", type=Path, default=_FOLDER)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    degrees = tuple(pair for pair in DEGREES if pair[1] <= chosen.largest)
    fits = run(tuple(chosen.names), degrees, chosen.output)
    (chosen.output / "fits.md").write_text(_ABOUT + write_table(fits))
    draw(fits, chosen.output / "fits.png")


_ABOUT = """# Best fits

How near a rational P / Q comes to each activation on `[-5, 5]`, by the degrees (m, n) of P and Q: the largest error of
the best one, before its coefficients are rounded to float32 and with a free tail. Each figure is an upper bound that is
proved in ball arithmetic; for versions A and N, [fits.json](fits.json) has a lower bound beside it where one is proved,
too. Those of versions B and C are the best of a search over patterns of signs.

```bash
python scripts/benchmarks/fits.py
```

![Errors by degree](fits.png)
"""

if __name__ == "__main__":
    main()
