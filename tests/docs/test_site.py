"""The site: what `python -m docs.site` refuses; of the whole of it, links, requests, and its width on a phone."""

import importlib.util
import subprocess
import sys

import pytest

from docs import site
from rlrat.errors import InputError
from tests.browser import NEEDED, Browser, chromium

PAGE = '<html><body><h1 id="top">{0}</h1></body></html>'


@pytest.fixture
def small(tmp_path):
    """A site of two pages."""
    (tmp_path / "api").mkdir()
    (tmp_path / "index.html").write_text(PAGE.format(""))
    (tmp_path / "api" / "index.html").write_text(PAGE.format(""))

    def with_text(text: str) -> list[str]:
        (tmp_path / "index.html").write_text(PAGE.format(text))
        return list(site.problems(tmp_path))

    return with_text


def test_what_is_there_is_no_problem(small):
    links = "<a href='api/index.html#top'><a href='api/'><a href='#top'><a href='index.html'><a href=''>"
    assert small(links + "<a href='https://arxiv.org/abs/2602.12390'><img src='data:image/png;base64,aaaa'>") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<a href='gone.html'>", "index.html links to gone.html, which is not there"),
        ("<a href='api/#gone'>", "index.html links to api/#gone, an anchor that is not there"),
        ("<a href='#gone'>", "index.html links to #gone, an anchor that is not there"),
        ("<a href='../../etc/passwd'>", "index.html links to ../../etc/passwd, which is not there"),
        ("<img src='gone.png'>", "index.html links to gone.png, which is not there"),
        ("<iframe src='report.html'>", "index.html links to report.html, which is not there"),
        (
            "<script src='https://cdn.example/a.js'></script>",
            "index.html asks another host for https://cdn.example/a.js",
        ),
        ("<link href='//fonts.example/a.css'>", "index.html asks another host for //fonts.example/a.css"),
        ("<img src='https://badge.example/a.svg'>", "index.html asks another host for https://badge.example/a.svg"),
    ],
)
def test_what_leads_nowhere_or_to_another_host_is_named(small, text, problem):
    assert small(text) == [problem]


@pytest.mark.parametrize("rule", ["@import 'a.css';", "a { background: url(https://cdn.example/a.png) }"])
def test_styles_may_not_ask_another_host(small, tmp_path, rule):
    (tmp_path / "a.css").write_text(rule)
    assert small("") == ["a.css asks another host for something"]


def test_the_report_takes_its_place(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "report.html").write_text(f"the report, in which {site.PLACE} is no place")
    (tmp_path / "index.html").write_text(PAGE.format("no place"))
    with pytest.raises(ValueError, match="one page must have <!-- report -->, not 0"):
        site.embed(tmp_path)
    (tmp_path / "api" / "index.html").write_text(PAGE.format(site.PLACE))
    site.embed(tmp_path)
    text = (tmp_path / "api" / "index.html").read_text()
    assert site.PLACE not in text
    assert text.count('src="../report.html"') == text.count('href="../report.html"') == 1
    assert list(site.problems(tmp_path)) == []


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^zensical is not installed, .* pip install -e '\.\[docs\]'$"):
        site.build()


built = [pytest.mark.slow, pytest.mark.skipif(not importlib.util.find_spec("zensical"), reason="needs the extra docs")]


@pytest.fixture(scope="module")
def whole():
    """The site itself, built anew."""
    done = subprocess.run([sys.executable, "-m", "docs.site"], cwd=site.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stderr
    assert "site/index.html is the site" in done.stdout
    return site.SITE


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield Browser(driver)


@pytest.mark.usefixtures("whole")
class TestTheWholeSite:
    pytestmark = built

    def test_every_link_leads_somewhere_and_no_page_asks_another_host(self, whole):
        assert list(site.problems()) == []
        assert len(list(whole.rglob("*.html"))) > 20

    @NEEDED
    def test_every_page_opens_from_a_folder_without_a_request_or_a_message(self, whole, browser):
        for page in sorted(whole.rglob("*.html")):
            if page.name == "404.html":
                continue
            for width, dark in ((1280, False), (390, True)):
                browser.open(page, width, phone=width < 1000, dark=dark)
                console, asked = browser.logs()
                assert console == [], page
                assert [url for url in asked if not url.startswith(whole.as_uri())] == [], page
                too_wide = browser.js("return document.documentElement.scrollWidth - innerWidth")
                assert too_wide <= 0, f"{page} is {too_wide} pixels wider than {width}"

    @NEEDED
    def test_the_embedded_report_draws_its_curves_and_what_was_learned(self, whole, browser):
        browser.open(whole / "reports.html")
        frame = browser.find("iframe.report")
        browser.js("arguments[0].scrollIntoView()", frame)
        browser.driver.switch_to.frame(frame)
        for place in ("#panels", "#learned"):
            browser.js("document.querySelector(arguments[0]).scrollIntoView()", place)
            browser.wait(lambda place=place: browser.js(f"return !!document.querySelector('{place} .main-svg')"))
        browser.driver.switch_to.default_content()
        assert [url for url in browser.logs()[1] if not url.startswith(whole.as_uri())] == []

    @NEEDED
    def test_the_search_finds_a_page_without_a_server(self, whole, browser):
        browser.open(whole / "index.html")
        browser.find("body").send_keys("/")
        found = "return document.activeElement.tagName === 'INPUT' || !!document.activeElement.shadowRoot"
        browser.wait(lambda: browser.js(found))
        browser.driver.switch_to.active_element.send_keys("inverse-temperature")
        browser.wait(lambda: "sweeps.html" in browser.js("return document.documentElement.outerHTML"))
