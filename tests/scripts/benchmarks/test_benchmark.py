import json
import os

import pytest
import torch

import benchmark
from tests.short_runs import ROOT

FOLDER = ROOT / "scripts" / "benchmarks"
COMMANDS = [
    path.name
    for path in sorted(FOLDER.glob("*.py"))
    if '__name__ == "__main__"' in path.read_text() and not path.name.startswith("peer_")  # of other libraries
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(run_script, name, capsys):
    assert not run_script(f"benchmarks/{name}", "--help")
    assert capsys.readouterr().out.startswith("usage: ")


def test_a_mistake_in_the_command_line_is_one_line(run_script, capsys):
    assert run_script("benchmarks/benchmark.py", "agents", "--round", "3") == 2
    line = "Unrecognized options: --round, 3. Perhaps you meant: --rounds"
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, about descriptions
def test_a_subcommand_prints_a_line_of_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    benchmark.main(benchmark.Load(episodes=2, steps=3))
    *_, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["benchmark"], found["torch"]) == ("load", torch.__version__)
    assert found["rows"]["transitions"] == 6
    for name in ("from_episodes", "cold", "warm", ".npz cold", ".npz warm"):
        assert found["rows"][name] > 0
        assert found["rows"][f"{name}, CPU"] > 0
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)
    assert not any(tmp_path.iterdir())


def test_commands_are_timed_in_turns(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(benchmark.subprocess, "run", lambda command, **_: started.append(command[1:]))
    rows = benchmark.run_startup(benchmark.Startup(rounds=2))
    commands = dict(zip(rows, started[: len(rows)], strict=True))
    assert started == [*commands.values()] * 2
    assert (ROOT / "agents" / "iql.py").samefile(commands["agents/iql.py --help"][0])
    assert {f"agents/{path.name} --help" for path in (ROOT / "agents").glob("[a-z]*.py")} <= set(rows)
    assert {f"scripts/{path.name} --help" for path in (ROOT / "scripts").glob("[a-z]*.py")} <= set(rows)
    exec(commands["import torch, and every public name of rlrat"][1])  # the names are there
