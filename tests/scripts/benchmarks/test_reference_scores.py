import json

import numpy as np
import pytest

import reference_scores
from rlrat.errors import InputError
from rlrat.evaluation.scores import find_reference


def test_the_measured_file():
    table = json.loads(reference_scores.OUTPUT.read_text())
    assert table["name"] == f"v5-{table['date'][:4]}.{table['date'][5:7]}"
    assert set(table["versions"]) == {"python", "gymnasium", "mujoco", "numpy"}
    assert set(table["environments"]) == set(reference_scores.EXPERTS)
    for env_id, entry in table["environments"].items():
        assert entry["random"]["episodes"] == 1000
        assert tuple(entry["expert"].values()) == reference_scores.EXPERTS[env_id]
        reference = find_reference(env_id)
        assert (reference.name, reference.date) == (table["name"], table["date"])
        assert (reference.random, reference.expert) == (
            entry["random"]["return_mean"],
            entry["expert"]["return_mean"],
        )
        assert entry["expert"]["source"] in reference.source


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
def test_a_small_measurement_agrees_with_the_file(env_id):
    small = reference_scores.measure_random(env_id, num_seeds=2)
    recorded = json.loads(reference_scores.OUTPUT.read_text())["environments"][env_id]["random"]
    assert small["episodes"] == 100
    assert abs(small["return_mean"] - recorded["return_mean"]) < 4 * recorded["return_std"] / np.sqrt(100)


def test_the_script_writes_what_scores_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference_scores, "EXPERTS", {"Hopper-v5": reference_scores.EXPERTS["Hopper-v5"]})
    reference_scores.main(reference_scores.Arguments(episodes=50, output=tmp_path / "out.json"))
    written, packaged = (json.loads(path.read_text()) for path in (tmp_path / "out.json", reference_scores.OUTPUT))
    assert written.keys() == packaged.keys()
    ours, theirs = (table["environments"]["Hopper-v5"] for table in (written, packaged))
    assert ours.keys() == theirs.keys()
    assert ours["random"].keys() == theirs["random"].keys()
    assert "Hopper-v5: random" in capsys.readouterr().out
    with pytest.raises(InputError, match="--episodes 70: choose a multiple of 50"):
        reference_scores.main(reference_scores.Arguments(episodes=70, output=tmp_path / "out.json"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("many", "--episodes is 'many', but must be a whole number"),
        ("70", "--episodes 70: choose a multiple of 50"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(run_script, words, line, capsys):
    assert run_script("benchmarks/reference_scores.py", "--episodes", words) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
