import subprocess
import sys

import pytest

from rlrat.errors import InputError


@pytest.mark.parametrize("launcher", ["ray", "slurm"])
def test_a_launcher_whose_package_is_missing_is_one_line(sweeper, monkeypatch, launcher):
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[launcher], None)
    with pytest.raises(InputError, match=rf'pip install "rlrat\[{launcher}\]"'):
        sweeper("--launcher", launcher)


def test_nothing_but_the_launchers_imports_ray_or_submitit():
    script = """
import sys
from rlrat.sweeps import commands
assert not {"ray", "submitit"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
