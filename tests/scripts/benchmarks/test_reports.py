import pytest

import reports
from reports import Arguments
from rlrat.reports.read import read_runs


def test_the_runs_that_are_made_up_are_read_whole(tmp_path):
    reports.write_runs(tmp_path, Arguments(datasets=2, activations=3, seeds=2, evaluations=7))
    runs = read_runs([tmp_path])
    assert len(runs) == 12
    assert {(run.config["identity"]["dataset"], run.config["seed"]) for run in runs} == {
        (f"dataset{place}", seed) for place in range(2) for seed in range(2)
    }


def test_every_part_is_measured(monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(reports, "first_paint", lambda page: (0.5, 1.25) if page.is_file() else None)
    reports.main(Arguments(datasets=1, activations=2, seeds=2, evaluations=6))
    said = capsys.readouterr().out
    for part in ("reading 4 runs", "statistics", "tables", "figures", "report.html", "all"):
        assert part in said
    assert "first paint after 0.50 s, a chart after 1.25 s" in said


def test_without_a_browser_the_first_paint_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(reports.shutil, "which", lambda name: None)
    assert reports.first_paint(tmp_path) is None


def test_a_mistake_in_the_command_line_is_one_line(run_script, capsys):
    assert run_script("benchmarks/reports.py", "--sedes", "3") == 2
    assert capsys.readouterr().err == "error: Unrecognized options: --sedes, 3. Perhaps you meant: --seeds\n"


def test_made_up_runs_have_the_files_and_columns_of_real_ones(tmp_path):
    reports.write_runs(tmp_path, Arguments(datasets=1, activations=2, seeds=1, evaluations=15))
    relu, rational = sorted(tmp_path.glob("dataset0/td3_bc/*/seed0"), reverse=True)
    for made, real in ((relu, "relu"), (rational, "rational")):
        there = reports._REAL / real / "seed0"
        assert {path.name for path in made.iterdir()} == {path.name for path in there.iterdir()}
        for name in ("metrics.csv", "activations.csv") if real == "rational" else ("metrics.csv",):
            lines, theirs = (folder.joinpath(name).read_text().splitlines() for folder in (made, there))
            assert lines[0] == theirs[0]
            assert {line.split(",")[0] for line in lines[1:]} == {str(1000 * n) for n in range(15)}


def test_what_two_trees_wrote_is_compared_to_the_last_digit(tmp_path):
    for name, digit in (("before", 1), ("after", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "final.csv").write_text("1.0\n")
        (tmp_path / name / "area.csv").write_text(f"1.{digit}\n")
        (tmp_path / name / "summary.md").write_text(name)
        (tmp_path / name / "report.html").write_text(f'{name}<script id="data">{{}}</script>')
    (tmp_path / "after" / "more.csv").touch()
    same, differing = reports.compare_outputs(tmp_path / "before", tmp_path / "after")
    assert same == ["data of report.html", "final.csv"]
    assert differing == ["area.csv", "more.csv"]
