"""Check rlrat on a GPU, step by step, and write what is found after every figure; `gpu_check.sh` starts it.

What is needed is checked first: where there is no GPU, or something cannot be imported, one line says so, and the exit
code is 2. After that no step that fails, hangs or is left out costs a later one; the exit code is 1 if one failed.
"""

import argparse
import importlib.machinery
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import parts
from parts import Part

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_CHECK_SECONDS = 120

AIMS: dict[str, dict[str, float]] = {  # of figures, by their names
    "forward / copy, float32, 2^28 elements": {"at_least": 0.9},
    "forward / copy, bfloat16, 2^28 elements": {"at_least": 0.9},
    "backward / copy, float32, 2^28 elements": {"at_least": 0.8},
    "iql rational, S = 1, fp32": {"at_least": 3_000},
    "iql rational, S = 64, fp32": {"at_least": 35_000},
    "iql rational, S = 64, tf32": {"at_least": 60_000},
    "iql rational, S = 1, fp32 / JAX": {"at_least": 1.2},
    "iql rational, S = 64, fp32 / JAX": {"at_least": 1.2},
    "iql rational, S = 64, tf32 / JAX": {"at_least": 1.2},
    "the paper's table": {"at_most": 1},
}


def kernel_tests() -> list[str]:
    """Return the files that test kernels alone."""
    own = sorted((_ROOT / "tests").rglob("test_*_kernels.py"))
    return [str(file.relative_to(_ROOT)) for file in [*own, _ROOT / "tests" / "rational" / "test_gpu.py"]]


def gpu_tests() -> list[str]:
    """Return the other files with tests that need a GPU."""
    files = (str(file.relative_to(_ROOT)) for file in sorted((_ROOT / "tests").rglob("test_*.py")))
    found = [file for file in files if "mark.gpu" in (_ROOT / file).read_text()]
    return [file for file in found if file not in kernel_tests()]


def steps() -> dict[str, Part]:
    """Return the steps in their order, with the seconds that each may take at most and needs at least."""

    def own(limit: float, least: float, description: str, *words: str, quiet: bool = False) -> Part:
        return Part([sys.executable, str(_HERE / "gpu_steps.py"), *words], limit, description, least, quiet)

    def rational(limit: float, description: str, name: str) -> Part:
        return Part([sys.executable, str(_HERE / "rational_speed.py"), "--part", name], limit, description, limit / 2)

    peer = "tests/scripts/benchmarks/test_peer_jax.py"
    return {
        "right": own(60, 20, "a rational beside float64, ten captured updates, no warning", "right", quiet=True),
        "captured tests": own(60, 20, "tests that need a GPU", "tests", "-m", "gpu and not slow", *gpu_tests()),
        "kernel tests": own(120, 30, "of every kernel", "tests", "-m", "not slow", *kernel_tests(), peer),
        "bandwidth": rational(40, "bytes read and written, beside a copy", "memory"),
        "IQL": own(130, 30, "seed-updates per second, captured, beside JAX", "iql", quiet=True),
        "agents": own(130, 20, "seed-updates per second, captured", "agents", quiet=True),
        "profile": own(30, 15, "five replays of IQL with rationals, by kernel", "profile"),
        "run": own(90, 30, "the README's command for five seeds, stopped and resumed", "run", quiet=True),
        "table": own(120, 60, "the paper's table, projected", "table"),
        "compiled": own(90, 45, "compiled and captured updates", "compile"),
        "races": own(60, 25, "compute-sanitizer", "races"),
        "tiles": rational(60, "the fastest tiles", "tune"),
        "graph": rational(30, "passes in a CUDA graph, beside ReLU", "CUDA graph"),
        "beside ReLU": rational(30, "forward and backward, beside ReLU", "beside ReLU"),
        "small calls": rational(20, "eager calls of small tensors", "small calls"),
        "first use": rational(40, "from the import to the first gradient", "first use"),
        "contenders": rational(60, "other ways to compute it", "contenders"),
    }


def check() -> dict[str, str]:
    """Return what the machine is, once it is known to have all that the steps need.

    The rational's C kernels, with which policies act on the CPU, are built where they are missing.

    Raises:
        SystemExit: with the line that says what is missing.
    """
    machine = _started(str(_HERE / "rational_speed.py"), "--machine")
    said = _output(machine)
    if machine.returncode != 0:
        raise SystemExit(_last_line(said))
    module = _ROOT / "rlrat" / "rational" / f"_cpu{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    with tempfile.TemporaryDirectory(dir=_ROOT / "rlrat" / "rational") as folder:
        small = ("--total-updates", "1", "--eval-every", "1", "--eval-episodes", "1", "--batch-size", "4")
        run = ("--hidden-dims", "4", "4", "--max-episode-steps", "5", "--device", "cpu", "--run-dir", folder)
        build = ("-q", "build_ext", "--build-temp", folder, "--build-lib", folder)
        needed = {
            "an agent does not run": _started("agents/iql.py", *small, *run),
            "the tests cannot be collected": _started(
                *("-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider"),
                *(*kernel_tests(), *gpu_tests()),
            ),
        }
        if not module.exists():
            said_by_build = _output(_started("-c", "from setuptools import setup; setup()", *build))
            built = [*Path(folder).rglob(module.name)]
            if built:
                os.replace(built[0], module)
            else:
                print(f"without the CPU's C kernels: {_last_line(said_by_build)}")
        outputs = {problem: _output(process) for problem, process in needed.items()}
    for problem, process in needed.items():
        if process.returncode != 0:
            hint = "scripts/benchmarks/gpu_check.sh --help names the packages"
            raise SystemExit(f"error: {problem}: {_last_line(outputs[problem]).removeprefix('error: ')} ({hint})")
    return dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)


def _started(*words: str) -> subprocess.Popen:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, *words], cwd=_ROOT, text=True, **streams)


def _output(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=_CHECK_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] + f"\nerror: not done after {_CHECK_SECONDS} s"


def _last_line(output: str) -> str:
    """Return the line that says why: pytest's begins with E, a traceback's is the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    return next((line[2:].strip() for line in lines if line.startswith("E  ")), lines[-1])


# ---- the page


def page(report: dict) -> str:
    """Make of a report, as `parts.run` has it, a page in Markdown."""
    figures = {found["name"]: found for found in _all(report)}
    head = {name: value for name, value in report.items() if isinstance(value, str | int | float)}
    lines = ["# rlrat on a GPU", "", *_table(["", ""], [[name, value] for name, value in head.items()])]

    lines += ["", "## Aims", ""]
    rows = []
    for name, limits in AIMS.items():
        ((kind, limit),) = limits.items()
        found = figures.get(name)
        aim = f"{'>=' if kind == 'at_least' else '<='} {limit:,g}"
        rows.append([name, aim, *(["", "not measured"] if found is None else _value_and_verdict(found))])
    missed = [found for name, found in figures.items() if found.get("reached") is False and name not in AIMS]
    rows += [[found["name"], found["aim"], *_value_and_verdict(found)] for found in missed]
    lines += _table(["figure", "aim", "value", ""], rows)

    lines += ["", "## Steps", ""]
    outcome = {name: report["errors"].get(name, "done") for name in report["parts"]}
    outcome |= dict.fromkeys(report["left_out"], "left out for lack of time")
    took = {name: parts.shown(seconds) for name, seconds in report["took"].items()}
    lines += _table(["step", "seconds", ""], [[name, took.get(name, ""), what] for name, what in outcome.items()])

    for name, found in report["parts"].items():
        lines += ["", f"## {name}", ""]
        rows = [
            [f["name"], f"{parts.shown(f['value'])} {f['unit']}", f.get("aim", ""), parts.verdict(f)] for f in found
        ]
        lines += _table(["figure", "value", "aim", ""], rows)
        if name in report["errors"]:
            lines += ["", f"**{report['errors'][name]}**", "", "```", *report["said"].get(name, []), "```"]
    return "\n".join(lines) + "\n"


def _value_and_verdict(found: dict) -> list[str]:
    return [f"{parts.shown(found['value'])} {found['unit']}", parts.verdict(found)]


def _all(report: dict) -> list[dict]:
    return [found for figures in report["parts"].values() for found in figures]


def _table(titles: list[str], rows: list[list]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(re.sub(r'[|]|' + chr(10), ' ', str(cell)) for cell in line)} |" for line in lines]


def main(argv: list[str] | None = None) -> int:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of gpu_check.json and gpu_check.md")
    parser.add_argument("--seconds", type=float, default=570.0, help="of the whole; what does not fit is left out")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="of the steps only these")
    parser.add_argument("--steps", type=Path, metavar="JSON", help="other steps, by name: command, limit; for tests")
    arguments = parser.parse_args(argv)
    chosen, head = steps(), {}
    if arguments.steps is not None:
        chosen = {name: Part(**part) for name, part in json.loads(arguments.steps.read_text()).items()}
    else:
        try:
            head = check()
        except SystemExit as problem:
            print(problem, file=sys.stderr)
            return 2
    if unknown := [name for name in arguments.only or () if name not in chosen]:
        print(f"error: no step {unknown[0]!r}: choose from {', '.join(chosen)}", file=sys.stderr)
        return 2
    chosen = {name: part for name, part in chosen.items() if name in (arguments.only or chosen)}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it has begun ends with it
    left = arguments.seconds - (time.monotonic() - begun)
    report = parts.run(chosen, head, arguments.folder / "gpu_check.json", left, page=page)
    return int(bool(report["errors"]))


if __name__ == "__main__":
    sys.exit(main())
