"""Show a construction (`show gelu --steps 3`), list all of them, or reproduce the paper's five tables (`tables`)."""

import argparse
import signal
import sys
from typing import TYPE_CHECKING, Any

from mpmath import mpf

from .plans import Real
from .tables import DIGITS, log_errors, root_errors, short, tanh_errors, theta_errors

if TYPE_CHECKING:
    from .constructions import Construction

_SETTINGS = ("gap", "p", "alpha0", "slope", "alpha", "features")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlrat.approximation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="say what a construction is made of, and its error step by step")
    show.add_argument("name", help="such as relu, log or gelu; `list` names all")
    show.add_argument("--steps", type=int, help="of the outermost iteration, 1 to 16 (3)")
    show.add_argument("--error", type=float, help="instead of steps: the fewest that keep this absolute error")
    show.add_argument(
        "--domain", type=float, nargs=2, metavar=("LOW", "HIGH"), help="where the function is wanted (`list` says)"
    )
    show.add_argument("--gap", type=float, help="|x| below which sign and step are not wanted (0.01)")
    show.add_argument("--unscaled", action="store_true", help="of sign, step, abs, relu: Halley's iteration")
    show.add_argument("--p", type=int, help="of root, x^(1/p) (2)")
    show.add_argument("--alpha0", type=float, help="of root: wanted on alpha0^p <= x <= 1 (0.5)")
    show.add_argument("--slope", type=float, help="of leaky_relu (0.01)")
    show.add_argument("--alpha", type=float, help="of elu and celu (1)")
    show.add_argument("--features", type=int, help="of softmax, softmin and logsoftmax (8)")
    commands.add_parser("list", help="say of every construction what three steps are made of")
    tables = commands.add_parser("tables", help="print the errors of the paper's iterations")
    tables.add_argument("--digits", type=int, default=DIGITS, help=f"of the arithmetic ({DIGITS})")
    tables.add_argument("--p", type=int, default=10, help="of the p-th root (10)")
    tables.add_argument("--alpha0", type=float, default=0.5, help="of the p-th root (0.5)")
    tables.add_argument("--k", type=float, default=0.7, help="the modulus of the theta functions (0.7)")
    tables.add_argument("--x", type=float, default=0.01, help="of the logarithm (0.01)")
    tables.add_argument("--s", type=float, default=0.1, help="of tanh (0.1)")
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_args([_spelled_out(argument) for argument in arguments])
    try:
        {"show": _show, "list": _list, "tables": _tables}[chosen.command](chosen)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _spelled_out(argument: str) -> str:
    """Write -1e3 as -1000.0, which argparse does not take for an option."""
    try:
        return f"{float(argument):f}" if argument.startswith("-") and "e" in argument.lower() else argument
    except ValueError:
        return argument


def _show(chosen: argparse.Namespace) -> None:
    from .constructions import construction

    settings: dict[str, Any] = {name: value for name in _SETTINGS if (value := getattr(chosen, name)) is not None}
    if chosen.unscaled:
        settings["scaled"] = False
    asked = {"domain": chosen.domain and tuple(chosen.domain), **settings}
    found = construction(chosen.name, chosen.steps, error=chosen.error, **asked)
    low, high = found.domain
    print(f"{found.name} from {low:g} to {high:g}{_but(found.gap)}, {_steps(found.steps)}:")
    print(f"{found.parameters_count} constants in {found.operations} operations + - * /")
    print(f"one rational of degree {_degree(found.degree)}")
    print(f"absolute error at most {short(found.error_bound)}, shown by {found.digits_needed} digits")
    if found.name in ("gelu", "geglu"):
        from .references import gelu_distance

        print(f"of the tanh form of GELU, which differs from GELU by up to {short(gelu_distance(low, high))}")
    print("\nsteps  constants  operations  degree                  bound      float32    float64    mpmath")
    ends = {}
    for steps in range(1, found.steps + 1):
        each = construction(chosen.name, steps, **asked)
        errors = {number: _measured(each, number) for number in ("float32", "float64", "mpmath")}
        columns = ["-" if error is None else short(error) for error in (each.error_bound, *errors.values())]
        sizes = f"{steps:5}  {each.parameters_count:9}  {each.operations:10}  {_degree(each.degree):22}"
        print(f"{sizes}  {'  '.join(f'{column:9}' for column in columns)}".rstrip())
        for number in ("float32", "float64"):
            if errors[number] is not None and errors[number] > 2 * errors["mpmath"]:
                ends.setdefault(number, steps)
    print("Errors are the largest measured on points of the domain; - where a number does not hold the constants.")
    for number, steps in ends.items():
        print(f"After {_steps(steps)} the error in {number} is rounding: more gain nothing there.")


def _measured(found: "Construction", number: str) -> Real | None:
    """Measure an error; return None where numbers of this kind do not hold the constants."""
    try:
        return found.measured_error(number)
    except ValueError:
        return None


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"


def _but(gap: float) -> str:
    return f" but for |x| < {gap:g}" if gap else ""


def _degree(degree: tuple[int, int]) -> str:
    return f"({', '.join(str(each) if each < 10**6 else short(mpf(each)) for each in degree)})"


def _list(chosen: argparse.Namespace) -> None:
    from .constructions import construction, names

    print("name         constants  operations  degree                  domain      error at most")
    for name in names():
        found = construction(name)
        low, high = found.domain
        sizes = f"{name:11}  {found.parameters_count:9}  {found.operations:10}  {_degree(found.degree):22}"
        print(f"{sizes}  {f'{low:g} {high:g}':10}  {short(found.error_bound)}{_but(found.gap)}")


def _tables(chosen: argparse.Namespace) -> None:
    digits = chosen.digits
    tables = [
        (f"p-th root, p = {chosen.p}, alpha0 = {chosen.alpha0}: largest relative error",
         [short(error, 5) for error in root_errors(chosen.p, chosen.alpha0, digits=digits)]),
        (f"theta3 as 1 / sqrt(a_n) of AGM(1, k'), k = {chosen.k}: error",
         [short(error) for error in theta_errors(3, chosen.k, digits=digits)]),
        (f"theta2 as sqrt(k / a_n), k = {chosen.k}: error",
         [short(error) for error in theta_errors(2, chosen.k, steps=5, digits=digits)]),
        (f"log x as -(pi / 2) / a_n of AGM(theta3^2, theta2^2) at the nome x^2, x = {chosen.x}: error",
         [short(error) for error in log_errors(chosen.x, digits=digits)]),
        (f"tanh s by Halley's iteration on artanh from y = s, s = {chosen.s}: error",
         [short(error) for error in tanh_errors(chosen.s, digits=digits)]),
    ]  # fmt: skip
    print(f"Errors after 0, 1, 2, ... steps, with {digits} digits.")
    for title, errors in tables:
        print(f"\n{title}\n{', '.join(errors)}")
    last = short(tanh_errors(chosen.s, digits=digits + 20)[-1])
    print(f"(the last entry with {digits + 20} digits: {last})")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may leave early
    main()
