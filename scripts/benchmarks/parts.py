"""A measurement in parts, each a process of its own: one that hangs or crashes costs no other.

A part prints figures, each a line, and every one is in the JSON file as soon as it is known.
"""

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEPT_LINES = 25  # of what a part prints besides its figures
_PATIENCE_SECONDS = 5.0  # after Ctrl-C's signal, for pytest to say what it has


@dataclass(frozen=True)
class Part:
    command: list[str]
    limit: float
    """Seconds after which it is ended."""
    description: str = ""
    least: float | None = None
    """Seconds that must be left to begin it; by default the `limit`."""
    quiet: bool = False
    """It fails if it prints anything but figures, such as a warning."""


def figure(name: str, value: Any, unit: str = "", at_least: float | None = None, at_most: float | None = None) -> dict:
    """What `Part.command` prints as JSON; `at_least` and `at_most` are aims."""
    found = {"name": name, "value": value, "unit": unit}
    if at_least is not None:
        found |= {"aim": f">= {at_least:g}", "reached": value >= at_least}
    if at_most is not None:
        found |= {"aim": f"<= {at_most:g}", "reached": value <= at_most}
    return found


def _figures(part: Part, limit: float, said: deque[str]) -> Iterator[dict]:
    """Print, and append to `said`, what is no figure.

    Raises RuntimeError, after the last figure, if the process failed, was ended after `limit` seconds, or said
    something where it should be quiet.
    """
    # A pool of torch.compile's would outlive a process that is ended.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    timers = []

    def end(number: signal.Signals) -> None:
        try:
            os.killpg(process.pid, number)  # its workers, too, which else would keep the pipe open
        except ProcessLookupError:
            return

    with subprocess.Popen(
        part.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        process_group=0,
    ) as process:
        try:
            for seconds, number in ((limit, signal.SIGINT), (limit + _PATIENCE_SECONDS, signal.SIGKILL)):
                timers.append(threading.Timer(seconds, end, (number,)))
                timers[-1].start()
            started = time.perf_counter()
            for line in process.stdout:
                if line.startswith('{"name": '):
                    yield json.loads(line)
                elif line.strip():
                    print(line, end="", flush=True)
                    said.append(line.rstrip())
            process.wait()
        finally:
            for timer in timers:
                timer.cancel()
            end(signal.SIGKILL)
    if process.returncode != 0:
        late = time.perf_counter() - started >= limit
        raise RuntimeError(f"ended after {limit:.3g} s" if late else f"failed with exit code {process.returncode}")
    if part.quiet and said:
        raise RuntimeError(f"said: {said[0]}")


def run(
    parts: dict[str, Part],
    head: dict[str, Any],
    file: Path | None,
    seconds: float = math.inf,
    known: dict | None = None,
    page: Callable[[dict], str] | None = None,
) -> dict:
    """Every part in turn: `head`, the figures of each and, of those that broke, the errors; at last it is printed.

    A part is left out if fewer of the `seconds` remain than it needs. What `known`, the report of an earlier run
    that was interrupted, has of parts without an error is not measured again. `page` makes of the report what is
    written beside `file` each time, as Markdown.
    """
    end = time.monotonic() + seconds
    report = {**head, "parts": {}, "took": {}, "errors": {}, "said": {}, "left_out": []}
    if known:
        report["parts"] = {name: found for name, found in known["parts"].items() if name not in known["errors"]}
    missing = {name: part for name, part in parts.items() if name not in report["parts"]}

    def write() -> None:
        if file is not None:
            _write(json.dumps(report, indent=1) + "\n", file)
            if page is not None:
                _write(page(report), file.with_suffix(".md"))

    try:
        for name, part in missing.items():
            left = end - time.monotonic()
            if left < (part.limit if part.least is None else part.least):
                report["left_out"].append(name)
                write()
                continue
            print(f"measuring: {name}", flush=True)
            figures, said, started = [], deque(maxlen=_KEPT_LINES), time.monotonic()
            report["parts"][name] = figures
            report["errors"][name] = "interrupted"
            try:
                for found in _figures(part, min(part.limit, left), said):
                    figures.append(found)
                    write()
                del report["errors"][name]
            except RuntimeError as error:
                report["errors"][name] = str(error)
                report["said"][name] = list(said)
            report["took"][name] = round(time.monotonic() - started, 1)
            write()
    finally:  # also what there is when it is interrupted
        for name in [name for name in parts if name in report["parts"]]:
            print(f"\n{name}: {parts[name].description}")
            print("\n".join(map(_row, report["parts"][name])))
            if name in report["errors"]:
                print(f"  {report['errors'][name]}")
        if report["left_out"]:
            print(f"\nleft out for lack of time: {', '.join(report['left_out'])}")
    return report


def _write(text: str, file: Path) -> None:
    whole = file.with_name(f"{file.name}.part")
    whole.write_text(text)
    whole.replace(file)


def shown(value: Any) -> str:
    """Return a figure's value as it is printed."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def verdict(found: dict) -> str:
    """Say whether a figure's aim, if it has one, is reached."""
    return {True: "reached", False: "MISSED"}.get(found.get("reached"), "")


def _row(found: dict) -> str:
    row = f"  {found['name']:<58} {shown(found['value']):>10} {found['unit']:<4} {found.get('aim', ''):<7}"
    return f"{row} {verdict(found)}".rstrip()
