"""Say which backend each device of this machine uses (`python -m rlrat.rational`), or fit rationals to functions."""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from .backends import report
from .certificates import evaluate
from .fit import TAILS, fit
from .minimax import OUTER_LIMIT
from .module import Rational
from .reference import VERSIONS
from .table import FUNCTIONS, INTERVAL, TABLE, Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURES = (".png", ".svg", ".pdf")
_Q = {"A": "1 + sum |b_i x^i|", "B": "1 + |sum b_i x^i|", "C": "0.1 + |sum b_i x^i|", "N": "1 + sum b_i x^i"}


class _Parser(argparse.ArgumentParser):
    """Say in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m rlrat.rational", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("fit", help="find the best rational approximation of an activation, and certify it")
    one.add_argument("name", help=f"one of {', '.join(FUNCTIONS)}")
    one.add_argument("--degrees", type=int, nargs=2, default=(5, 4), metavar=("M", "N"), help="of P and Q (5 4)")
    one.add_argument("--interval", type=float, nargs=2, default=INTERVAL, metavar=("LOW", "HIGH"), help="(-5 5)")
    one.add_argument("--version", default="A", help=f"the form of Q, one of {', '.join(VERSIONS)} (A)")
    one.add_argument("--tail", type=_tail, default="bounded", help=f"{', '.join(TAILS)} or a weight (bounded)")
    one.add_argument("--error", type=float, help="the largest error that is wanted")
    one.add_argument("--output", type=Path, help="draw f, R and the error into this file, such as fit.png")
    all_ = commands.add_parser("table", help="fit every activation again: the table that the package carries")
    all_.add_argument("--tail", type=_tail, default="bounded", help=f"{', '.join(TAILS)} or a weight (bounded)")
    all_.add_argument("--output", type=Path, default=Path(str(TABLE)), help="the file to write")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "fit":
            _fit(chosen)
        elif chosen.command == "table":
            _write_table(chosen.output, chosen.tail)
        else:
            print("\n".join(report()))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _tail(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _fit(chosen: argparse.Namespace) -> None:
    if chosen.output is not None:
        _check_output(chosen.output, _PICTURES)
    degrees, interval = tuple(chosen.degrees), tuple(chosen.interval)
    found = fit(chosen.name, degrees, chosen.version, interval, chosen.tail, error=chosen.error)
    print(describe(chosen.name, found))
    if chosen.output is not None:
        draw(chosen.name, found).savefig(chosen.output, dpi=150)
        print(f"drawn in {chosen.output}")


def _check_output(file: Path, kinds: tuple[str, ...]) -> None:
    """Raise ValueError where a file cannot be written: before fits take their time."""
    if file.suffix not in kinds:
        raise ValueError(f"--output must be the name of a file that ends in {', '.join(kinds)}, not {file}")
    if not file.parent.is_dir():
        raise ValueError(f"there is no folder {file.parent} for {file.name}")


def describe(name: str, found: Fit) -> str:
    """Write a fit in lines: the coefficients, the certificate, the poles and the slopes."""
    low, high = found.interval
    certificate = found.certificate
    module = Rational(found, found.degrees, found.version)
    poles = module.poles().flatten().tolist()
    lines = [f"{name} = P(x) / Q(x) on [{low:g}, {high:g}], degrees {found.degrees}, version {found.version}"]
    first = 0 if found.version == "C" else 1
    lines += [f"P(x) = sum a_i x^i, Q(x) = {_Q[found.version]}, in float32:"]
    lines += [f"  a_{i} = {np.float32(a)!s}" for i, a in enumerate(found.numerator)]
    lines += [f"  b_{i} = {np.float32(b)!s}" for i, b in enumerate(found.denominator, first)]
    how = "proved between samples, too" if certificate.kind == "certified" else "the largest of many samples"
    lines += [f"largest error {certificate.upper:.6g} ({certificate.kind}: {how})"]
    if certificate.within is not None:
        lines += [
            f"no other R of this form is below {certificate.lower:.6g}: at most {certificate.within:.6g} times the best"
        ]
    elif certificate.kind == "certified":
        lines += ["how small an error of this form can be is not proved"]
    else:
        lines += ["pip install python-flint proves a bound between samples, and how small any error can be"]
    lines += [f"real poles: {', '.join(f'{pole:.6g}' for pole in poles) or 'none'}"]
    lines += [f"largest slope on the interval: {module.largest_slope(found.interval).item():.6g}"]
    lines += [f"slope towards infinity: {module.asymptotic_slope().item():.6g}"]
    lines += [f"R(-100), R(-10), R(10), R(100): {', '.join(f'{value:g}' for value in found.values)}"]
    return "\n".join(lines)


def draw(name: str, found: Fit) -> "Figure":
    """Draw f and R on twice the interval, and the error on the interval between the bounds of the certificate."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("a picture needs matplotlib: pip install 'rlrat[report]'") from None
    low, high = found.interval
    certificate = found.certificate
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1)
    x = np.linspace(low - (high - low) / 2, high + (high - low) / 2, 2001)
    values = FUNCTIONS[name](torch.from_numpy(x)).numpy()
    a, b = np.array(found.numerator), np.array(found.denominator)
    above.plot(x, values, color="black", linewidth=1.2, linestyle="--", label=name, zorder=3)
    above.plot(x, evaluate(x, a, b, found.version), color="#0072B2", linewidth=2, label="R")
    above.axvspan(low, high, color="0.93", zorder=0)
    bottom, top = values.min(), values.max()
    above.set(ylabel="value", xlim=(x[0], x[-1]), ylim=(bottom - 0.2 * (top - bottom), top + 0.2 * (top - bottom)))
    above.legend(frameon=False)
    x = np.linspace(low, high, 4001)
    error = evaluate(x, a, b, found.version) - FUNCTIONS[name](torch.from_numpy(x)).numpy()
    below.plot(x, error, color="#D55E00", linewidth=1.5, label="R - f")
    for bound, style, label in ((certificate.upper, "-", "upper bound"), (certificate.lower, ":", "lower bound")):
        if bound is not None:
            for sign in (1, -1):
                below.axhline(
                    sign * bound, color="0.4", linewidth=1, linestyle=style, label=label if sign > 0 else None
                )
    below.set(xlabel="x", ylabel="error", xlim=(low, high))
    below.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return figure


def _write_table(output: Path, tail: str | float) -> None:
    _check_output(output, (".json",))
    print(f"{'name':<11} version  upper bound on {INTERVAL}  of the best   R(-100)    R(-10)     R(10)    R(100)")
    fits = []
    for name in FUNCTIONS:
        for version in VERSIONS:
            found = fit(name, version=version, tail=tail)
            values = " ".join(f"{value:9.3f}" for value in found.values)
            within = found.certificate.within
            told = f"{'':11}" if within is None else f"{within:11.6f}"
            print(f"{name:<11} {version:<7} {found.max_error:24.3e}  {told}   {values}", flush=True)
            entry = {key: value for key, value in asdict(found).items() if key != "max_error"}
            fits.append({"name": name, **entry})
    weight = TAILS.get(tail, tail)
    about = {
        "written by": "python -m rlrat.rational table" + ("" if tail == "bounded" else f" --tail {tail}"),
        "weights": f"1 on the interval, {weight} / max(|x|, |f(x)|) outside it up to |x| = {OUTER_LIMIT:g}",
        "values": "R at -100, -10, 10, 100",
    }
    lines = ",\n".join("  " + json.dumps(entry) for entry in fits)
    output.write_text(json.dumps(about, indent=1)[:-2] + ',\n "fits": [\n' + lines + "\n ]\n}\n")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may leave early
    main()
