"""Build the documentation as a site of plain files, and check it:

python -m docs.site

Zensical builds the pages into site/, strictly. An interactive report is made of the runs in docs/gallery/runs and put
where a page has the comment `<!-- report -->`. Then every link is followed, and nothing on a page may ask another host
for anything.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rlrat.errors import InputError, one_line_errors
from rlrat.reports import build_report, read_runs
from rlrat.reports.html import write_report

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
RUNS = ROOT / "docs" / "gallery" / "runs"
REPORT = "report.html"
PLACE = "<!-- report -->"
FRAME = """
<p><a href="{report}" target="_blank">Open the report alone</a></p>
<iframe class="report" src="{report}" title="An interactive report" loading="lazy"></iframe>
"""
# What a browser fetches by itself, by the attribute that names it; `a` is followed by a reader alone.
_FETCHED = {"src", "srcset", "poster", "data", "action", "background"}


def build() -> None:
    """Make the site that zensical.toml names anew, with the report in it.

    Raises:
        CalledProcessError: Zensical found a broken link, which it has named.
        InputError: an extra is not installed.
        ValueError: not one page has a place for the report.
    """
    for name in ("zensical", "mkdocstrings"):
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed, which the site needs: pip install -e '.[docs]'")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=True)
    write_report(build_report(read_runs([RUNS])), SITE / REPORT)  # the page of scripts/compare.py
    embed(SITE)


def embed(site: Path) -> None:
    """Show the report of a site on the page that has a place for it.

    Raises:
        ValueError: no page has a place for the report, or several have one.
    """
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != REPORT}
    places = [page for page, text in texts.items() for _ in range(text.count(PLACE))]
    if len(places) != 1:
        raise ValueError(f"one page must have {PLACE}, not {len(places)}")
    url = "../" * (len(places[0].relative_to(site).parts) - 1) + REPORT
    places[0].write_text(texts[places[0]].replace(PLACE, FRAME.format(report=url)), encoding="utf-8")


class _Page(HTMLParser):
    """What a page names: anchors that it has, links that a reader may follow, and what a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.fetched = {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if not value:
                continue
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)
            elif name == "href":
                (self.links if tag == "a" else self.fetched).append(value)
            elif name in _FETCHED:
                self.fetched.append(value)


def problems(site: Path = SITE) -> Iterator[str]:
    """Give a line for each link that leads nowhere and each thing that a page would ask another host for."""
    pages = {page: _Page(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}
    for page, named in pages.items():
        if page.name == "404.html":  # a server shows it at any address: its links begin at the root
            continue
        name = page.relative_to(site)
        for url in named.fetched:
            if urlsplit(url).netloc:
                yield f"{name} asks another host for {url}"
        for url in (*named.links, *named.fetched):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                yield f"{name} links to {url}, which is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {url}, an anchor that is not there"
    for style in sorted(site.rglob("*.css")):
        text = style.read_text(encoding="utf-8")
        if any(host in text for host in ("url(http", 'url("http', "url('http", "url(//", "@import")):
            yield f"{style.relative_to(site)} asks another host for something"


def main() -> int:
    start = time.monotonic()
    build()
    found = list(problems())
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        print(f"site/index.html is the site: built and checked in {time.monotonic() - start:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    with one_line_errors():
        raise SystemExit(main())
