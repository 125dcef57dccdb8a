"""Make an environment in which rlrat is installed, once, and do there what `make train` and `make test` say.

The environment is the active virtualenv or conda environment, else `.venv`. What was installed for a goal is written
down in `.make` when it is done, so that a second time nothing is installed.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(".venv")
NOTES = Path(".make")
EXTRAS = {"train": "", "test": "[test]"}
COMMANDS = {
    "train": "agents/iql.py --activation rational --total-updates 2000 --eval-every 1000 --eval-episodes 4",
    "test": "-m pytest",
}
LEAST_TORCH = (2, 11)
_COMPILERS = ("cc", "gcc", "clang")
# What pip's libraries, old and new, call it.
_OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "Temporary failure in name resolution")


def main(goal: str, base: str) -> int:
    """Install what `goal` needs and do it; return the exit code. `base` is the Python that makes `.venv`."""
    os.chdir(ROOT)
    try:
        python = ready(goal, base)
    except KeyboardInterrupt:
        fail("stopped before all was installed; what was downloaded is kept, so type make again", code=130)
    signal.signal(signal.SIGINT, lambda *_: None)  # what runs now answers Ctrl-C itself, by saving a checkpoint
    code = subprocess.run([python, *COMMANDS[goal].split()]).returncode
    if goal == "train" and code == 0:
        say_what_is_next(python)
    return code


def ready(goal: str, base: str) -> str:
    """Install what `goal` needs where that is not there; return the Python that has it."""
    with locked():
        python = active_python()
        if python is None:
            python = str(VENV / "bin" / "python")
            check_whole(python)
        if not is_installed(goal, python):
            if not VENV.exists() and active_python() is None:
                with removed_on_failure():
                    make_environment(base)
                    install(goal, python)
            else:
                install(goal, python)
    return python


def fail(line: str, code: int = 2) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def locked() -> Iterator[None]:
    """Wait while another `make` installs here."""
    try:
        NOTES.mkdir(exist_ok=True)
        file = (NOTES / "lock").open("w")
    except OSError as error:
        fail(
            f"{ROOT / NOTES} cannot be written ({error.strerror}): clone rlrat where you may write, and type make there"
        )
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another make installs here: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def active_python() -> str | None:
    """The Python of the active environment; None where there is none."""
    prefix = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return str(Path(prefix, "bin", "python")) if prefix else None


def check_whole(python: str) -> None:
    """Refuse a `.venv` of which only a part was made, or that has no pip."""
    if VENV.exists() and not (os.path.exists(python) and says_yes(python, "-m", "pip", "--version")):
        settings = VENV / "pyvenv.cfg"
        uv = settings.is_file() and any(line.startswith("uv =") for line in settings.read_text().splitlines())
        what = "was made by uv, without pip: use uv run, or" if uv else "is only half made:"
        fail(f"{VENV} {what} delete it (rm -r {VENV}) and type make again")


def says_yes(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def make_environment(base: str) -> None:
    """Make `.venv`. A PyTorch that this Python has already, perhaps with its GPU's libraries, is kept."""
    options = ["--system-site-packages"] if has_torch() else []
    made = subprocess.run([base, "-m", "venv", *options, VENV], capture_output=True, text=True)
    if made.returncode == 0:
        return
    said, package = made.stdout + made.stderr, f"python3.{sys.version_info.minor}-venv"
    if "ensurepip" in said or "No module named venv" in said:
        fail(f"{base} cannot make a virtual environment: apt install {package}, and type make again")
    fail(f"{base} cannot make {VENV}: {last_line(said)}")


@contextmanager
def removed_on_failure() -> Iterator[None]:
    """Leave no half of `.venv`."""
    try:
        yield
    except BaseException:
        shutil.rmtree(VENV, ignore_errors=True)
        raise


def has_torch() -> bool:
    """Whether this Python has a PyTorch that rlrat can use."""
    try:
        found = importlib.metadata.version("torch").split("+")[0].split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in found[:2]) >= LEAST_TORCH


def is_installed(goal: str, python: str) -> bool:
    """Whether the notes say that what `goal` needs is in this environment; a test's environment can train, too.

    The environment is asked as well: since the note was written it may have been deleted, made anew, or given another
    clone's rlrat.
    """
    own = "import os, sys, rlrat; sys.exit(not os.path.samefile(rlrat.__file__, sys.argv[1]))"
    if not os.path.exists(python) or not says_yes(python, "-I", "-c", own, str(ROOT / "rlrat" / "__init__.py")):
        return False
    wanted = fingerprint(python)
    return any(
        note.is_file() and note.read_text().split() == [wanted]
        for note in (NOTES / name for name in EXTRAS)
        if note.name in (goal, "test")
    )


def fingerprint(python: str) -> str:
    """What an installation depends on: environment, pyproject.toml, C sources, and a compiler where none was."""
    digest = hashlib.sha256(os.path.realpath(os.path.dirname(python)).encode())
    for path in sorted(
        [Path("pyproject.toml"), *Path("rlrat/rational").glob("*.c"), *Path("rlrat/rational").glob("*.inc")]
    ):
        digest.update(path.read_bytes())
    built = any(Path("rlrat/rational").glob("_cpu*.so"))
    digest.update(b"compiled" if built or compiler() else b"plain")
    return digest.hexdigest()


def compiler() -> str | None:
    return next((found for name in (os.environ.get("CC"), *_COMPILERS) if name and (found := shutil.which(name))), None)


def install(goal: str, python: str) -> None:
    """Install rlrat, editable, with what `goal` needs besides, and write it down."""
    note = NOTES / goal
    note.unlink(missing_ok=True)
    print(f"installing rlrat{EXTRAS[goal]} into {os.path.dirname(os.path.dirname(python))}: some minutes, most of them "
          "PyTorch's", flush=True)  # fmt: skip
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [
        python,
        "-m",
        "pip",
        "install",
        *quiet,
        "--disable-pip-version-check",
        "--no-input",
        "-e",
        f".{EXTRAS[goal]}",
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        offline = any(word in done.stderr for word in _OFFLINE)
        reason = "no package index can be reached" if offline else last_line(done.stderr)
        fail(f"rlrat could not be installed: {reason}; what was downloaded is kept, so type make again")
    note.write_text(fingerprint(python) + "\n")
    if not any(Path("rlrat/rational").glob("_cpu*.so")):
        why = "need a C compiler: install gcc or clang and type make again; until then they run on"
        if compiler():
            why = f"could not be compiled ({python} -m pip install -v -e . shows why), so they run on"
        print(f"the C kernels of rational activations {why} plain PyTorch, several times slower")


def last_line(text: str) -> str:
    """The last of the lines that say what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason is given"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1]).removeprefix("ERROR: ")


def say_what_is_next(python: str) -> None:
    subprocess.run([python, "-m", "rlrat.rational"])
    activate = "" if active_python() else f"source {VENV}/bin/activate && "
    print(f"next: {activate}python agents/iql.py --activation rational --policy tanh_gaussian --total-updates 20000")


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
