import json

import pytest

import fits


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    done = fits.run(("tanh",), ((1, 0), (2, 1)), tmp_path)
    assert [(e["version"], *e["degrees"]) for e in done] == [(v, *d) for v in "ABCN" for d in ((1, 0), (2, 1))]
    assert done[0]["upper"] == pytest.approx(fits.measure("tanh", (1, 0), "N")["upper"], rel=1e-4)
    assert 1 <= done[-1]["upper"] / done[-1]["lower"] < 1.0001
    monkeypatch.setattr(fits, "measure", None)
    assert fits.run(("tanh",), ((1, 0), (2, 1)), tmp_path) == json.loads((tmp_path / "fits.json").read_text())["fits"]
    table = fits.write_table(done)
    assert f"| tanh | {done[-2]['upper']:.4g} | {done[-1]['upper']:.4g} |" in table
    assert table.count("## Version") == 4
    fits.draw(done, tmp_path / "fits.png")
    assert (tmp_path / "fits.png").read_bytes().startswith(b"\x89PNG")


def test_abs_of_type_n_n():
    found = fits.measure("abs", (4, 4), "N", (-1.0, 1.0))
    assert found["upper"] == pytest.approx(0.00850148, rel=1e-5)
    assert sum(len(names) for names in fits.KINDS.values()) == len(fits.NAMES) - 1  # identity is exact
