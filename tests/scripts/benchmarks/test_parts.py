import json
import sys

import pytest

import parts


def test_a_part_that_breaks_or_hangs_costs_no_other(tmp_path, capsys):
    def part(program: str, limit: float = 30.0) -> parts.Part:
        return parts.Part([sys.executable, "-c", program], limit)

    show = f"import json, os, time; print(json.dumps({parts.figure('it', 2.0, 'us', at_most=1.5)}), flush=True); "
    programs = {"broken": part(show + "os._exit(3)"), "hung": part(show + "time.sleep(99)", 0.5), "good": part(show)}
    file = tmp_path / "found.json"
    report = parts.run({**programs, "long": part(show, 99.0)}, {"device": "none"}, file, seconds=60.0)
    found = {"name": "it", "value": 2.0, "unit": "us", "aim": "<= 1.5", "reached": False}
    assert report == {
        "device": "none",
        "parts": {"broken": [found], "hung": [found], "good": [found]},
        "errors": {"broken": "failed with exit code 3", "hung": "ended after 0.5 s"},
        "left_out": ["long"],
    }
    assert json.loads(file.read_text()) == report
    assert capsys.readouterr().out.count("MISSED") == 3


def test_an_interrupted_part_is_measured_again(tmp_path, monkeypatch):
    file = tmp_path / "found.json"

    def interrupted(part):
        yield parts.figure("one", 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "_figures", interrupted)
    chosen = {"a": parts.Part([], 1.0)}
    with pytest.raises(KeyboardInterrupt):
        parts.run(chosen, {}, file)
    known = json.loads(file.read_text())
    assert known["errors"] == {"a": "interrupted"}
    monkeypatch.setattr(parts, "_figures", lambda part: iter([parts.figure("one", 1.0), parts.figure("two", 2.0)]))
    report = parts.run(chosen, {}, file, known=known)
    assert [figure["name"] for figure in report["parts"]["a"]] == ["one", "two"]
    assert report["errors"] == {}
