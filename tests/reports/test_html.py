"""report.html as text: what is in it, what is escaped, how much of it. tests/reports/test_page.py opens it."""

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.html import render, write_report
from rlrat.reports.page_data import drawn_points, known_heights, page_data
from rlrat.reports.read import RunRecord, read_runs
from tests.reports.page_runs import make_report, make_run
from tests.reports.run_folders import write_goal_seeds

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'"


@pytest.fixture(autouse=True)
def small_plotly(request, monkeypatch):
    """Five megabytes that no test here reads."""
    if "plotly" not in request.node.name:
        monkeypatch.setattr("rlrat.reports.html._plotly", lambda: "var Plotly;")


class _Page(HTMLParser):
    """Tags, texts and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.scripts, self.policy = [], [], [], ""
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self._open = tag
        if tag == "script" and "type" not in values:
            self.scripts.append("")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open == "script" and self.scripts:
            self.scripts[-1] += data
        self.texts.append(data)


def _record(returns: np.ndarray, scores: np.ndarray | None = None) -> RunRecord:
    count = len(returns)
    nothing = np.full(count, np.nan)
    return RunRecord(
        path=None, agent="iql", dataset="d", activation="relu", name="", seed=0, status="finished",
        updates=np.arange(count), returns=returns, scores=nothing if scores is None else scores,
        train_seconds=nothing, wall_seconds=nothing,
    )  # fmt: skip


def test_the_page_has_every_part(tmp_path):
    report = make_report(tmp_path)
    text = render(report)
    assert "{{" not in text
    sections = {values.get("id") for tag, values in _Page(text).tags if tag == "section"}
    assert {"verdicts", "curves", "tables", "learned", "differences", "methods"} <= sections
    for comparison in report.comparisons:
        assert comparison.verdict.replace("'", "&#x27;") in text
    for explanation in report.explanations.values():
        assert explanation.replace("'", "&#x27;") in text


def test_without_learned_activations_there_is_no_such_part(tmp_path):
    text = render(make_report(tmp_path, ("relu", "silu")))
    assert 'id="learned"' not in text
    assert 'href="#learned"' not in text


def test_names_with_html_in_them_stay_text(tmp_path):
    config = {"agent": HOSTILE}
    for activation in ("relu", "rational"):
        for seed in range(3):
            folder = make_run(tmp_path / "runs", activation, seed)
            content = json.loads((folder / "config.json").read_text()) | config
            content["identity"] |= {"dataset": HOSTILE, "activation": activation + HOSTILE}
            (folder / "config.json").write_text(json.dumps(content))
    page = _Page(render(build_report(read_runs([tmp_path / "runs"]), by=("activation",))))
    assert not [tag for tag, values in page.tags if tag == "img" or "onerror" in values]
    assert len(page.scripts) == 2
    assert any(HOSTILE in text for text in page.texts)


def test_no_script_runs_but_the_pages_own(tmp_path):
    page = _Page(render(make_report(tmp_path)))
    allowed = re.search(r"script-src ([^;]*)", page.policy)[1].split()
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert allowed == [f"'sha256-{digest}'" for digest in reversed(digests)]
    assert "default-src 'none'" in page.policy
    assert not [values for _, values in page.tags if "src" in values or values.get("href", "#")[0] != "#"]


def test_data_is_json_without_numbers_that_json_has_not(tmp_path):
    text = render(make_report(tmp_path, reference=None))
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1], parse_constant=pytest.fail)
    curves = data["tasks"][0]["groups"][0]["curves"]
    assert set(curves) == {"return"}


def test_a_short_curve_is_drawn_whole():
    run = _record(np.arange(50.0))
    np.testing.assert_array_equal(drawn_points(run.updates, run.returns, run.updates[::10], 50), np.arange(50))


def test_a_long_curve_keeps_its_extremes_and_its_ends():
    returns = np.random.default_rng(0).normal(size=100_000)
    returns[[12_345, 54_321]] = -9.0, 9.0
    run = _record(returns)
    updates = np.array([0, 500, 7_000])
    at = drawn_points(run.updates, run.returns, updates, 400)
    assert len(at) <= 405
    assert {0, 500, 7_000, 12_345, 54_321, 99_999} <= set(at.tolist())
    assert (np.diff(at) > 0).all()


def test_a_long_curve_of_scores_alone_is_thinned_too():
    run = _record(np.full(1000, np.nan), np.sin(np.arange(1000.0)))
    assert 100 < len(drawn_points(run.updates, known_heights(run), run.updates[:1], 100)) <= 103


def test_thinning_is_said_and_statistics_are_of_every_evaluation(tmp_path, monkeypatch):
    whole = make_report(tmp_path, evaluations=300)
    monkeypatch.setattr("rlrat.reports.page_data._SEED_POINTS", 60)
    data = page_data(whole)
    assert data["tasks"][0]["thinned"] == "Drawn are some of 300 evaluations; statistics use all."
    assert all(len(run["return"]) <= 110 for group in data["tasks"][0]["groups"] for run in group["runs"])
    assert f"{whole.tasks[0].groups[0].areas.mean():.1f}" in render(whole)


def test_without_plotly_it_is_one_line(tmp_path, monkeypatch):
    report = make_report(tmp_path, ("relu",), seeds=1)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(InputError, match=r'needs plotly: pip install "rlrat\[report\]"'):
        render(report)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*No such file or directory"):
        write_report(make_report(tmp_path, ("relu",), seeds=1), tmp_path / "missing" / "report.html")


def test_a_page_replaces_the_one_before_it(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(make_report(tmp_path, ("relu",), seeds=1), path)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.glob("*.tmp")) == []


def test_success_is_a_choice_of_the_page_where_runs_have_it(tmp_path):
    write_goal_seeds(tmp_path, np.array([0.0, 0.25, 0.5]))
    records = read_runs([tmp_path])
    for measure, values in ((None, ["score", "return", "success"]), ("success", ["success", "score", "return"])):
        text = render(build_report(records, measure=measure))
        choices = re.findall(r'name="y" value="([^"]*)"( checked)?', text)
        assert choices == [(values[0], " checked"), *((value, "") for value in values[1:])]
        assert "<span>success rate</span>" in text
