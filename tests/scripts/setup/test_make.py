"""make train and make test beside stand-ins for Python and pip: what is installed, when, and what a mistake says."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.short_runs import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# A Python that does what make.py asks of it, writes down the words that it was given, and is real for make.py itself.
PYTHON = """#!/bin/sh
case "$1" in
    -c) [ -n "$SAID_VERSION" ] && echo "$SAID_VERSION" && exit 0; exec "{real}" "$@" ;;
    *make.py) exec "{real}" "$@" ;;
esac
echo "$@" >> "{log}"
case "$*" in
    *"-m venv"*) [ -n "$NO_VENV" ] && echo "ensurepip is not available" >&2 && exit 1
        for last; do :; done; mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
    -I*) [ -n "$OTHER_RLRAT" ] && exit 1 ;;
    *"pip install"*) [ -n "$PIP_SAYS" ] && echo "$PIP_SAYS" >&2 && exit 1; sleep "${{PIP_TAKES:-0}}" ;;
esac
exit 0
"""


@pytest.fixture
def clone(tmp_path):
    """What make looks at of a clone, in a folder with a blank in its name."""
    root = tmp_path / "a clone"
    for name in ("Makefile", "pyproject.toml", "scripts/setup/make.sh", "scripts/setup/make.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "rlrat" / "rational").mkdir(parents=True)
    (root / "rlrat" / "rational" / "cpu.c").write_text("int x;\n")
    (root / "rlrat" / "rational" / "_cpu.so").touch()
    return root


@pytest.fixture
def make(clone, tmp_path):
    """`make("train")`: what it printed and returned, and the commands that its Python was given."""
    log, bin = tmp_path / "log", tmp_path / "bin"
    bin.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3"):  # none of this machine's is found
        (bin / name).write_text(PYTHON.format(real=sys.executable, log=log))
        (bin / name).chmod(0o755)

    def run(goal: str, start: bool = False, **environment: str):
        log.unlink(missing_ok=True)
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")
        }
        kept |= {"PATH": f"{bin}:/usr/bin:/bin", **environment}
        process = subprocess.Popen(
            ["make", goal],
            cwd=clone,
            env=kept,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=start,
        )
        if start:
            return process
        process.out, process.err = process.communicate(timeout=60)
        process.commands = log.read_text().splitlines() if log.exists() else []
        return process

    return run


def installs(done) -> list[str]:
    return [command for command in done.commands if "pip install" in command]


def test_the_second_time_nothing_is_installed(make):
    first = make("train")
    assert first.returncode == 0, first.err
    assert [command.split()[-1] for command in installs(first)] == ["."]
    assert any(command.startswith("agents/iql.py --activation rational") for command in first.commands)
    assert "next: source .venv/bin/activate && python agents/iql.py" in first.out
    second = make("train")
    assert installs(second) == []
    assert any(command.startswith("agents/iql.py") for command in second.commands)


def test_tests_need_more_and_what_they_have_is_enough_to_train(make):
    make("train")
    tests = make("test")
    assert [command.split()[-1] for command in installs(tests)] == [".[test]"]
    assert tests.commands[-1] == "-m pytest"
    assert installs(make("train")) == installs(make("test")) == []


def test_an_environment_that_was_deleted_is_made_again(make, clone):
    make("train")
    shutil.rmtree(clone / ".venv")
    again = make("train")
    assert again.returncode == 0, again.err
    assert len(installs(again)) == 1


def test_an_environment_without_this_rlrat_is_installed_into_again(make):
    make("train")
    assert len(installs(make("train", OTHER_RLRAT="1"))) == 1


@pytest.mark.parametrize("changed", ["pyproject.toml", "rlrat/rational/cpu.c"])
def test_what_it_depends_on_is_installed_again_when_it_changes(make, clone, changed):
    make("train")
    with (clone / changed).open("a") as file:
        file.write("\n")
    assert len(installs(make("train"))) == 1


def test_an_active_environment_is_used(make, tmp_path):
    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "bin" / "python3", active / "bin" / "python")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        done = make("train", **{name: str(active)})
        assert done.returncode == 0, done.err
        assert not any("venv" in command for command in done.commands)
    assert "next: python agents/iql.py" in done.out


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_another_python_is_one_line(make, clone, version):
    done = make("train", SAID_VERSION=version)
    assert done.returncode != 0
    assert f"error: rlrat needs Python 3.11, 3.12 or 3.13 (python3 is {version}): install one" in done.err
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("name", "leave"),
    [
        ("VIRTUAL_ENV", "deactivate, or unset VIRTUAL_ENV"),
        ("CONDA_PREFIX", "conda deactivate, or conda install python=3.12"),
    ],
)
def test_an_active_environment_without_a_python_is_said(make, tmp_path, name, leave):
    gone, old = tmp_path / "gone", tmp_path / "old"
    what = "has no Python 3.11, 3.12 or 3.13"
    assert error(make("train", **{name: str(gone)})) == (
        f"error: the active environment {gone} {what}: leave it ({leave}) and type make again"
    )
    (old / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "bin" / "python3", old / "bin" / "python")
    done = make("train", **{name: str(old)}, SAID_VERSION="3.10")
    assert f"{what} ({old}/bin/python is 3.10): leave it" in error(done)


def error(done) -> str:
    """The one line that make.py says, without make's own."""
    (line,) = [line for line in done.err.splitlines() if not line.startswith("make")]
    return line


def test_without_venv_it_is_said_and_nothing_is_left(make, clone):
    done = make("train", NO_VENV="1")
    package = f"python3.{sys.version_info.minor}-venv"
    assert f"cannot make a virtual environment: apt install {package}, and type make again" in error(done)
    assert not (clone / ".venv").exists()
    assert make("train").returncode == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("NewConnectionError: x\nERROR: No matching distribution found", "no package index can be reached"),
        (
            "WARNING: x\nERROR: No matching distribution found for torch>=2.11",
            "No matching distribution found for torch>=2.11",
        ),
    ],
)
def test_a_pip_that_fails_is_one_line_and_nothing_is_left(make, clone, said, reason):
    done = make("train", PIP_SAYS=said)
    assert error(done).startswith(f"error: rlrat could not be installed: {reason}")
    assert not (clone / ".venv").exists()
    assert len(installs(make("train"))) == 1


def test_an_environment_of_uv_is_not_called_half_made(make, clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.0\n")
    said = "error: .venv was made by uv, without pip: use uv run, or delete it (rm -r .venv) and type make again"
    assert error(make("train")) == said


def test_the_python_of_an_environment_is_enough(make, clone, tmp_path):
    make("train")
    for python in (tmp_path / "bin").iterdir():
        python.write_text("#!/bin/sh\nexit 127\n")
    assert make("train").returncode == 0


def test_a_half_made_environment_is_said(make, clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    done = make("train")
    assert error(done) == "error: .venv is only half made: delete it (rm -r .venv) and type make again"
    assert done.commands == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_clone_that_cannot_be_written_is_one_line(make, clone):
    clone.chmod(0o555)
    try:
        done = make("train")
    finally:
        clone.chmod(0o755)
    assert "cannot be written (Permission denied): clone rlrat where you may write" in error(done)


def test_two_at_once_install_once(make, clone, tmp_path):
    first = make("train", start=True, PIP_TAKES="2")
    while not (Path(tmp_path / "log").exists() and "pip install" in Path(tmp_path / "log").read_text()):
        time.sleep(0.02)
        assert first.poll() is None
    log = Path(tmp_path / "log")
    kept = log.read_text()
    second = make("train")
    assert first.wait() == second.returncode == 0
    assert "another make installs here: waiting for it" in second.out
    assert "pip install" in kept
    assert installs(second) == []
    first.communicate()


def test_ctrl_c_while_installing_is_one_line_and_nothing_is_left(make, clone, tmp_path):
    process = make("train", start=True, PIP_TAKES="60")
    while not (Path(tmp_path / "log").exists() and "pip install" in Path(tmp_path / "log").read_text()):
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.out, process.err = process.communicate(timeout=30)
    assert process.returncode != 0
    said = "error: stopped before all was installed; what was downloaded is kept, so type make again"
    assert [line for line in process.err.splitlines() if not line.startswith("make")] == [said]
    assert not (clone / ".venv").exists()
    assert make("train").returncode == 0


@pytest.mark.parametrize("compiler", ["cc", None])
def test_kernels_that_were_not_built_are_said_once_and_as_it_is(make, clone, tmp_path, compiler):
    (clone / "rlrat" / "rational" / "_cpu.so").unlink()
    path = tmp_path / "compilers"
    path.mkdir()
    if compiler:
        (path / compiler).symlink_to("/bin/true")
    for name in ("sh", "make", "dirname", "mkdir", "cp", "sleep"):
        (path / name).symlink_to(shutil.which(name))
    first, second = (make("train", PATH=f"{tmp_path / 'bin'}:{path}", CC="") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.err
    (said,) = [line for line in first.out.splitlines() if line.startswith("the C kernels of rational activations ")]
    assert said.removeprefix("the C kernels of rational activations ") == (
        "could not be compiled (.venv/bin/python -m pip install -v -e . shows why), so they run on plain PyTorch, "
        "several times slower"
        if compiler
        else "need a C compiler: install gcc or clang and type make again; until then they run on plain PyTorch, "
        "several times slower"
    )
    assert "C kernels" not in second.out
    (path / "gcc").symlink_to("/bin/true")
    assert len(installs(make("train", PATH=f"{tmp_path / 'bin'}:{path}", CC=""))) == (not compiler)


def test_a_python_that_pyenv_only_names_is_passed_over(make, tmp_path):
    (tmp_path / "bin" / "python3.13").write_text(
        "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n"
    )
    done = make("train")
    assert done.returncode == 0, done.err
