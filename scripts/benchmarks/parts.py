"""A measurement in parts, each a process of its own: one that hangs or crashes costs no other.

A part prints figures, each a line, and every one is in the JSON file as soon as it is known.
"""

import json
import math
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    command: list[str]
    limit: float
    """Seconds after which it is ended."""
    description: str = ""


def figure(name: str, value: Any, unit: str = "", at_least: float | None = None, at_most: float | None = None) -> dict:
    """What `Part.command` prints as JSON; `at_least` and `at_most` are aims."""
    found = {"name": name, "value": value, "unit": unit}
    if at_least is not None:
        found |= {"aim": f">= {at_least:g}", "reached": value >= at_least}
    if at_most is not None:
        found |= {"aim": f"<= {at_most:g}", "reached": value <= at_most}
    return found


def _figures(part: Part) -> Iterator[dict]:
    """Raises RuntimeError, after the last figure, if the process failed or was ended."""
    # A pool of torch.compile's would outlive a process that is ended.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    started = time.perf_counter()
    with subprocess.Popen(part.command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        timer = threading.Timer(part.limit, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith('{"name": '):
                    yield json.loads(line)
            process.wait()
        finally:
            timer.cancel()
    if process.returncode != 0:
        late = time.perf_counter() - started >= part.limit
        raise RuntimeError(f"ended after {part.limit:g} s" if late else f"failed with exit code {process.returncode}")


def run(
    parts: dict[str, Part],
    head: dict[str, Any],
    file: Path | None,
    seconds: float = math.inf,
    known: dict | None = None,
) -> dict:
    """Every part in turn: `head`, the figures of each and, of those that broke, the errors; at last it is printed.

    A part is left out if fewer of the `seconds` remain than it may take. What `known`, the report of an earlier run
    that was interrupted, has of parts without an error is not measured again.
    """
    end = time.monotonic() + seconds
    report = {**head, "parts": {}, "errors": {}, "left_out": []}
    if known:
        report["parts"] = {name: found for name, found in known["parts"].items() if name not in known["errors"]}
    missing = {name: part for name, part in parts.items() if name not in report["parts"]}
    try:
        for name, part in missing.items():
            if time.monotonic() + part.limit > end:
                report["left_out"].append(name)
                _write(report, file)
                continue
            print(f"measuring: {name}", flush=True)
            figures = report["parts"][name] = []
            report["errors"][name] = "interrupted"
            try:
                for found in _figures(part):
                    figures.append(found)
                    _write(report, file)
                del report["errors"][name]
                _write(report, file)
            except RuntimeError as error:
                report["errors"][name] = str(error)
                _write(report, file)
    finally:  # also what there is when it is interrupted
        for name in [name for name in parts if name in report["parts"]]:
            print(f"\n{name}: {parts[name].description}")
            print("\n".join(map(_row, report["parts"][name])))
            if name in report["errors"]:
                print(f"  {report['errors'][name]}")
        if report["left_out"]:
            print(f"\nleft out for lack of time: {', '.join(report['left_out'])}")
    return report


def _write(report: dict, file: Path | None) -> None:
    if file is not None:
        whole = file.with_name(f"{file.name}.part")
        whole.write_text(json.dumps(report, indent=1) + "\n")
        whole.replace(file)


def _row(found: dict) -> str:
    value = found["value"]
    if isinstance(value, float):
        value = f"{value:,.3f}" if value < 10 else f"{value:,.1f}"
    reached = {True: "reached", False: "MISSED"}.get(found.get("reached"), "")
    return f"  {found['name']:<58} {value!s:>10} {found['unit']:<4} {found.get('aim', ''):<7} {reached}".rstrip()
