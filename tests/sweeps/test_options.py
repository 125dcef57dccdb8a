"""What the help of a sweep lists is what there is."""

import re
from importlib import resources

import pytest

from rlrat.runs.agents import agent_names
from rlrat.runs.arguments import read_command_line
from rlrat.sweeps.grid import PRESETS, expand, read_grid
from rlrat.sweeps.options import Options, split_axes


def test_the_help_names_every_agent(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        read_command_line(Options, "", ["--help"])
    (listed,) = re.findall(r"([\w ]+), or files of your own\.", capsys.readouterr().out)
    assert sorted(listed.split()) == list(agent_names())


def test_every_preset_has_its_file():
    folder = resources.files("rlrat.sweeps").joinpath("presets")
    assert {file.name for file in folder.iterdir()} == {f"{name}.toml" for name in PRESETS}


@pytest.mark.parametrize("spelling", ["total-updates", "total_updates"])
def test_an_axis_is_the_same_in_either_spelling(tmp_path, spelling):
    _, axes = split_axes([f"--grid.{spelling}", "10"])
    for cell in expand(read_grid("smoke").changed(axes=axes), tmp_path):
        assert cell.arguments.total_updates == 10
