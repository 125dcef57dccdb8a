"""What the user is told in one line."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlrat.errors import InputError, heard_warnings, one_line_errors, printable, reason, warn
from tests.short_runs import SHORT


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such\n  file."), "no such file"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("scale"), "'scale' is missing"),
    ],
)
def test_a_reason_is_one_line(error, said):
    assert reason(error) == reason(error, end=True) == said


def test_a_long_reason_is_cut():
    error = RuntimeError("a" * 299 + "bc" + "d" * 299)
    assert reason(error) == "a" * 299 + "b"
    assert reason(error, end=True) == "c" + "d" * 299


def test_warnings_are_printed_and_heard(capsys):
    with heard_warnings() as said:
        warn("one")
    warn("two")
    assert said == ["one"]
    assert capsys.readouterr().err == "warning: one\nwarning: two\n"


def test_control_characters_are_no_commands_to_the_terminal(capsys):
    assert printable("a\x1b]0;title\x07\x9b2J\udcffb") == "a�]0;title��2J�b"
    warn("\x1b[2Jone\ntwo\r\n three")
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise InputError("no \x1b[31mfile\n  here")
    assert capsys.readouterr().err == "warning: �[2Jone two  three\nerror: no �[31mfile   here\n"
    assert reason(ValueError("no\x1b[2J file")) == "no�[2J file"


def test_several_mistakes_are_a_line_each(capsys):
    error = InputError("no file", "no\n folder")
    assert reason(error) == "no file; no folder"
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise error
    assert capsys.readouterr().err == "error: no file\nerror: no  folder\n"


def program(text, redirect="", **settings):
    """A program that prints within `one_line_errors`, in a shell."""
    code = f"import sys\nfrom rlrat.errors import *\nwith one_line_errors():\n    {text}\n"
    command = f'"{sys.executable}" -c "$CODE" {redirect}'
    env = {**os.environ, "CODE": code}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, **settings)


@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk_for_stdout_is_one_line_and_the_work_goes_on(tmp_path, flush):
    text = f"print('a', flush={flush}); print('b', flush={flush}); open('done', 'w').close()"
    done = program(text, ">/dev/full", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: cannot write to stdout: No space left on device\n")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("ends", ["pass", "raise SystemExit(0)", "raise SystemExit(7)", "raise InputError('no file')"])
@pytest.mark.parametrize("redirect", [">/dev/full", "| true", ">&-", "2>&1 >/dev/full | true", ">/dev/full 2>&-"])
def test_wherever_it_prints_it_ends_as_it_would(ends, redirect):
    done = program(f"print('a', end=''); warn('b'); {ends}", f"{redirect}; exit ${{PIPESTATUS[0]}}")
    code = {"pass": 0, "raise SystemExit(0)": 0, "raise SystemExit(7)": 7}.get(ends, 2)
    assert done.returncode == (code or 2 if "/dev/full" in redirect else code)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_closed_pipe_is_left_quietly(tmp_path):
    text = "[print('x' * 100, flush=True) for _ in range(1000)]; open('done', 'w').close()"
    done = program(text, "| head -1; exit ${PIPESTATUS[0]}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 100 + "\n", "")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("closed", "number"), [(">&-", 1), ("2>&-", 2)])
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path, closed, number):
    text = "import os; file = open('kept', 'w'); os.write(NUMBER, b'what a library prints'); file.write('data')"
    assert program(text.replace("NUMBER", str(number)), closed, cwd=tmp_path).returncode == 0
    assert (tmp_path / "kept").read_text() == "data"


def test_a_tracebacks_error_is_not_hidden():
    done = program("print('a'); raise OSError(28, 'No space left on device')", ">/dev/full")
    assert done.returncode == 1
    assert done.stderr.endswith("OSError: [Errno 28] No space left on device\n")


def test_a_help_that_nobody_reads_on():
    script = Path(__file__).parents[1] / "scripts" / "sweep.py"
    for redirect, code, said in (("| true", 0, ""), (">/dev/full", 2, "error: cannot write to stdout: No space")):
        command = f'"{sys.executable}" "{script}" --help {redirect}; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == code
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == (code == 2)


def test_letters_that_a_terminal_does_not_have():
    code = "from rlrat.errors import *\nwith one_line_errors(): print('\\udcff ± a')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("? ? a\n", "")


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(("error", "code"), [(errno.EPIPE, None), (errno.ENOSPC, 2), (errno.EIO, 2)])
def test_a_training_goes_on_without_its_terminal(tmp_path, monkeypatch, error, code):
    from agents import bc
    from rlrat.runs.arguments import parse

    arguments = parse(bc.Arguments, "", [*SHORT, "--run-dir", str(tmp_path), "--run-name", "x"])
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", Broken(error))
    found = None
    try:
        with one_line_errors():
            bc.main(arguments)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), ": 7.28 TiB more would be needed at once"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes."),
            ": 4,000 GB more would be needed at once",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU"), ": 20.00 GiB more would be needed at"),
    ],
)
def test_an_allocation_that_fails_is_one_line(error, size, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: there is not enough memory{size}")
    assert "--batch-size" in said


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"), one_line_errors():
        raise RuntimeError("shapes do not match")
