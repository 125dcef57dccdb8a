import sys
from types import SimpleNamespace

import numpy as np
import pytest

import widths

ROWS = [
    {"agent": agent, "activation": activation, "width": width, "parameters": 100 * width + extra, "seed": seed}
    | {"score_final": score + seed, "score_area": score - seed, "held_out_final": 0.1 * seed, "held_out_area": 0.0}
    for agent in widths.DATASETS
    for activation, extra, score in (("relu", 0, 10.0), ("gelu", 0, 20.0), ("rational", 9, 90.0))
    for width in (4, 8)
    for seed in range(10)
]


def test_a_run_is_measured_at_the_end_and_over_training(tmp_path):
    lines = "".join(f"{2 * update},0.5,{10.0**update},1\n" for update in range(7))
    (tmp_path / "offline.csv").write_text("update,action_error,losses/q,losses/actor\n" + lines)
    run = SimpleNamespace(
        **{"path": tmp_path, "agent": "iql", "activation": "relu", "seed": 3},
        **{"updates": np.arange(7) * 2, "scores": np.arange(7.0) ** 2, "config": {"identity": {"hidden_dims": [4, 4]}}},
    )
    found = widths.measure(run, 25)
    assert {name: found[name] for name in ("agent", "activation", "width", "parameters", "seed")} == {
        **{"agent": "iql", "activation": "relu", "width": 4, "parameters": 25, "seed": 3}
    }
    assert found["score_final"] == (4 + 9 + 16 + 25 + 36) / 5
    assert found["score_area"] == pytest.approx((1 + 4 + 9 + 16 + 25 + 18) / 6)
    assert found["held_out_final"] == pytest.approx(-4.0)
    assert found["held_out_area"] == pytest.approx(-3.0)


def test_parameters_are_those_that_are_trained():
    critics, value, actor = 2 * (15 * 16 + 17 * 16 + 17), 12 * 16 + 17 * 16 + 17, 12 * 16 + 17 * 16 + 17 * 3 + 3
    assert widths.count_parameters("iql", "relu", 16) == critics + value + actor
    coefficients = 2 * 10  # of two layers of each network
    assert widths.count_parameters("iql", "rational", 16) == critics + value + actor + 4 * coefficients


def test_the_page_says_who_wins_with_how_many_parameters(tmp_path):
    page = tmp_path / "widths.md"
    page.write_text(f"Mine.\n\n{widths._MARK}\nold\n")
    widths.write_page(ROWS, page)
    text = page.read_text()
    assert text.startswith(f"Mine.\n\n{widths._MARK}\n\n## Score")
    assert "old" not in text
    assert "| rational | 94.5 ± 3.0 (409) | 94.5 ± 3.0 (809) |" in text
    assert "| 4 | relu | 2 / 0 / 0 | 2 / 0 / 0 |  |" in text  # as wide, and against twice the width
    assert "| rational | 0.355 (409) | 0.355 (809) |" in text  # 10^-0.45
    assert "| 4 | gelu | 0 / 0 / 2 | 0 / 0 / 2 |  |" in text
    widths.draw(ROWS, tmp_path / "widths.png")
    assert (tmp_path / "widths.png").stat().st_size > 10_000


def test_runs_that_are_not_finished_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(widths, "read_runs", lambda paths: [SimpleNamespace(status="unfinished")])
    monkeypatch.setattr(sys, "argv", ["widths.py", "--no-training", "--output", str(tmp_path)])
    with pytest.raises(
        widths.InputError, match=r"runs/widths has no finished run of iql relu 16, iql relu 32, .*: leave out"
    ):
        widths.main()
    assert not list(tmp_path.iterdir())
