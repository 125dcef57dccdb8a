from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from rlrat.reports.build import build_report
from rlrat.reports.plots import _STYLE, FORMATS, data_level, line_style, make_figures, write_figures
from rlrat.reports.read import filter_runs, read_runs
from tests.reports.page_runs import activations_text
from tests.reports.run_folders import REFERENCE, SUCCESS_REFERENCE, write_goal_seeds, write_run

RISING = np.array([0.0, 10, 20, 30, 40, 50])


@pytest.fixture
def report(tmp_path):
    for dataset, activation, seed in product(("a", "b"), ("relu", "rational"), range(3)):
        write_run(tmp_path / "runs", RISING + seed, seed, dataset=dataset, activation=activation)
    return build_report(read_runs([tmp_path / "runs"]))


def test_every_figure_is_written_in_every_format_without_a_date(report, tmp_path):
    paths = write_figures(report, tmp_path)
    names = ("curves_updates", "curves_seconds", "aggregate_curve", "profiles", "improvement")
    assert {path.name for path in paths} == {f"{name}.{suffix}" for name in names for suffix in FORMATS}
    starts = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in paths)
    assert not any(b"<dc:date>" in path.read_bytes() or b"/CreationDate" in path.read_bytes() for path in paths)


def test_curves_have_a_panel_for_each_task_with_lines_and_bands(report):
    figure = make_figures(report)["curves_updates"]
    assert [axes.get_title() for axes in figure.axes] == ["iql on a", "iql on b"]
    for axes in figure.axes:
        lines = [line for line in axes.lines if len(line.get_xdata()) == 6]
        assert len(lines) == 2
        np.testing.assert_allclose(lines[0].get_ydata(), RISING + 1)
        assert sum(isinstance(part, PolyCollection) for part in axes.collections) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["relu", "rational", "mean of the data"]


def _texts(figure: Figure) -> list[Text]:
    """All that is drawn; ticks beyond the ends of an axis are not."""
    ticks = [(axis, tick) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.majorTicks]
    within = [low <= tick.get_loc() <= high for axis, tick in ticks for low, high in [axis.get_view_interval()]]
    hidden = {id(tick.label1) for (_, tick), shown in zip(ticks, within, strict=True) if not shown}
    texts = figure.findobj(lambda part: isinstance(part, Text) and part.get_visible() and part.get_text())
    return [text for text in texts if id(text) not in hidden]


DATASETS = ("D4RL/hopper/medium-expert-v2", "x" * 60, "mujoco/walker2d/medium-v0", "b c", "d", "rlrat/hopper/mixed-v0")


LABELS = [("relu", "rational"), ("relu", "rational:" + "y" * 60)]


def _long_runs(root, datasets, labels, learned=False) -> Path:
    for dataset, activation, seed in product(datasets, labels, range(2)):
        run = {"agent": "decision_transformer", "dataset": dataset, "activation": activation}
        folder = write_run(root, 1000 * RISING + seed, seed, every=180_000, **run)
        if learned and activation != "relu":
            text = activations_text(range(0, 1_080_000, 180_000), np.random.default_rng(seed))
            (folder / "activations.csv").write_text(text)
    return root


def _assert_all_is_on_the_page(figures) -> None:
    for name, figure in figures.items():
        with rc_context(_STYLE):
            figure.draw_without_rendering()
        assert figure.get_figwidth() <= 7.0
        texts = _texts(figure)
        assert min(text.get_fontsize() for text in texts) >= 9.0  # 7 in a column of 5.5 inches
        boxes = [text.get_window_extent() for text in texts]
        for text, box in zip(texts, boxes, strict=True):
            inside = (figure.bbox.min <= box.min).all() and (box.max <= figure.bbox.max).all()
            assert inside, f"{name} cuts {text.get_text()}"
            assert box.count_overlaps(boxes) == 1, f"{name} has something over {text.get_text()}"


@pytest.mark.parametrize(
    ("tasks", "labels"),
    [
        *((n, LABELS[1]) for n in (1, 2, 4, 6)),
        (2, LABELS[0]),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in ((3, LABELS[1]), (6, LABELS[0]))),
    ],
)
def test_a_page_of_text_holds_every_figure_and_all_that_is_written_in_it(tmp_path, tasks, labels):
    figures = make_figures(build_report(read_runs([_long_runs(tmp_path, DATASETS[:tasks], labels)])))
    assert {"curves_updates", "improvement"} < set(figures)
    _assert_all_is_on_the_page(figures)


@pytest.mark.parametrize("labels", LABELS)
def test_a_page_of_text_holds_the_learned_functions_of_every_task(tmp_path, labels):
    """A figure for each group, whatever tasks are beside it."""
    runs = _long_runs(tmp_path, DATASETS[:3], labels, learned=True)
    learned = {n: figure for n, figure in make_figures(build_report(read_runs([runs]))).items() if "learned_" in n}
    assert len(learned) == 3
    _assert_all_is_on_the_page(learned)


def test_an_interval_is_drawn_between_its_ends(report):
    (bar,) = (line for line in make_figures(report)["improvement"].axes[0].lines if line.get_linewidth() == 4)
    assert bar.get_solid_capstyle() == "butt"


def test_the_mean_of_the_data_is_in_the_measure_of_the_curves(tmp_path):
    write_run(tmp_path, RISING, dataset="a")
    write_run(tmp_path, RISING, dataset="b", reference=None)
    write_run(tmp_path, RISING, dataset="c", config={"dataset": {}})
    tasks = build_report(read_runs([tmp_path])).tasks
    assert [data_level(task) for task in tasks] == [100 * 500 / REFERENCE["expert"], 500, None]


def test_a_probability_of_improvement_says_of_how_many_seeds_it_is(report, tmp_path):
    assert "interval of 3 seeds" in make_figures(report)["improvement"].axes[0].get_xlabel()
    for seed in range(5):
        write_run(tmp_path / "more", RISING + seed, seed, dataset="a", activation="relu")
    write_run(tmp_path / "more", RISING, dataset="a", activation="silu")
    figure = make_figures(build_report(read_runs([tmp_path / "more"])))["improvement"]
    assert "interval of 1 to 5 seeds" in figure.axes[0].get_xlabel()
    single = filter_runs(read_runs([tmp_path / "more"]), ["seed=0"])
    assert make_figures(build_report(single))["improvement"].axes[0].get_xlabel() == "probability"


def test_seconds_that_cannot_be_compared_are_not_drawn(tmp_path):
    write_run(tmp_path, RISING)
    write_run(tmp_path, RISING, activation="silu", config={"device": "cuda"})
    assert set(make_figures(build_report(read_runs([tmp_path])))) == {"curves_updates", "profiles", "improvement"}


def test_a_curve_goes_on_faintly_where_seeds_have_ended(tmp_path):
    write_run(tmp_path, RISING, 0)
    write_run(tmp_path, RISING[:3], 1, status=None)
    (axes,) = make_figures(build_report(read_runs([tmp_path])))["curves_updates"].axes
    whole, faint = axes.lines[:2]
    assert np.isfinite(whole.get_ydata()).sum() == 3
    assert np.isfinite(faint.get_ydata()).all()
    assert faint.get_alpha() < 1


def test_many_labels_with_odd_names_are_told_apart_and_drawn(tmp_path):
    names = ["_hidden", "a$b_{c}$", "<b>&", "x" * 80, *(f"name{n}" for n in range(26))]
    for name in names:
        write_run(tmp_path, RISING, activation=name.replace("/", "-"))
    report = build_report(read_runs([tmp_path]))
    styles = {tuple(str(line_style(report, label)[key]) for key in ("color", "linestyle", "marker")) for label in names}
    assert len(styles) == len(names)
    figures = make_figures(report)
    texts = [text.get_text() for text in figures["curves_updates"].legends[0].get_texts()]
    assert {" _hidden", r"a\$b_{c}\$", "<b>&", "x" * 30 + "…" + "x" * 19} < set(texts)
    assert len(texts) == len(names) + 1
    for name in ("curves_updates", "improvement"):
        figures[name].savefig(tmp_path / f"{name}.png")


def test_nothing_judged_draws_curves_alone(tmp_path):
    write_run(tmp_path, RISING, status=None)
    assert set(make_figures(build_report(read_runs([tmp_path])))) == {"curves_updates", "curves_seconds"}


def test_success_rates_have_a_figure_of_their_own_beside_returns(tmp_path):
    write_goal_seeds(tmp_path, RISING / 100, seeds=3)
    records = read_runs([tmp_path])
    figures = make_figures(build_report(records))
    (axes,) = figures["curves_success"].axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), (RISING / 100).clip(0.01 / 3), atol=1e-3)
    assert axes.get_ylabel() == "success rate"
    assert [text.get_text() for text in figures["curves_success"].legends[0].get_texts()] == ["relu"]
    assert figures["curves_updates"].axes[0].get_ylabel() == "return"
    report = build_report(records, measure="success")
    figures = make_figures(report)
    assert "curves_success" not in figures
    assert figures["curves_updates"].axes[0].get_ylabel() == "success rate"
    assert figures["profiles"].axes[0].get_xlabel() == "final success rate, x"
    assert data_level(report.tasks[0]) is None  # the data's success rate is not known


def test_scores_of_success_have_no_level_of_the_datas_returns(tmp_path):
    write_goal_seeds(tmp_path, RISING / 100, seeds=3, reference=SUCCESS_REFERENCE)
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert (task.measure, data_level(task)) == ("score", None)
