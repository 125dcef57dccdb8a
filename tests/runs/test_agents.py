"""Agents' files are found by name or path, and loaded as the modules that imports have."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from rlrat.errors import InputError
from rlrat.runs import agents
from rlrat.runs.agents import agent_names, agents_folder, find_agent, learner_class, load_agent
from tests.short_runs import ROOT


def test_names_and_files_are_those_of_the_folder():
    assert agents_folder() == ROOT / "agents"
    assert agent_names() == tuple(sorted(file.stem for file in (ROOT / "agents").glob("[!_]*.py")))
    for name in agent_names():
        assert find_agent(name) == ROOT / "agents" / f"{name}.py"


def test_a_wheel_has_the_agents_inside_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "rlrat" / "agents").mkdir(parents=True)
    for name in ("bc", "__init__"):
        (tmp_path / "rlrat" / "agents" / f"{name}.py").touch()
    monkeypatch.setattr(agents.rlrat, "__file__", str(tmp_path / "rlrat" / "__init__.py"))
    assert agents_folder() == tmp_path / "rlrat" / "agents"
    assert agent_names() == ("bc",)


def test_an_installed_rlrat_has_no_agents_of_another_project(tmp_path, monkeypatch):
    (tmp_path / "rlrat").mkdir()
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "run.py").write_text("raise SystemExit('another project')\n")
    monkeypatch.setattr(agents.rlrat, "__file__", str(tmp_path / "rlrat" / "__init__.py"))
    assert agent_names() == ()
    with pytest.raises(InputError, match="no agent run: rlrat is installed without any, so give a file of your own"):
        load_agent("run")


def test_finding_an_agent_imports_neither_torch_nor_tyro():
    script = """
import sys
from rlrat.runs.agents import agent_names, find_agent
assert find_agent(agent_names()[0]).is_file()
assert not {"torch", "tyro", "numpy"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iqll", "no agent iqll: did you mean iql? give one of " + ", ".join(agent_names()) + ", or a file"),
        ("zzz", "no agent zzz: give one of " + ", ".join(agent_names())),
        ("", "no agent : give one of"),
        ("../agents/iql", "no agent ../agents/iql: give one of"),
        ("mine.py", "no agent mine.py: give one of"),
        ("a" * 300 + ".py", "no agent a"),
        ("a\0.py", "no agent a"),
        ("agents.py", "no agent agents.py"),  # a folder
    ],
)
def test_an_agent_that_is_not_there_is_one_line(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents.py").mkdir()
    with pytest.raises(InputError) as error:
        find_agent(name)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", agent_names())
def test_an_agent_is_the_module_that_import_gives(name):
    module = load_agent(name)
    assert module is load_agent(name) is importlib.import_module(f"agents.{name}")
    assert Path(module.__file__) == find_agent(name)
    assert f'Run("{name}", args)' in inspect.getsource(module.main)
    assert f"run.build({learner_class(module).__name__})" in inspect.getsource(module.main)


def test_an_agent_is_loaded_where_agents_are_another_projects(tmp_path):
    """Or where no import finds them, as in an installed wheel."""
    script = """
import sys
from rlrat.runs.agents import load_agent
module = load_agent("bc")
assert module.__name__ == "agents.bc" and module.Arguments().best_episodes == 1.0
assert module is load_agent("bc") is sys.modules["agents.bc"]
"""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise SystemExit('another project')\n")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "rlrat").symlink_to(ROOT / "rlrat")
    environment = {"PYTHONPATH": f"{tmp_path}:{tmp_path / 'only'}", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)


def test_a_file_of_ones_own_is_an_agent_of_its_own(tmp_path, monkeypatch):
    for folder, number in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "iql.py").write_text(f"class Mine:\n    def inputs(): ...\n    def update(): {number}\n")
    monkeypatch.chdir(tmp_path / "one")
    mine, other = load_agent("iql.py"), load_agent(str(tmp_path / "two" / "iql.py"))
    assert mine is load_agent(str(tmp_path / "one" / "iql.py"))
    assert len({mine, other, load_agent("iql")}) == 3
    assert find_agent("iql.py") == tmp_path / "one" / "iql.py"
    assert learner_class(mine) is mine.Mine


def test_what_is_wrong_in_an_agent_is_its_own_error_each_time(tmp_path):
    (tmp_path / "mine.py").write_text("import nothing_of_that_name\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            load_agent(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(("names", "said"), [([], "none"), (["One", "Two"], "One, Two")])
def test_an_agent_has_one_class_with_updates(names, said, tmp_path):
    text = "".join(f"class {name}:\n    inputs = update = print\n" for name in names)
    (tmp_path / "mine.py").write_text(text + "class Optimizer:\n    update = print\n")
    with pytest.raises(InputError, match=rf"mine.py must have one class with inputs and update, but has {said}$"):
        learner_class(load_agent(str(tmp_path / "mine.py")))
