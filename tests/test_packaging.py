"""What an installed rlrat has: the packages of the tree, the types of its names, one version."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib

import pytest

import rlrat
from tests.short_runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_INSTALLED = {"scripts/benchmarks", "scripts/setup"}
IGNORE = re.compile(r"#\s*(?:type|pyright)\s*:\s*ignore(?:\[[^]]*\])?[\s:#,;]*(.*)")
MOST_IGNORES = 20
LAZY = sorted(path.parent for path in (ROOT / "rlrat").glob("**/__init__.pyi"))


def test_every_package_of_the_tree_is_installed():
    folders = {path.parent for top in ("rlrat", "agents", "scripts") for path in (ROOT / top).glob("**/*.py")}
    packages = {str(folder.relative_to(ROOT)) for folder in folders} - NOT_INSTALLED
    named = {name: SETUPTOOLS["package-dir"].get(name, name.replace(".", "/")) for name in SETUPTOOLS["packages"]}
    assert set(named.values()) == packages
    assert named["rlrat.agents"] == "agents"
    assert all((ROOT / folder / "__init__.py").is_file() for folder in packages)


@pytest.mark.parametrize("folder", LAZY, ids=lambda folder: folder.name)
def test_type_checkers_are_told_what_a_lazy_package_hands_on(folder):
    package = importlib.import_module(".".join(folder.relative_to(ROOT).parts))
    told = {}
    for node in ast.parse((folder / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            home = ".".join(filter(None, [package.__name__, node.module]))
            told |= {alias.asname: (home, alias.name) for alias in node.names}
    assert sorted(told) == sorted(package.__all__)
    for name, (home, own) in told.items():
        found = getattr(importlib.import_module(home), own)
        assert getattr(package, name) is found, name


def test_every_lazy_package_tells_type_checkers():
    lazy = {path.parent for path in (ROOT / "rlrat").glob("**/__init__.py") if "lazy(" in path.read_text()}
    assert {*LAZY} == lazy


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x = f()  # type: ignore", ""),
        ("x = f()  # pyright: ignore[reportCallIssue, reportIndexIssue]", ""),
        ("x = f()  # type:ignore[attr-defined]  # h5py has no types", "h5py has no types"),
        ("x = f()  # pyright: ignore: Triton need not be installed", "Triton need not be installed"),
    ],
)
def test_the_reason_of_an_ignore_is_found(line, reason):
    assert IGNORE.findall(line) == [reason]


def test_few_types_are_ignored_and_each_for_a_reason():
    files = [file for top in ("rlrat", "agents", "scripts") for file in sorted((ROOT / top).glob("**/*.py*"))]
    files = [file for file in files if file.suffix in (".py", ".pyi")]
    assert len(files) > 100
    found = [(file, reason) for file in files for reason in IGNORE.findall(file.read_text())]
    assert len(found) <= MOST_IGNORES
    assert not [file for file, reason in found if not reason]


def test_the_version_stands_once():
    said = subprocess.run([sys.executable, "-m", "rlrat.cli", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"rlrat {PROJECT['project']['version']}\n"
    assert f"## [{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert not hasattr(rlrat, "__version__")
