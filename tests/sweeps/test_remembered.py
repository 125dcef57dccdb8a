import json

import pytest

from rlrat.errors import InputError
from tests.sweeps.whole_sweeps import TOY_FILE, write_record


def test_a_damaged_record_of_a_sweep_is_one_line(sweeper):
    (sweeper.run_dir / ".sweep" / "grids").mkdir(parents=True)
    (sweeper.run_dir / ".sweep" / "grids" / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a.json cannot be used \(its grid is of another type\)"):
        sweeper.command("status")


def test_a_sweep_of_another_version_is_one_line(sweeper):
    assert sweeper() == 0
    (file,) = (sweeper.run_dir / ".sweep" / "grids").iterdir()
    content = json.loads(file.read_text())
    content["options"]["of_tomorrow"] = 1
    write_record(file, content)
    (sweeper.folder() / "summary.json").write_text('{"status": "failed"}')
    assert sweeper.command("status") == 0
    with pytest.raises(InputError, match=r"is of another version of rlrat .*of_tomorrow"):
        sweeper.command("retry", "--agents", TOY_FILE)
