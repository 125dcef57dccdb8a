import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

import difference
from difference import Study
from rlrat.errors import InputError
from rlrat.networks.activations import names
from rlrat.networks.layers import MLP, initialize
from rlrat.reports.verdicts import compare_all
from targets import TARGETS
from tests.short_runs import ROOT

SMALL = Study(targets=("kinks", "control"), widths=(3, 4), seeds=3, updates=8, batch=8, every=4, rate_seeds=2, starts=1)
PAGE = ROOT / "docs" / "benchmarks"


@pytest.mark.parametrize("name", [*names(), "rational:gelu"])
def test_networks_have_as_many_parameters_as_a_fixed_activation_gives_them(name):
    for inputs, width in ((1, 8), (2, 16), (4, 32)):
        dims, parameters = difference.hidden_dims(inputs, width, name)
        network = MLP(inputs, dims, 1, batch_shape=(2,), activation=name)
        assert parameters == sum(parameter.numel() for parameter in network.parameters()) // 2
        assert parameters == pytest.approx(width**2 + (inputs + 3) * width + 1, rel=0.03)
        fixed = not list(network.hidden[0].activation.parameters())
        assert (dims == (width, width)) == (fixed or name == "prelu")


def test_rationals_start_as_every_elementwise_entry():
    assert difference.starts() == tuple(
        f"rational:{name}" for name in names() if name not in ("relu", "softmin", "softmax", "logsoftmax", "rational")
    )


def test_points_belong_to_seed_and_update_alone():
    x, y = difference.draw_points("control", (0, 1, 2), SMALL)
    assert x.shape == (8, 3, 8, 2)
    assert x.abs().max() <= 1
    assert torch.equal(y, TARGETS["control"].standardized(x))
    assert torch.equal(difference.draw_points("control", (2,), SMALL)[0], x[:, 2:])
    assert x.unique().numel() > 0.99 * x.numel()


def test_the_error_is_that_of_the_network_on_the_grid():
    digits, diverged = difference.fit("kinks", "tanh", 4, (5, 6), (0.01, 0.01), SMALL)
    assert digits.shape == (3, 2, 2)
    assert diverged == 0
    network = MLP(1, (4, 4), 1, batch_shape=(1,), activation="tanh")
    initialize(network, (6,), "fit", "pytorch")
    grid = TARGETS["kinks"].grid()
    error = network(grid.float()[None])[0, :, 0].detach() - TARGETS["kinks"].standardized(grid)
    expected = [float(-error.square().mean().sqrt().log10()), float(-error.abs().max().log10())]
    assert digits[0, :, 1] == pytest.approx(expected, abs=1e-5)


def test_a_seed_learns_the_same_beside_others():
    study = dataclasses.replace(SMALL, updates=100, batch=64, every=50)
    both, _ = difference.fit("kinks", "rational", 8, (0, 1), (0.03, 0.03), study)
    alone, _ = difference.fit("kinks", "rational", 8, (1,), (0.03,), study)
    assert both[..., 1] == pytest.approx(alone[..., 0], abs=1e-3)
    assert (both[-1, 0] > both[0, 0] + 0.1).all()


def test_a_seed_that_diverges_is_counted_and_stops_no_other():
    digits, diverged = difference.fit("kinks", "relu", 4, (0, 1), (1e30, 0.01), SMALL)
    assert diverged == 1
    assert np.isfinite(digits[..., 1]).all()


def test_the_best_rate_is_chosen_on_other_seeds(monkeypatch):
    study = dataclasses.replace(SMALL, updates=40, batch=32, every=40, rates=(1e-6, 0.03, 1e-5))
    chosen = difference.choose_rate("kinks", "tanh", 4, study)
    assert chosen["rate"] == 0.03
    assert chosen["digits"][1] == max(chosen["digits"])
    alone, _ = difference.fit("kinks", "tanh", 4, (3, 4), (0.03, 0.03), study)
    assert chosen["digits"][1] == pytest.approx(alone[-1, 0].mean(), abs=2e-3)

    def not_finite(*_):
        return np.full((1, 2, 6), [np.nan, np.nan, 0.1, 0.1, np.nan, 0.3]), 3

    monkeypatch.setattr(difference, "fit", not_finite)
    assert difference.choose_rate("kinks", "tanh", 4, study)["rate"] == 0.03
    assert difference.choose_rate("kinks", "tanh", 4, study)["digits"] == [None, 0.1, None]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(difference, "names", lambda: ("relu", "identity", "rational"))
    monkeypatch.setattr(difference, "starts", lambda: ("rational:tanh", "rational:gelu"))


def without_seconds(found: dict) -> dict:
    return {**found, "cells": [{**cell, "seconds": 0} for cell in found["cells"]]}


@pytest.mark.usefixtures("few")
def test_a_study_that_was_killed_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = difference.run(SMALL, tmp_path / "whole.json")
    assert whole == json.loads((tmp_path / "whole.json").read_text())
    assert len(whole["starts"]) == 2 * 2
    assert len(whole["rates"]) == 2 * 4 * 2
    assert len(whole["cells"]) == 2 * 4 * 2
    measure, calls = difference.measure, []

    def killed_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(difference, "measure", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        difference.run(SMALL, tmp_path / "killed.json")
    assert without_seconds(difference.run(SMALL, tmp_path / "killed.json")) == without_seconds(whole)
    assert len(calls) == 17
    difference.run(SMALL, tmp_path / "killed.json")
    assert len(calls) == 17
    with pytest.raises(InputError, match=r"killed\.json is of another study.*give another --output"):
        difference.run(dataclasses.replace(SMALL, updates=9), tmp_path / "killed.json")


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_command_writes_figures_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(difference, "QUICK", SMALL)
    monkeypatch.setattr(sys, "argv", ["difference.py", "--quick", "--output", str(tmp_path / "new")])
    monkeypatch.setattr(torch, "set_num_threads", int)  # of the tests' process
    difference.main()
    assert json.loads((tmp_path / "new" / "difference.json").read_text())["study"]["seeds"] == 3
    for name in ("difference.png", "difference_wins.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "new" / "difference.md"
    said = page.read_text()
    assert "| | at the end | over training | kinks | control |" in said
    assert "Of 24 pairs of equal parameters" in said
    page.write_text("# Written by a person\n\n" + said)
    difference.main()
    assert page.read_text() == "# Written by a person\n\n" + said


def made_up(better: float) -> dict:
    """Two activations at two widths: `good` has `better` digits more, and the wider ones half as many again."""
    cells = []
    for target, name, width in [(t, a, w) for t in ("kinks", "steps") for a in ("good", "bad") for w in (8, 16)]:
        digits = (np.arange(5) / 50 + 1 + better * (name == "good") + better / 2 * (width == 16)).tolist()
        norms = [{"rms": list(digits), "max": digits[::-1]} for _ in range(2)]
        cells.append({"target": target, "activation": name, "width": width, "final": norms[0], "area": norms[1]})
        cells[-1]["seconds"] = 3.0 if name == "good" else 2.0
    return {"study": {"targets": ["kinks", "steps", "poles"], "widths": [8, 16], "updates": 9}, "cells": cells}


def test_verdicts_count_what_a_test_can_tell():
    found = made_up(1.0)
    comparisons = compare_all(difference.tasks(found, "rms"))
    table = difference.write_verdicts(comparisons, ["kinks", "steps"]).splitlines()
    assert table[2:] == ["| good | 4 / 0 / 0 | 4 / 0 / 0 | +2 | +2 |", "| bad | 0 / 4 / 0 | 0 / 4 / 0 | -2 | -2 |"]
    assert "| bad | 4 / 0 / 0 | 2 / 0 / 0 |" in difference.write_rivals(comparisons, "good")  # with half the width, too
    assert "| good | 0 / 4 / 0 | 0 / 2 / 0 |" in difference.write_rivals(comparisons, "bad")
    assert "| steps | good | good |" in difference.write_best(difference.tasks(found, "rms"), comparisons, (8, 16))
    assert difference.write_summary(comparisons) == (
        "Of 4 pairs of equal parameters, 4 have a winner at the end, 4 over training. "
        "Of 8 pairs of different parameters, 8 have a winner at the end, 8 over training"
    )
    judged = difference.tasks(made_up(0.0), "rms")
    comparisons = compare_all(judged)
    assert "| good | 0 / 0 / 4 | 0 / 0 / 4 | +0 |" in difference.write_verdicts(comparisons, ["kinks"])
    assert "| kinks | good (or bad) |" in difference.write_best(judged, comparisons, (8,))


def test_a_target_that_is_not_whole_and_errors_that_are_not_finite_decide_nothing(monkeypatch):
    monkeypatch.setattr(difference, "_FIXED", "bad")
    found = made_up(1.0)
    found["cells"].pop()
    assert difference.whole_targets(found) == ["kinks"]
    found["cells"][0]["final"]["rms"][2] = None
    comparisons = compare_all(difference.tasks(found, "rms"))
    said = {c.verdict for c in comparisons if "good 8" in (c.first, c.second)}
    assert all("1 errors of good 8 are not finite, so nothing can be concluded" in verdict for verdict in said)
    assert "| good | 1 / 0 / 1 | 1 / 0 / 1 | +1 |" in difference.write_verdicts(comparisons, ["kinks"])
    assert "| good | not finite |" in difference.write_errors(found, "rms", 8)


def test_errors_are_geometric_means(monkeypatch):
    monkeypatch.setattr(difference, "_FIXED", "bad")
    found = made_up(1.0)
    expected = 10 ** -(1 + 1 + 0.04)
    assert f"| good | {expected:.2g} | {expected:.2g} | 1.5 |" in difference.write_errors(found, "rms", 8)


@pytest.mark.slow
def test_the_page_has_the_tables_of_its_figures():
    tables = difference.write_tables(json.loads((PAGE / "difference.json").read_text()), "rms")
    assert tables in (PAGE / "difference.md").read_text()
