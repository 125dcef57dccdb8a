import importlib.util
from pathlib import Path

import numpy as np
import pytest
from short_runs import ROOT

from rlrat.errors import InputError

spec = importlib.util.spec_from_file_location("compare", ROOT / "scripts" / "compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)


def test_curves_are_read_from_run_folders_and_drawn(run_agent, tmp_path, capfd):
    run_agent("--num-seeds", 2, "--run-name", "a")
    run_agent("--run-name", "b")
    curves = compare.read_curves((tmp_path / "runs",))
    assert {key: sorted(seeds) for key, seeds in curves.items()} == {
        ("rlrat-hopper-mixed-v0", "iql", "relu+a"): [0, 1],
        ("rlrat-hopper-mixed-v0", "iql", "relu+b"): [0],
    }
    updates, _ = curves["rlrat-hopper-mixed-v0", "iql", "relu+a"][1]
    np.testing.assert_array_equal(updates, [0, 20, 40])
    compare.main(compare.Arguments((tmp_path / "runs",), output=tmp_path / "curves.png"))
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1].startswith("| rlrat-hopper-mixed-v0 | iql | relu+b | 1 | ")
    trained = [returns[1:] for _, returns in curves["rlrat-hopper-mixed-v0", "iql", "relu+a"].values()]
    ratio = np.mean(trained) / 488.62
    assert lines[-2].endswith(f" | {np.max(trained):.1f} | 488.6 | {ratio:.2f} |")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_more_runs_than_colours_are_drawn(tmp_path):
    curve = {0: (np.array([0, 20]), np.array([1.0, 2.0]))}
    compare.plot({("data", f"agent{n}", "relu"): curve for n in range(25)}, {"data": 1.5}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no evaluated run below"):
        compare.read_curves((tmp_path,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": ()}, "no run is given"),
        ({"last": 0}, "--last is 0, but must be at least 1"),
        ({"output": Path("x.foo")}, "give a file that ends in .png, .pdf or .svg"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        compare.main(compare.Arguments(**{"runs": (Path(),), **arguments}))
