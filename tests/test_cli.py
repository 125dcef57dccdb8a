"""The command `rlrat`: what it lists, what it runs, and what it says of mistakes."""

import subprocess
import sys

import pytest

from rlrat import cli
from rlrat.runs.agents import agent_names
from tests.short_runs import ROOT, SHORT


def rlrat(*words, cwd=None) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "rlrat.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_help_lists_every_command_with_what_it_is_for(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ") and " " in line[2:]}
    agents = {path.stem for path in (ROOT / "agents").glob("[a-z]*.py")}
    tools = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")}
    assert set(listed) == agents | tools | {"new-agent"}
    assert listed["iql"].startswith("Implicit Q-learning")
    assert all(text.endswith(".") for text in listed.values())
    assert cli.main([]) == 0


def test_help_imports_neither_torch_nor_tyro():
    code = "import sys, rlrat.cli; rlrat.cli.main(['--help']); assert not {'torch', 'tyro', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_command_is_the_file_that_a_clone_runs(tmp_path):
    done = rlrat("bc", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "runs").glob("*/bc/*/seed0/summary.json")]) == 1
    shown = rlrat("decision-transformer", "--help")
    assert shown.returncode == 0
    assert "usage: rlrat decision-transformer" in shown.stdout
    assert "usage: rlrat sweep status" in rlrat("sweep", "status", "--help").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["iqll"], "no command iqll: did you mean iql? give one of " + ", ".join(agent_names())),
        (["mine.py"], "no command mine.py: run a file of your own by python mine.py"),
        (["iql", "--total-updates", "x"], "--total-updates is 'x', but must be a whole number"),
        (["new-agent", "mine.txt"], "mine.txt must end in .py"),
        (["new-agent", "mine.py", "--from", "iqll"], "no agent iqll: did you mean iql?"),
        (["new-agent", "nowhere/mine.py"], "nowhere/mine.py cannot be written: No such file or directory"),
        (["new-agent"], "Missing"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path):
    done = rlrat(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_new_agent_is_a_copy_that_runs_and_overwrites_nothing(tmp_path):
    assert rlrat("new-agent", "mine.py", "--from", "td3_bc", cwd=tmp_path).returncode == 0
    copy = (ROOT / "agents" / "td3_bc.py").read_text().replace('Run("td3_bc", args)', 'Run("mine", args)')
    assert 'Run("mine", args)' in copy
    assert (tmp_path / "mine.py").read_text() == copy
    again = rlrat("new-agent", "mine.py", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (2, "error: mine.py exists already: name another file\n")
    assert (tmp_path / "mine.py").read_text() == copy
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "mine.py", "--help"]
    assert (
        "usage: mine.py"
        in subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout
    )
