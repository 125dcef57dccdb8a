"""The pages: links between them, that nothing public is left out, and that their code runs as it stands there."""

import re
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import rlrat
from rlrat.datasets.columns import COLUMNS
from rlrat.networks import names
from rlrat.runs.agents import agent_names
from tests.forked import Forked
from tests.short_runs import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# What is read in the repository alone.
BESIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
README_LINES = 80  # two screens


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without code, in which nothing is a link."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", read(page), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Its headings' anchors, as the site and the forges make them of plain headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE), re.M)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_what_is_there_on_the_forge_as_on_the_site(page):
    for url in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if url.startswith("https://"):
            continue
        path, _, anchor = url.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), url
        if page not in BESIDE:
            assert target.is_relative_to(DOCS), f"{url} is no part of the site"
        if anchor:
            assert anchor in anchors(target), url


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads(read(ROOT / "zensical.toml"))["project"]["nav"]

    def pages(entries: list) -> list[str]:
        values = [value for entry in entries for value in entry.values()]
        return [page for value in values for page in (pages(value) if isinstance(value, list) else [value])]

    assert sorted(pages(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("name", ["rational", "approximation", "networks", "datasets", "evaluation", "updates"])
def test_the_reference_has_every_public_name(name):
    package = import_module(f"rlrat.{name}")
    entries = re.findall(r"^::: (\S+)$", read(DOCS / "api" / f"{name}.md"), re.MULTILINE)
    assert sorted(entry.rpartition(".")[2] for entry in entries) == sorted(package.__all__)
    for entry in entries:
        module, _, attribute = entry.rpartition(".")
        assert getattr(import_module(module), attribute) is getattr(package, attribute)


def test_the_reference_names_all_that_rlrat_gives():
    text = read(DOCS / "api" / "README.md")
    assert sorted(set(re.findall(r"`rlrat\.(\w+)`", text.partition("The packages")[0]))) == sorted(rlrat.__all__)


def test_pages_name_every_agent_activation_and_extra():
    for name in agent_names():
        assert f"`agents/{name}.py`" in read(DOCS / "agents.md")
    for name in names():
        assert re.search(rf"`{name}`", read(DOCS / "activations.md")), name
    for name in COLUMNS:
        assert re.search(rf"^\|.*`{name}`.*\|", read(DOCS / "extending.md"), re.MULTILINE), name
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    table = read(DOCS / "start.md").partition("| extra | for |")[2].partition("\n\n")[0]
    named = [
        name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.partition("|")[2].partition("|")[0])
    ]
    assert sorted(named) == sorted(extras)


def test_the_files_to_touch_exist():
    lists = read(DOCS / "extending.md")
    named = set(re.findall(r"`((?:agents|docs|rlrat|scripts|tests)/[\w./]+)`", lists))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_readme_is_two_screens_with_two_commands_one_picture_and_one_table():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= README_LINES
    assert re.findall(r"^make \w+", code(ROOT / "README.md", "bash")[0], re.MULTILINE) == ["make train", "make test"]
    assert text.count("![") == len(re.findall(r"^[| -]*---[| -]*$", text, re.MULTILINE)) == 1
    for command in (
        *code(ROOT / "README.md", "bash")[1].splitlines(),
        *code(ROOT / "README.md", "bash")[2].splitlines(),
    ):
        assert command in read(DOCS / "start.md")


WITH_PYTHON = ("activations.md", "approximation.md", "data.md", "expressivity.md", "extending.md", "rationalize.md")


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_on_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in code(DOCS / page, "python"):
        exec(compile(block, page, "exec"), {})


def test_the_agent_of_the_page_trains_as_it_stands_there(tmp_path, monkeypatch):
    page, file = DOCS / "own_agent.md", tmp_path / "my_agent.py"
    file.write_text("\n".join(code(page, "python")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in code(page, "bash") for line in block.splitlines()]
    assert [command.split()[:2] for command in commands] == [
        ["rlrat", "new-agent"], ["python", "my_agent.py"], ["python", "my_agent.py"], ["rlrat", "compare"]
    ]  # fmt: skip
    for command in commands:
        program, *arguments = command.split()
        how = [sys.executable, *([str(ROOT / "rlrat" / "cli.py")] if program == "rlrat" else [])]
        done = Forked([*how, *arguments], tmp_path).wait()
        assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs").glob("*/my_agent/*/seed*"))
    assert len(runs) == 4
    assert all((run / "summary.json").exists() for run in runs)

    # Any run will do for the page on run folders.
    block = code(DOCS / "runs.md", "python")[0]
    path = re.search(r'load_policy\("(.*?)"\)', block).group(1)
    exec(compile(block.replace(path, str(runs[0])), "runs.md", "exec"), {})
