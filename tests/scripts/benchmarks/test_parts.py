import json
import sys
import time

import pytest

import parts

DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # to Ctrl-C


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(parts, "_PATIENCE_SECONDS", 0.2)


def test_a_part_that_breaks_or_hangs_costs_no_other(tmp_path, capsys):
    def part(program: str, limit: float = 30.0) -> parts.Part:
        return parts.Part([sys.executable, "-c", program], limit)

    show = f"import json, os, time; print(json.dumps({parts.figure('it', 2.0, 'us', at_most=1.5)}), flush=True); "
    broken, hung = (
        part(show + "os.write(2, b'what it says\\n'); os._exit(3)"),
        part(show + DEAF + "time.sleep(99)", 1.0),
    )
    programs = {"broken": broken, "hung": hung, "good": part(show)}
    file = tmp_path / "found.json"
    report = parts.run({**programs, "long": part(show, 99.0)}, {"device": "none"}, file, seconds=60.0)
    found = {"name": "it", "value": 2.0, "unit": "us", "aim": "<= 1.5", "reached": False}
    assert report.pop("took").keys() == programs.keys()
    assert report == {
        "device": "none",
        "parts": {"broken": [found], "hung": [found], "good": [found]},
        "errors": {"broken": "failed with exit code 3", "hung": "ended after 1 s"},
        "said": {"broken": ["what it says"], "hung": []},
        "left_out": ["long"],
    }
    written = json.loads(file.read_text())
    assert written.pop("took").keys() == programs.keys()
    assert written == report
    assert capsys.readouterr().out.count("MISSED") == 3


def test_an_interrupted_part_is_measured_again(tmp_path, monkeypatch):
    file = tmp_path / "found.json"

    def interrupted(part, *_):
        yield parts.figure("one", 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "_figures", interrupted)
    chosen = {"a": parts.Part([], 1.0)}
    with pytest.raises(KeyboardInterrupt):
        parts.run(chosen, {}, file)
    known = json.loads(file.read_text())
    assert known["errors"] == {"a": "interrupted"}
    monkeypatch.setattr(parts, "_figures", lambda *_: iter([parts.figure("one", 1.0), parts.figure("two", 2.0)]))
    report = parts.run(chosen, {}, file, known=known)
    assert [figure["name"] for figure in report["parts"]["a"]] == ["one", "two"]
    assert report["errors"] == {}


def test_what_a_part_has_begun_is_ended_with_it(capsys):
    """Else a worker that holds the pipe would hold up all that follows."""
    begin = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    started = time.monotonic()
    command = [sys.executable, "-c", DEAF + begin + "print('begun', flush=True); import time; time.sleep(60)"]
    report = parts.run({"a": parts.Part(command, 1.0)}, {}, None)
    assert report["errors"] == {"a": "ended after 1 s"}
    assert report["said"] == {"a": ["begun"]}
    assert time.monotonic() - started < 30


def test_at_its_limit_a_part_may_say_what_it_has(capsys):
    program = f"""
import time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print('{json.dumps(parts.figure("passed", 3))}')
    raise SystemExit(2)
"""
    report = parts.run({"a": parts.Part([sys.executable, "-c", program], 1.0)}, {}, None)
    assert [figure["name"] for figure in report["parts"]["a"]] == ["passed"]
    assert report["errors"] == {"a": "ended after 1 s"}


def test_a_quiet_part_fails_with_the_first_line_that_is_no_figure(capsys):
    warn = "import warnings; warnings.warn('the update cannot be replayed'); "
    program = f"{warn}print('{json.dumps(parts.figure('one', 1.0))}')"
    chosen = {
        name: parts.Part([sys.executable, "-c", program], 9.0, quiet=name == "quiet") for name in ("loud", "quiet")
    }
    report = parts.run(chosen, {}, None)
    assert list(report["errors"]) == ["quiet"]
    assert "said: <string>:1: UserWarning: the update cannot be replayed" in report["errors"]["quiet"]
    assert [figure["name"] for figure in report["parts"]["quiet"]] == ["one"]


def test_a_part_gets_what_is_left_if_that_is_enough_for_it(monkeypatch):
    limits = {}
    monkeypatch.setattr(
        parts, "_figures", lambda part, limit, said: iter([limits.update({part.description: limit})][:0])
    )
    whole, short = parts.Part([], 100.0, "whole"), parts.Part([], 100.0, "short", least=10.0)
    report = parts.run({"whole": whole, "short": short}, {}, None, seconds=50.0)
    assert report["left_out"] == ["whole"]
    assert limits == {"short": pytest.approx(50.0, abs=1.0)}


def test_a_page_is_written_after_every_figure(tmp_path):
    pages, file = [], tmp_path / "found.json"
    program = "; ".join(f"print('{json.dumps(parts.figure(name, 1.0))}', flush=True)" for name in "ab")

    def page(report):
        pages.append([figure["name"] for figure in report["parts"]["a"]])
        return f"# {len(pages)}"

    parts.run({"a": parts.Part([sys.executable, "-c", program], 9.0)}, {}, file, page=page)
    assert pages == [["a"], ["a", "b"], ["a", "b"]]
    assert (tmp_path / "found.md").read_text() == "# 3"
