"""Time README's first command on a fresh clone: `make train`, to the first evaluation and to its end.

It makes an environment of its own, and installs from pip's cache what is there, and the rest from the package index.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST = "update 0:"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", nargs="?", default=str(ROOT), help="by default this one, as it is committed")
    repository = parser.parse_args(argv).repository
    # Of what is active, and of a make that this is a part of, which else says in which folder it is.
    active = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in active}
    environment["PYTHONUNBUFFERED"] = "1"  # lines come when they are printed
    load, first = os.getloadavg()[0], None
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "rlrat")
        if subprocess.run(["git", "clone", "--quiet", repository, clone]).returncode:
            return 2  # git has said why
        begin = time.monotonic()
        with subprocess.Popen(["make", "train"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True) as make:
            for line in make.stdout:
                print(line, end="", flush=True)
                if first is None and line.startswith(FIRST):
                    first = time.monotonic() - begin
        seconds = time.monotonic() - begin
    if make.returncode or first is None:
        print(f"error: make train ended with {make.returncode} and no figure", file=sys.stderr)
        return 1
    print(f"first evaluation after {first:.0f} s, end after {seconds:.0f} s; {load:.1f} processes ran before it began")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
