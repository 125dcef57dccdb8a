"""activations.csv read back, from any state that a kill or a disk left it in, and drawn."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from rlrat import Rational
from rlrat.networks.activations import PReLU
from rlrat.rational import rational
from rlrat.reports.build import build_report
from rlrat.reports.learned import Layer, as_drawn, join_seeds, learned_figures, plot_learned, read_learned
from rlrat.reports.page_data import learned_data
from rlrat.reports.read import read_runs
from rlrat.runs.folder import RunFolder
from rlrat.runs.inspection import activation_rows
from rlrat.runs.schema import ACTIVATIONS, COLUMNS, RATIONAL_VERSIONS
from rlrat.updates.optim import SeedGuard
from tests.reports.page_runs import LAYERS, activations_text, make_run

UPDATES = range(0, 5000, 1000)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "activations.csv").write_text(activations_text(UPDATES, np.random.default_rng(0)))
    return tmp_path


def _edit(folder, edit) -> None:
    path = folder / "activations.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(edit(lines)))


class Learner(nn.Module):
    def __init__(self, kind: type[nn.Module] = Rational, **settings) -> None:
        super().__init__()
        self.layer = kind(batch_shape=(1, 2), **settings)
        self.guard = SeedGuard(1)

    def inspect(self, batch: torch.Tensor) -> None:
        self.layer(batch)


@pytest.mark.parametrize("version", ["A", "B", "C", "N"])
def test_a_function_is_what_the_layer_was(tmp_path, version):
    learner = Learner(version=version, groups=2)
    x = torch.linspace(-1, 1, 7).repeat_interleave(8).view(1, 1, 7, 8)
    for update in (0, 10):
        with torch.no_grad():
            learner.layer.numerator += 0.1 * torch.randn_like(learner.layer.numerator)
        (rows,) = activation_rows(learner, torch.randn(1, 2, 4, 8))
        RunFolder(tmp_path).append_activations(update, rows)
    layer = read_learned(tmp_path)["layer"]
    assert layer.updates.tolist() == [0, 10]
    assert layer.numerator.shape == (2, 1, 2, 2, 6)
    values = layer.values(np.linspace(-1, 1, 7))[-1]  # [S, P, G, x]
    expected = learner.layer(x.expand(1, 2, 7, 8)).detach()[..., [0, 4]].movedim(2, 3)
    np.testing.assert_allclose(values, expected.numpy(), rtol=2e-5, atol=2e-5)


def _write_prelu(folder, updates) -> None:
    """Two critics, whose slopes are 0.25 at first and then 0.5 and -1."""
    learner = Learner(PReLU)
    for update in updates:
        (rows,) = activation_rows(learner, torch.linspace(-2, 3, 64).expand(1, 2, 4, 64))
        RunFolder(folder).append_activations(update, rows)
        with torch.no_grad():
            learner.layer.weight.copy_(torch.tensor([[0.5, -1.0]]))


def test_a_prelu_is_bent_at_zero(tmp_path):
    _write_prelu(tmp_path, (0, 10))
    layer = read_learned(tmp_path)["layer"]
    assert layer.numerator.shape == (2, 1, 2, 1, 1)
    assert layer.denominator.shape == (2, 1, 2, 1, 0)
    first, last = layer.values(np.array([-2.0, 0.0, 3.0]))[:, 0, :, 0]  # [critic, x]
    np.testing.assert_array_equal(first, [[-0.5, 0.0, 3.0], [-0.5, 0.0, 3.0]])
    np.testing.assert_array_equal(last, [[-1.0, 0.0, 3.0], [2.0, 0.0, 3.0]])


@pytest.mark.parametrize("slope", ["", "x", "0.25 0.25", "nan"])
def test_a_damaged_line_of_a_prelu_costs_its_update_alone(tmp_path, slope):
    _write_prelu(tmp_path, (0, 10))
    _edit(tmp_path, lambda lines: [lines[0], *(line.replace(",0.25,", f",{slope},") for line in lines[1:])])
    assert read_learned(tmp_path)["layer"].updates.tolist() == [10]


def test_a_function_that_only_its_owner_knows_is_left_out_with_a_note(folder, capsys):
    def unrecorded(line):
        return re.sub(r",A,([^,]*),[^,]*,", r",custom:Swish,\1,,", line)

    _edit(folder, lambda lines: [unrecorded(line) if ",v." in line else line for line in lines])
    assert tuple(read_learned(folder)) == tuple(name for name in LAYERS if not name.startswith("v."))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"activations\.csv: what v\.hidden\.0, .*computes \(Swish\) was not recorded", line)
    _edit(folder, lambda lines: list(map(unrecorded, lines)))
    assert read_learned(folder) == {}


def test_a_function_of_ones_own_is_drawn_by_its_values_alone(tmp_path):
    """Two seeds that met other inputs: where one of them has no values, the other's are drawn."""
    for seed, (low, high) in enumerate(((-1.0, 1.0), (0.0, 3.0))):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        row = {"layer": "layer", "part": 0, "group": 0, "version": "custom:Snake", "numerator": "2 5 1"}
        values = " ".join(str(seed + x**2) for x in np.linspace(low, high, 65))
        row |= {"denominator": values, "low": low, "high": high, "counts": "1 2 1"}
        for update in (0, 10):
            RunFolder(folder).append_activations(update, [row])
    layers = join_seeds([read_learned(tmp_path / f"seed{seed}") for seed in range(2)])
    layer = layers["layer"]
    assert (layer.version, layer.range(), layer.denominator.shape) == ("custom:Snake", (-1.0, 3.0), (2, 2, 1, 1, 65))
    x = np.array([-1.0, 0.5, 1.0, 2.0])
    first, second = layer.values(x)[-1, :, 0, 0]
    np.testing.assert_allclose(first, [1.0, 0.25, 1.0, np.nan], atol=1e-3)
    np.testing.assert_allclose(second, [np.nan, 1.25, 2.0, 5.0], atol=1e-3)
    (axes, *_) = plot_learned(layers).axes
    x, median = axes.get_lines()[-1].get_data()
    assert not np.ma.getmaskarray(median).any()
    np.testing.assert_allclose(median[[0, -1]], [1.0, 10.0], atol=1e-3)
    assert median[np.abs(x - 0.5).argmin()] == pytest.approx(0.75, abs=0.05)


def test_every_layer_has_its_shape(folder):
    layers = read_learned(folder)
    assert tuple(layers) == LAYERS
    assert layers["q.hidden.0"].denominator.shape == (5, 1, 2, 1, 4)
    assert layers["v.hidden.0"].counts.shape == (5, 1, 1, 1, 40)


def test_only_the_wanted_updates_are_read(folder):
    assert read_learned(folder, {0, 3000})["v.hidden.0"].updates.tolist() == [0, 3000]


def test_a_run_without_rationals_has_none(tmp_path):
    assert read_learned(tmp_path) == {}


def test_a_line_cut_short_costs_its_update_alone(folder, capsys):
    _edit(folder, lambda lines: [*lines[:-1], lines[-1][:40]])
    layers = read_learned(folder)
    assert layers["policy.mean.hidden.1"].updates.tolist() == list(UPDATES)[:-1]
    assert layers["v.hidden.0"].updates.tolist() == list(UPDATES)
    assert capsys.readouterr().err == ""  # a kill leaves such a line: it is no damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(",A,", ",Z,"),
        lambda line: line.replace(" ", " x", 1),
        lambda line: line.rpartition(",")[0] + "\n",
        lambda line: "\n",
        lambda line: line.replace("0.0228", "nan", 1),
        lambda line: line.rpartition(" ")[0] + "\n",  # a bin fewer
    ],
)
def test_a_damaged_line_costs_its_update_alone(folder, damage):
    _edit(folder, lambda lines: [*lines[:5], damage(lines[5]), *lines[6:]])  # v.hidden.0 at update 0
    layers = read_learned(folder)
    assert layers["v.hidden.0"].updates.tolist() == list(UPDATES)[1:]
    assert layers["q.hidden.0"].updates.tolist() == list(UPDATES)


def test_damage_is_named(folder, capsys):
    _edit(folder, lambda lines: [*lines[:3], "nonsense\n", *lines[4:]])
    read_learned(folder)
    assert "activations.csv has 1 damaged line (4)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "something,else\n1,2\n", ",".join(COLUMNS[ACTIVATIONS])])
def test_a_file_without_a_header_is_left_out(tmp_path, text):
    (tmp_path / "activations.csv").write_text(text)
    assert read_learned(tmp_path) == {}


def test_seeds_side_by_side_have_the_updates_that_all_have(tmp_path):
    for seed, updates in enumerate((range(0, 5000, 1000), range(0, 4000, 2000))):
        (tmp_path / str(seed)).mkdir()
        text = activations_text(updates, np.random.default_rng(seed))
        (tmp_path / str(seed) / "activations.csv").write_text(text)
    seeds = [read_learned(tmp_path / str(seed)) for seed in (0, 1)]
    layer = join_seeds(seeds)["q.hidden.0"]
    assert layer.updates.tolist() == [0, 2000]
    assert layer.numerator.shape == (2, 2, 2, 1, 6)
    np.testing.assert_array_equal(layer.numerator[1, 0], seeds[0]["q.hidden.0"].numerator[2, 0])
    np.testing.assert_array_equal(layer.numerator[1, 1], seeds[1]["q.hidden.0"].numerator[1, 0])


def test_a_seed_with_other_degrees_does_not_fit_beside_the_first(tmp_path, folder):
    (tmp_path / "other").mkdir()
    text = activations_text(UPDATES, np.random.default_rng(1)).replace(",A,", ",B,")
    (tmp_path / "other" / "activations.csv").write_text(text)
    joined = join_seeds([read_learned(folder), read_learned(tmp_path / "other")])
    assert joined["q.hidden.0"].numerator.shape[1] == 1


def test_a_histogram_on_other_bins_keeps_every_input(folder):
    layer = read_learned(folder)["q.hidden.0"]
    low, high = layer.range()
    assert (low, high) == (-3.0, 4.0)
    for bins in (7, 60):
        shares = layer.histogram(np.linspace(low, high, bins + 1))
        np.testing.assert_allclose(shares.sum(1), 1.0)
    half = layer.histogram(np.array([low, -0.0, high]))[0]
    np.testing.assert_allclose(half, [0.5, 0.5], atol=0.05)  # at update 0 between -2 and 2, with the peak in the middle


def test_a_figure_has_a_panel_for_each_layer_and_says_what_its_lines_are(folder):
    figure = plot_learned(read_learned(folder))
    assert [ax.get_title() for ax in figure.axes] == list(LAYERS)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"update {update:,}" for update in UPDATES), "inputs"]
    assert figure.axes[0].get_xlim() == (-3.0, 4.0)


def test_a_report_has_a_figure_for_each_group_that_has_learned(tmp_path):
    for activation in ("relu", "rational", "rational:gelu"):
        for seed in (0, 1):
            make_run(tmp_path, activation, seed, evaluations=6)
    report = build_report(read_runs([tmp_path]))
    figures = learned_figures(report)
    assert sorted(figures) == [
        "learned_rational-gelu_iql-on-rlrat-hopper-mixed-v0", "learned_rational_iql-on-rlrat-hopper-mixed-v0"
    ]  # fmt: skip


def test_a_seed_that_has_barely_begun_hides_nothing_of_the_others(tmp_path):
    for seed, evaluations, status in ((0, 6, "finished"), (1, 2, None), (2, 6, "finished")):
        make_run(tmp_path, "rational", seed, evaluations, status=status)
    report = build_report(read_runs([tmp_path]))
    (figure,) = learned_figures(report).values()
    assert figure.get_suptitle() == "rational, iql on rlrat/hopper/mixed-v0, seeds 0, 2 of 3 runs"
    assert "update 5,000" in [text.get_text() for text in figure.legends[0].get_texts()]
    (entry,) = learned_data(report)
    assert entry["updates"] == list(range(0, 6000, 1000))
    assert entry["layers"][-1]["lines"] == ["seed 0", "seed 2"]
    assert {layer["shown"] for layer in entry["layers"]} == {"seeds 0, 2 of 3 runs"}


def test_runs_none_of_which_is_judged_are_shown_all(tmp_path):
    for seed, evaluations in ((0, 6), (1, 2)):
        make_run(tmp_path, "rational", seed, evaluations, status=None)
    (entry,) = learned_data(build_report(read_runs([tmp_path])))
    assert (entry["updates"], entry["layers"][-1]["lines"]) == ([0, 1000], ["seed 0", "seed 1"])
    assert entry["layers"][-1]["shown"] == ""


def test_a_report_draws_a_prelu(tmp_path):
    for seed in (0, 1):
        _write_prelu(make_run(tmp_path, "prelu", seed, evaluations=2), (0, 1000))
    report = build_report(read_runs([tmp_path]))
    (figure,) = learned_figures(report).values()
    (ax,) = figure.axes
    (last,) = (line for line in ax.lines if line.get_label() == "update 1,000")
    x, y = last.get_data()
    np.testing.assert_allclose(y, np.where(x > 0, x, -0.25 * x))  # the median of slopes 0.5 and -1
    ((layer,),) = (entry["layers"] for entry in learned_data(report))
    assert (layer["version"], layer["lines"][-1]) == ("prelu", "seed 1, critic 2")
    assert layer["numerator"] == [[[0.25]] * 4, [[0.5], [-1.0]] * 2]
    assert layer["denominator"] == [[[]] * 4] * 2


def test_a_name_is_broken_where_its_parts_end():
    name = "decision_transformer on rlrat/hopper/mixed-v0"
    assert as_drawn(name, 20).split("\n") == ["decision_transformer", "on rlrat/hopper/", "mixed-v0"]
    assert as_drawn(name) == name
    assert as_drawn("_a$b", 2).split("\n") == [" _a", r"\$b"]
    assert as_drawn("") == ""


def test_names_of_any_kind_are_drawn_letter_for_letter_in_files_of_their_own(tmp_path):
    names = ("rational+$x", "rational+(x", "rational+é", "rational+" + "x" * 120, "rational+" + "x" * 121)
    for name in names:
        folder = make_run(tmp_path, "rational", 0, evaluations=2, name=name.partition("+")[2])
        lines = (folder / "activations.csv").read_text()
        (folder / "activations.csv").write_text(lines.replace("q.hidden.0", "$q_{0}$"))
    figures = learned_figures(build_report(read_runs([tmp_path])))
    assert len({name.lower() for name in figures}) == len(names)
    assert all(len(name.encode()) <= 100 for name in figures)
    for figure in figures.values():
        assert figure.axes[0].get_title() == r"\$q_{0}\$"
        figure.draw_without_rendering()


@pytest.mark.parametrize("version", RATIONAL_VERSIONS)
def test_functions_are_those_of_the_rational_operator(version):
    random = np.random.default_rng(0)
    numerator, denominator = random.normal(size=(2, 1, 1, 1, 6)), random.normal(size=(2, 1, 1, 1, 4))
    one = np.ones((2, 1, 1, 1))
    layer = Layer("q", version, np.arange(2), numerator, denominator, -one, one, one[..., None])
    x = np.linspace(-3.0, 3.0, 11)
    for ours, a, b in zip(layer.values(x)[:, 0, 0, 0], numerator[:, 0, 0, 0], denominator[:, 0, 0, 0], strict=True):
        theirs = rational(torch.from_numpy(x), torch.from_numpy(a)[None], torch.from_numpy(b)[None], version)
        np.testing.assert_allclose(ours, theirs.ravel(), rtol=1e-10)
