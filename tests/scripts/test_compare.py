import importlib.util

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


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no evaluated run below"):
        compare.read_curves((tmp_path,))
