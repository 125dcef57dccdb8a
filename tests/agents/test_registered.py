"""Every agent is registered, and what is registered is so; pages and benchmarks have every agent, too."""

import difflib
import re

import pytest

from rlrat.runs.agents import agent_names, find_agent, load_agent
from tests.agents.learners import AGENTS, make_learner
from tests.agents.registered import REGISTERED, command_line
from tests.short_runs import ROOT

HOW = "add it to REGISTERED in tests/agents/registered.py, see docs/extending.md"


@pytest.mark.parametrize("agent", agent_names())
def test_every_agent_is_registered(agent):
    assert agent in REGISTERED, f"agents/{agent}.py is not registered: {HOW}"


def test_what_is_registered_is_an_agent():
    assert not REGISTERED.keys() - {*agent_names()}


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_registered_of_an_agent_is_so(small_dataset, agent):
    registered, kind = REGISTERED[agent], load_agent(agent).Arguments
    for settings in (registered.small, registered.counting, registered.dropout, registered.fixed):
        kind(**settings)
    name, value = registered.setting
    assert getattr(kind(), name) != value
    learner, _ = make_learner(agent, small_dataset, [3])
    for critic in registered.critics:
        assert getattr(learner, critic).batch_shape[0] == 1


@pytest.mark.parametrize("agent", AGENTS)
def test_pages_have_every_agent_with_its_paper(agent):
    title = REGISTERED[agent].title
    (row,) = re.findall(rf"^\| {re.escape(title)} \| `agents/{agent}\.py`.*$", read("docs/agents.md"), re.MULTILINE)
    papers = re.findall(r"arXiv (\d+\.\d+)", find_agent(agent).read_text(encoding="utf-8").partition("\n")[0])
    assert papers
    for paper in papers:
        assert f"arxiv.org/abs/{paper}" in row
    (listed,) = re.findall(r"\[an agent\]\(docs/agents\.md\) \(([^)]*)\)", read("README.md"))
    assert title.partition(",")[0] in listed.split(", ")
    (listed,) = re.findall(r"\*\*Single-file agents\*\*: ([^:]*), each one file", read("docs/index.md"))
    assert title.partition(",")[0] in re.split(r", | and ", listed)


@pytest.mark.parametrize(("agent", "like"), [("rebrac", "td3_bc"), ("awac", "iql")])
def test_an_agent_differs_from_the_most_similar_one_by_its_algorithm_alone(agent, like):
    ours, theirs = (find_agent(name).read_text(encoding="utf-8").splitlines() for name in (agent, like))
    changed = [
        line for line in difflib.unified_diff(theirs, ours, n=0, lineterm="") if re.match(r"[-+](?!--|\+\+)", line)
    ]
    assert len(changed) < 150


def test_numbers_become_a_command_line():
    assert command_line({"num_layers": 1, "actor_dropout": 0.1}) == ("--num-layers", "1", "--actor-dropout", "0.1")


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")
