"""Presets of an agent: published settings for each dataset."""

import pytest

from rlrat.datasets.d4rl_names import NAMES
from rlrat.errors import InputError
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import identity, parse, run_name, validate
from rlrat.runs.presets import with_preset
from rlrat.runs.training import _made
from rlrat.sweeps.agents import read_agent


@pytest.mark.parametrize(("agent", "name", "count"), [("awac", "awac-d4rl", 42), ("rebrac", "rebrac-d4rl", 39)])
def test_a_preset_holds_settings_of_its_agent(agent, name, count):
    kind = load_agent(agent).Arguments
    table = kind.presets[name]
    assert len(table) == count
    assert table.keys() <= NAMES.keys()
    for dataset in table:
        arguments = _made(kind, with_preset(kind, {"preset": name, "dataset": dataset}))  # of the right types
        validate(arguments)
        assert arguments.total_updates == 1_000_000


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("antmaze-large-play-v2", (0.002, 0.001, 256, 3e-4, 5e-5, 0.999, 100.0)),
        ("pen-cloned-v1", (0.05, 0.5, 256, 3e-4, 3e-4, 0.99, 1.0)),
    ],
)
def test_the_command_line_takes_a_preset(dataset, expected):
    kind, argv = load_agent("rebrac").Arguments, ["--preset", "rebrac-d4rl", "--dataset", dataset]
    names = ("actor_penalty", "critic_penalty", "batch_size", "actor_learning_rate", "critic_learning_rate")
    names += ("discount", "reward_factor")
    chosen = parse(kind, "", argv)
    assert tuple(getattr(chosen, name) for name in names) == expected
    # What is given wins, also where it is the agent's default.
    given = parse(kind, "", [*argv, "--actor-penalty", "0.01", "--batch-size", "1024", "--rational.degrees", "3", "2"])
    assert (given.actor_penalty, given.batch_size, given.critic_penalty) == (0.01, 1024, expected[1])
    assert given.rational.degrees == (3, 2)


def test_a_run_is_known_by_what_a_preset_sets():
    kind = load_agent("rebrac").Arguments
    chosen = parse(kind, "", ["--preset", "rebrac-d4rl", "--dataset", "hopper-medium-replay-v2"])
    typed = kind(dataset="hopper-medium-replay-v2", actor_penalty=0.05, critic_penalty=0.5, total_updates=1_000_000)
    assert identity(chosen) == identity(typed)
    assert run_name(chosen) == run_name(typed) == "actor_penalty=0.05,critic_penalty=0.5"


def test_sweeps_take_a_preset_for_each_dataset():
    agent, found = read_agent("rebrac"), []
    for dataset in ("hopper-medium-v2", "hopper-medium-replay-v2"):
        values = {"dataset": dataset, "activation": "relu", "preset": "rebrac-d4rl", "actor_penalty": 0.3}
        found.append(
            (agent.run_name(values), agent.build(values).critic_penalty, agent.identity(values)["actor_penalty"])
        )
    assert found == [("actor_penalty=0.3", 0.01, 0.3), ("actor_penalty=0.3,critic_penalty=0.5", 0.5, 0.3)]


@pytest.mark.parametrize(
    ("dataset", "known"),
    [
        ("hopper-medium-v1", "hopper-medium-v2, hopper-medium-replay-v2, hopper-medium-expert-v2"),
        ("x/y-v0", "antmaze-large-diverse-v2, antmaze-large-play-v2, antmaze-medium-diverse-v2, 36 more"),
    ],
)
def test_a_dataset_without_published_settings_is_named(dataset, known):
    with pytest.raises(InputError) as error:
        with_preset(load_agent("rebrac").Arguments, {"preset": "rebrac-d4rl", "dataset": dataset})
    assert str(error.value) == f"--preset rebrac-d4rl has no settings for the dataset {dataset}, but for {known}"


@pytest.mark.parametrize("agent", ["rebrac"])
def test_mistakes_are_one_line_and_leave_nothing(run_agent, tmp_path, agent):
    refused = run_agent("--preset", "rebrac-d4rl", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "no settings for the dataset rlrat/hopper/mixed-v0" in refused.stderr
    assert not list(tmp_path.glob("runs/*"))
    unknown = run_agent("--preset", "x", check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert unknown.stderr.startswith("error: invalid choice 'x' for argument '--preset'. Expected one of (")
