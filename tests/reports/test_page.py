"""report.html in a real browser: Debian's chromium, headless, driven by selenium."""

import json

import numpy as np
import pytest
import torch
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rlrat.rational import rational
from rlrat.reports.build import build_report
from rlrat.reports.html import write_report
from rlrat.reports.learned import read_learned
from rlrat.reports.metrics import with_metrics
from rlrat.reports.read import read_runs
from tests import browser as browsers
from tests.reports.page_runs import LAYERS, make_run
from tests.reports.run_folders import RISING, write_goal_seeds, write_metrics, write_offline

pytestmark = [pytest.mark.slow, browsers.NEEDED]

HOSTILE = "<img src=x onerror=alert(1)>"
DATASETS = ("hopper-medium-v2", "walker2d-medium-v2")


class Browser(browsers.Browser):
    """A report as a reader sees it."""

    def open(self, path, width: int = 1200, phone: bool = False, dark: bool = False) -> None:
        super().open(path, width, phone, dark)
        self.see("#panels")

    def see(self, selector: str) -> None:
        """Scroll to charts and wait until one is drawn."""
        self.js("document.querySelector(arguments[0]).scrollIntoView()", selector)
        self.wait(lambda: self.js("return !!document.querySelector(arguments[0] + ' .main-svg')", selector))

    def drawn(self, code: str, panel: int):
        """What code says of `g`, a panel's chart, once that is drawn: a panel that comes into sight is drawn later."""
        chart = "const g = document.querySelectorAll('#panels .chart')[arguments[0]];"
        self.wait(lambda: self.js(f"{chart} return !!g._fullLayout", panel))
        return self.js(f"{chart} return {code}", panel)

    def lines(self, panel: int = 1) -> dict[str, list[float]]:
        """The means that a panel of curves shows: heights by label."""
        data = self.drawn("g.data.filter((t) => t.name).map((t) => [t.name, t.y])", panel)
        return dict(data)

    def point_at(self, panel: int, label: str, place: int) -> str:
        """What the page says of a mean's point."""
        self.see(f"#panels .panel:nth-child({panel + 1}) .chart")
        chart = self.driver.find_elements(By.CSS_SELECTOR, "#panels .chart")[panel]
        x, y, width, height = self.js(
            "const g = arguments[0], l = g._fullLayout, r = g.getBoundingClientRect();"
            "const at = arguments[2], told = (t) => t.text?.[at]?.startsWith(`<b>${arguments[1]}:`);"
            "const t = g.data.find((t) => told(t) && t.y[at] !== null), [x, y] = [t.x[at], t.y[at]];"
            "return [l.xaxis._offset + l.xaxis.d2p(x), l.yaxis._offset + l.yaxis.d2p(y), r.width, r.height]",
            chart, label, place,
        )  # fmt: skip
        ActionChains(self.driver).move_to_element_with_offset(chart, x - width / 2, y - height / 2).perform()
        return self.wait(lambda: self.js("return document.querySelector('.hovertext')?.textContent"))

    def shown_panels(self) -> list[str]:
        return self.js("return [...document.querySelectorAll('#panels .panel:not([hidden]) h3')].map(e => e.innerText)")

    def axis_titles(self, panel: int = 1) -> list[str]:
        return self.drawn("[g.layout.xaxis, g.layout.yaxis].map((axis) => axis.title.text)", panel)


@pytest.fixture(scope="module", name="browser")
def in_browser():
    with browsers.chromium() as driver:
        yield Browser(driver)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two agents on two datasets, three activations of two seeds each."""
    root = tmp_path_factory.mktemp("runs")
    for agent in ("iql", "td3_bc"):
        for dataset in DATASETS:
            for activation, level in (("relu", 50.0), ("silu", 40.0), ("rational", 60.0)):
                for seed in range(2):
                    make_run(root, activation, seed, agent=agent, dataset=dataset, level=level)
    return build_report(read_runs([root]))


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(report, path)
    return path


def test_it_opens_without_a_message_or_a_request(browser, path):
    browser.open(path)
    for section in ("#panels .panel:last-child .chart", "#learned-panels .chart"):
        browser.see(section)
    assert browser.logs() == ([], [path.as_uri()])
    buttons = browser.js("return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert "Zoom" in buttons
    assert not [title for title in buttons if "hare" in title or "loud" in title]  # nothing offers to upload a chart


def test_ticks_choose_activations_agents_and_datasets(browser, path, report):
    browser.open(path)
    assert set(browser.lines()) == {"relu", "silu", "rational"}
    np.testing.assert_allclose(
        browser.lines()["rational"], report.tasks[0].group("rational").curves["score"].mean, rtol=1e-3
    )
    browser.js("Plotly.relayout(document.querySelectorAll('#panels .chart')[1], {'xaxis.range': [5000, 9000]})")
    browser.find("input[name=label][value=silu]").click()
    assert set(browser.lines()) == {"relu", "rational"}
    zoomed = "return document.querySelectorAll('#panels .chart')[1]._fullLayout.xaxis.range"
    assert browser.js(zoomed) == [5000, 9000]
    assert len(browser.shown_panels()) == 5  # four tasks and their aggregate
    browser.find("input[name=agent][value=iql]").click()
    browser.find(f"input[name=dataset][value={DATASETS[0]}]").click()
    assert browser.shown_panels() == ["4 tasks together, interquartile mean", f"td3_bc on {DATASETS[1]}"]
    fits = "const g = document.querySelector('#panels .chart'); return g._fullLayout.width - g.clientWidth"
    browser.wait(lambda: browser.js(fits) == 0)
    for label in ("relu", "rational"):
        browser.find(f"input[name=label][value={label}]").click()
    assert browser.shown_panels() == []
    assert browser.find("#no-panels").is_displayed()


def test_axes_are_updates_or_seconds_and_scores_or_returns(browser, path, report):
    browser.open(path)
    assert browser.axis_titles() == ["updates", "normalised score"]
    scores = browser.lines()["relu"]
    browser.find("input[value=return]").click()
    assert browser.axis_titles() == ["updates", "return"]
    np.testing.assert_allclose(browser.lines()["relu"], 20 * np.array(scores), rtol=1e-3)
    browser.find("input[value=seconds]").click()
    assert browser.axis_titles() == ["training seconds", "return"]
    x = browser.js("return document.querySelectorAll('#panels .chart')[1].data.find(t => t.name === 'relu').x")
    np.testing.assert_allclose(x, report.tasks[0].group("relu").curves["return"].seconds, rtol=1e-3)


def test_estimated_values_are_a_choice_of_their_own(browser, tmp_path):
    """Panels of returns and of estimates are never there at once; without returns nothing is said of them."""
    for seed in range(3):
        for activation in ("relu", "silu"):
            write_offline(tmp_path / "offline", RISING + seed, seed, activation=activation, dataset="my_log")
            make_run(tmp_path / "played", activation, seed)
    page = tmp_path / "report.html"
    write_report(build_report(read_runs([tmp_path])), page)
    browser.open(page)
    assert browser.shown_panels() == ["iql on rlrat/hopper/mixed-v0"]
    browser.find("input[value=value]").click()
    assert browser.shown_panels() == ["iql on my_log (FQE)"]
    assert browser.axis_titles(0) == ["updates", "estimated value (FQE)"]
    np.testing.assert_allclose(browser.lines(0)["relu"], RISING + 1, rtol=1e-3)
    assert browser.find("#panels .panel:not([hidden]) .caption").text == "Dotted: the data's own value."
    assert "silu: 41" in browser.point_at(0, "silu", 4)
    write_report(build_report(read_runs([tmp_path / "offline"])), page)
    browser.open(page)
    assert browser.axis_titles(0) == ["updates", "estimated value (FQE)"]
    assert "return" not in browser.find("#curves").text
    assert browser.logs() == ([], [page.as_uri()])


def test_the_vertical_axis_may_be_a_metric(browser, tmp_path):
    """One seed of two has the metric to the end; a label has none of it."""
    for seed, points in ((0, 20), (1, 10)):
        folder = make_run(tmp_path / "runs", "rational", seed)
        write_metrics(folder, 1000, losses_q=[float(points + seed - place) for place in range(points)])
    make_run(tmp_path / "runs", "relu", 0)
    report = build_report(with_metrics(read_runs([tmp_path / "runs"]), ["losses/q"]))
    page = tmp_path / "report.html"
    write_report(report, page)
    browser.open(page)
    assert set(browser.lines(0)) == {"relu", "rational"}
    browser.find("input[value='metric:losses/q']").click()
    assert browser.axis_titles(0) == ["updates", "losses/q"]
    curve = report.tasks[0].group("rational").metrics["losses/q"]
    (drawn,) = browser.lines(0).values()
    np.testing.assert_allclose(drawn[:10], curve.mean[:10], rtol=1e-3)
    assert drawn[10:] == [None] * 10
    text = browser.point_at(0, "rational", 4)
    assert "seed 0: 16" in text
    assert "seed 1: 7" in text
    assert "Faint: the mean of fewer seeds." in browser.find("#panels .caption").text
    assert "Dotted" not in browser.find("#panels .caption").text
    label = browser.find("#panels .chart").get_attribute("aria-label")
    assert label.startswith("losses/q over updates on iql on rlrat/hopper/mixed-v0: rational")
    browser.find("input[name=seeds]").click()
    browser.find("input[value=seconds]").click()
    x = browser.js("return document.querySelector('#panels .chart').data.find(t => t.name === 'rational').x")
    np.testing.assert_allclose(x, curve.seconds, rtol=1e-3)
    browser.find("input[value=score]").click()
    assert set(browser.lines(0)) == {"relu", "rational"}
    assert browser.logs() == ([], [page.as_uri()])


def test_pointing_at_a_mean_says_what_each_seed_has(browser, path, report):
    browser.open(path)
    text = browser.point_at(1, "rational", 10)
    group = report.tasks[0].group("rational")
    assert "updates 10,000" in text
    for run in group.runs:
        assert f"seed {run.seed}: {run.scores[10]:.1f}" in text
    assert "mean of" not in text


def test_a_mean_is_faint_where_it_is_of_fewer_seeds(browser, tmp_path):
    for seed, evaluations, status in ((0, 21, "finished"), (1, 21, "finished"), (2, 11, None)):
        make_run(tmp_path / "runs", "rational", seed, evaluations, status=status)
    page = tmp_path / "report.html"
    report = build_report(read_runs([tmp_path / "runs"]))
    write_report(report, page)
    browser.open(page)
    traces = browser.js(
        "const told = document.querySelector('#panels .chart').data.filter((t) => t.hoverinfo !== 'skip');"
        "return told.map((t) => [t.name ?? '', t.y, t.line.width, t.line.color])"
    )
    (faint, mean), expected = traces, report.tasks[0].groups[0].curves["score"].mean
    assert (faint[0], mean[0]) == ("", "rational")
    assert faint[2] < mean[2]
    assert faint[3].startswith("rgba(")
    assert not mean[3].startswith("rgba(")
    for (_, heights, *_), drawn in ((faint, slice(10, 21)), (mean, slice(0, 11))):  # they meet at update 10,000
        assert [place for place, y in enumerate(heights) if y is not None] == list(range(21))[drawn]
        np.testing.assert_allclose(heights[drawn], expected[drawn], rtol=1e-3)
    text = browser.point_at(0, "rational", 15)
    assert "mean of 2 of 3 seeds" in text
    assert [f"seed {seed}: " in text for seed in range(3)] == [True, True, False]
    assert "mean of" not in browser.point_at(0, "rational", 10)
    assert browser.js("return document.querySelectorAll('.hovertext').length") == 1
    assert "Faint: the mean of fewer seeds." in browser.find("#panels .caption").text
    assert browser.find("#learned-panels .caption").text == "Shown: seeds 0, 1 of 3 runs."
    assert browser.logs() == ([], [page.as_uri()])


@pytest.mark.parametrize("width", [390, 1200])
def test_every_tick_has_its_label(browser, path, width):
    browser.open(path, width=width, phone=width < 500)
    for axis, last in (("updates", "20k"), ("seconds", "2000")):
        browser.js("document.querySelector(`input[value=${arguments[0]}]`).click()", axis)
        shown = browser.js(
            "const texts = [...document.querySelectorAll('#panels .panel:first-child .xtick text')];"
            "return texts.filter((t) => getComputedStyle(t).display !== 'none').map((t) => t.textContent)"
        )
        assert shown[-1] == last


def test_seeds_are_thin_lines_with_their_names(browser, path):
    browser.open(path)
    count = "return document.querySelectorAll('#panels .chart')[1].data.length"
    before = browser.js(count)
    browser.find("input[name=seeds]").click()
    assert browser.js(count) == before + 3
    texts = browser.js("return document.querySelectorAll('#panels .chart')[1].data.flatMap(t => t.text ?? [])")
    assert any(text.startswith("silu, seed 1: ") for text in texts)


def test_tables_sort_by_any_column_both_ways(browser, path, report):
    browser.open(path)
    finals = [float(group.finals.mean()) for task in report.tasks for group in task.groups]
    column = "#tables table td:nth-child(5)"
    for order, reverse in (("ascending", False), ("descending", True)):
        browser.find("#tables table th:nth-child(5) button").click()
        assert browser.find("#tables table th:nth-child(5)").get_attribute("aria-sort") == order
        table = browser.find("#tables table")
        shown = browser.js(
            "return [...arguments[0].querySelectorAll(arguments[1])].map((c) => Number(c.dataset.value))",
            table, column.removeprefix("#tables table "),
        )  # fmt: skip
        np.testing.assert_allclose(shown, sorted(finals, reverse=reverse))
    browser.find("#tables table th:nth-child(2) button").click()
    assert browser.driver.find_elements(By.CSS_SELECTOR, "#tables th[aria-sort]")[0].text.startswith("label")


def test_the_slider_goes_through_training(browser, path, report):
    browser.open(path)
    browser.see("#learned-panels .chart")
    assert browser.js("return [...document.querySelectorAll('#learned-panels h3')].map(e => e.innerText)") == [*LAYERS]
    assert browser.find("#learned-output").text == "update 20,000"
    browser.find("#learned-update").send_keys(Keys.LEFT)
    browser.wait(lambda: browser.find("#learned-output").text == "update 19,000")
    chart = "document.querySelector('#learned-panels .chart')"
    x, *lines = browser.js(f"const g = {chart}; return [g.data[2].x, ...g.data.slice(2).map((t) => t.y)]")
    group = report.tasks[0].group("rational")
    for seed, run in enumerate(group.runs):
        values = read_learned(run.path)["q.hidden.0"].values(np.array(x))[-2, 0, :, 0]
        np.testing.assert_allclose(lines[2 * seed : 2 * seed + 2], values, rtol=1e-3, atol=1e-3)
    browser.find("#learned-run").send_keys(Keys.END)
    assert browser.find("#learned-run option:checked").text == f"rational, td3_bc on {DATASETS[1]}"
    browser.see("#learned-panels .chart")
    assert browser.logs()[0] == []


def test_every_form_of_function_is_drawn_right(browser, path):
    """At x = -3 with P = 2 + x, by the definition that every backend is tested against; a PReLU by hand."""
    browser.open(path)
    for version, denominator in (("A", [-1.0, 2.0]), ("B", [3.0, 2.0]), ("C", [1.0, -1.0, -2.0]), ("N", [1.0, 1.0])):
        drawn = browser.js("return rational(arguments[0], [2, 1], arguments[1])(-3)", version, denominator)
        a, b = (torch.tensor([c], dtype=torch.float64) for c in ([2.0, 1.0], denominator))
        assert drawn == pytest.approx(rational(torch.tensor([[-3.0]], dtype=torch.float64), a, b, version).item())
    assert browser.js("return [-3, 0, 2].map(prelu(0.25))") == [-0.75, 0, 2]
    own = "const layer = { version: 'custom:Snake', low: -1, high: 1 }; return [-1, -0.5, 0.5, 1].map"
    assert browser.js(f"{own}(learned(layer, [], [3, 1, 2]))") == [3, 2, 1.5, 2]
    assert browser.js(f"{own}(learned(layer, [], [null, 1, 2])).map(isFinite)") == [False, False, True, True]


def test_the_keyboard_reaches_and_moves_everything(browser, path):
    browser.open(path)
    reached, active = [], "const e = document.activeElement; return e.id || e.value || e.className || e.innerText"
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.js(active))
        if reached[-1] == "silu":
            browser.driver.switch_to.active_element.send_keys(Keys.SPACE)
            assert "silu" not in browser.lines()
        if reached[-1] == "updates":
            browser.driver.switch_to.active_element.send_keys(Keys.RIGHT)
            assert browser.axis_titles()[0] == "training seconds"
        if browser.js("return document.activeElement.closest('th') !== null"):
            browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
            assert browser.js("return document.activeElement.closest('th').ariaSort") == "ascending"
            break
    else:
        pytest.fail(f"no table within 60 tabs: {reached}")
    assert reached[0] == "skip"
    assert reached.index("relu") < reached.index("silu") < reached.index("updates") < reached.index("score")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_only_downwards(browser, path, width):
    browser.open(path, width=width, phone=True)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    assert browser.js("return window.innerWidth") == width
    boxes = browser.js("return [...document.querySelectorAll('.controls label')].map(l => l.offsetHeight)")
    assert min(boxes) >= 24  # large enough to hit


def test_dark_mode_reaches_the_charts(browser, path):
    looks = []
    for dark in (False, True):
        browser.open(path, dark=dark)
        chart, page = "document.querySelector('#panels .chart')", "getComputedStyle(document.body).backgroundColor"
        line = "g.data.find((t) => t.name === 'relu').line.color"
        looks.append(browser.js(f"const g = {chart}; return [g.layout.font.color, {line}, {page}]"))
    assert looks[0] == ["#1b1f24", "#1b1f24", "rgb(255, 255, 255)"]  # the first label's black is the text's colour
    assert looks[1] == ["#e7eaee", "#e7eaee", "rgb(20, 23, 27)"]


def test_paper_has_a_legend_and_no_controls(browser, path):
    browser.open(path, dark=True)
    browser.find("input[name=label][value=silu]").click()
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.wait(lambda: browser.js("return document.querySelector('#panels .chart').layout.font.color") == "#000000")
    seen = [label.text for label in browser.driver.find_elements(By.CSS_SELECTOR, "label") if label.is_displayed()]
    assert [text for text in seen if text in ("relu", "silu", "rational")] == ["relu", "rational"]
    assert not browser.find("#controls input[name=x]").is_displayed()
    chart = "const g = document.querySelector('#panels .chart'); return g._fullLayout.width === g.clientWidth"
    browser.wait(lambda: browser.js(chart))
    # What no screen has shown yet is on paper, too.
    browser.wait(lambda: browser.js("return !!document.querySelector('#learned-panels .panel:last-child .main-svg')"))


def test_success_rates_are_a_choice_where_runs_have_them(browser, tmp_path):
    rates = np.array([0.0, 0.2, 0.4, 0.6, 0.6, 0.6])
    for label, more in (("relu", 0.0), ("silu", 0.2)):
        write_goal_seeds(tmp_path / "runs", rates + more, activation=label)
    page = tmp_path / "report.html"
    write_report(build_report(read_runs([tmp_path / "runs"])), page)
    browser.open(page)
    assert browser.js("return document.querySelector('input[name=y][value=score]').disabled")
    assert browser.axis_titles(0)[1] == "return"
    browser.find("input[name=y][value=success]").click()
    assert browser.axis_titles(0)[1] == "success rate"
    np.testing.assert_allclose(browser.lines(0)["silu"], rates + 0.2, atol=0.01)
    assert "seed 4: 0.82" in browser.point_at(0, "silu", 5)
    assert browser.find("#panels .caption").text == ""  # of the data only returns are known
    assert browser.logs() == ([], [page.as_uri()])


def test_names_with_html_in_them_are_read_as_they_are(browser, tmp_path):
    for activation in ("relu", "rational"):
        for seed in range(2):
            folder = make_run(tmp_path / "runs", activation, seed)
            content = json.loads((folder / "config.json").read_text())
            content["identity"] |= {"dataset": HOSTILE, "activation": activation + HOSTILE}
            (folder / "config.json").write_text(json.dumps(content))
    page = tmp_path / "report.html"
    write_report(build_report(read_runs([tmp_path / "runs"]), by=("activation",)), page)
    browser.open(page)
    browser.find("input[name=seeds]").click()
    assert browser.shown_panels() == [f"iql on {HOSTILE}"]
    assert browser.js("return document.images.length") == 0
    assert browser.logs() == ([], [page.as_uri()])


def test_a_thousand_runs_make_a_page_below_15_megabytes(browser, tmp_path):
    for agent in range(5):
        for dataset in range(10):
            for activation in ("relu", "silu", "gelu", "rational"):
                for seed in range(5):
                    names = {"agent": f"agent{agent}", "dataset": f"dataset{dataset}"}
                    make_run(tmp_path / "runs", activation, seed, evaluations=100, **names)
    page = tmp_path / "report.html"
    write_report(build_report(read_runs([tmp_path / "runs"])), page)
    assert page.stat().st_size < 15e6
    browser.open(page)
    assert len(browser.shown_panels()) == 51
    browser.see("#panels .panel:last-child .chart")
    assert browser.logs() == ([], [page.as_uri()])
