import subprocess
import sys

import pytest

from rlrat.errors import InputError
from rlrat.sweeps.agents import read_agent


def test_an_agents_settings_are_read_without_importing_torch():
    script = """
import sys
from rlrat.runs.agents import agent_names
from rlrat.sweeps import commands
from rlrat.sweeps.agents import read_agent
for name in agent_names():
    read_agent(name).defaults
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_read_agent_refuses_what_is_no_agent(tmp_path):
    for text in ("x = 1", "class Arguments: pass", "import nothing_of_that_name", "x =", "1 / 0", "{}['x']"):
        (tmp_path / "odd.py").write_text(text)
        with pytest.raises(InputError, match=r"odd.py is no agent"):
            read_agent(str(tmp_path / "odd.py"))


def test_an_agent_without_a_main_block_is_one(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from rlrat.runs.arguments import RunArguments\nclass Arguments(RunArguments):\n    pass\n")
    assert read_agent(str(file)).name == "mine"
