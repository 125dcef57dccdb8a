import runpy
import sys

import pytest

from tests.datasets.conftest import make_episode, make_minari  # noqa: F401
from tests.short_runs import ROOT


@pytest.fixture
def run_script(monkeypatch):
    """`run_script("convert.py", "--help")`: the exit code of a file of scripts/ that ends at its command line."""

    def run(name: str, *argv: str) -> int | str | None:
        file = str(ROOT / "scripts" / name)
        monkeypatch.setattr(sys, "argv", [file, *argv])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(file, run_name="__main__")
        return stop.value.code

    return run
