import csv
import io

import numpy as np
import pytest

from rlrat.reports.build import build_report
from rlrat.reports.read import read_runs
from rlrat.reports.tables import Table, TableCell, as_markdown, make_tables
from tests.reports.run_folders import write_goal_seeds, write_run

NASTY = r"<script>alert('x')</script> | a_b*c & 50% \ $x$ `d`"


def test_marks_and_escapes_in_every_format():
    rows = (
        (TableCell(NASTY), TableCell("1.2 ± 0.3", 1.23456, "best")),
        (TableCell("silu"), TableCell("1.0", 1.0, "tied")),
    )
    table = Table("Results", ("task", "final|"), rows)
    *_, first, second = table.markdown().splitlines()
    assert first.startswith(r"| &lt;script&gt;alert('x')&lt;/script&gt; \| a_b\*c &amp; 50% \\ $x$ \`d\` |")
    assert "**1.2 ± 0.3**" in first
    assert "1.0 †" in second
    assert len({len(line) for line in table.markdown().splitlines()}) == 1  # padded
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["task", "final|"], [NASTY, "1.23456"], ["silu", "1.0"]
    ]  # fmt: skip
    latex = table.latex().splitlines()
    assert latex[0] == r"\begin{tabular}{lr}"
    assert r"\textless{}script\textgreater{}alert('x')" in latex[4]
    assert r"\textbar{} a\_b{*}c \& 50\% \textbackslash{} \$x\$ `d` & \textbf{1.2 $\pm$ 0.3} \\" in latex[4]
    assert latex[5] == r"silu & 1.0$^\dagger$ \\"
    assert (latex[1], latex[3], latex[6]) == (r"\toprule", r"\midrule", r"\bottomrule")


@pytest.mark.parametrize(
    ("text", "markdown", "latex"),
    [
        ("[x](y)", r"\[x\](y)", "{[}x{]}(y)"),
        ("*", r"\*", "{*}"),
        ("__init__ a_b", r"\_\_init\_\_ a_b", r"\_\_init\_\_ a\_b"),
        ("~~x~~", r"\~\~x\~\~", r"\textasciitilde{}\textasciitilde{}x\textasciitilde{}\textasciitilde{}"),
        ("-3.2", "-3.2", "-3.2"),
        ("a\nb\ufffd", "a b\ufffd", "a b?"),
        (r"\input{x}", r"\\input{x}", r"\textbackslash{}input\{x\}"),
    ],
)
def test_no_name_is_markup(text, markdown, latex):
    table = Table("t", ("a",), ((TableCell(text),),))
    assert as_markdown(text) == markdown
    assert table.latex().splitlines()[4] == latex + r" \\"


def test_no_name_begins_a_heading_or_a_list():
    starts = [as_markdown(text, cell=False) for text in ("# a", "- a", "12. a", "12) a", "+ a", "=", "a - b")]
    assert starts == [r"\# a", r"\- a", r"12\. a", r"12\) a", r"\+ a", r"\=", "a - b"]


@pytest.fixture
def tables(tmp_path):
    rising = np.array([0.0, 10, 20, 30, 40, 40, 40, 40])
    for seed, offset in enumerate((-1.0, 0.0, 1.0)):
        write_run(tmp_path, rising + offset, seed)
        write_run(tmp_path, rising + 0.3 * offset, seed, activation="silu")
        write_run(tmp_path, 2 * rising + offset, seed, activation="rational")
    write_run(tmp_path, [1.0], 3, activation="silu", status=None)
    return make_tables(build_report(read_runs([tmp_path])))


def column(table: Table, name: str) -> list[TableCell]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_results_have_a_line_for_each_label(tables):
    results = tables["results"]
    assert [cell.text for cell in column(results, "label")] == ["relu", "silu", "rational"]
    assert [cell.text for cell in column(results, "seeds")] == ["3", "3 of 4", "3"]
    # Mean of the last five: (30 + 4 x 40) / 5.
    assert [cell.value for cell in column(results, "final")] == pytest.approx([38, 38, 76])
    assert column(results, "sd")[0].value == pytest.approx(np.sqrt(2 / 3))
    assert [cell.mark for cell in column(results, "final")] == ["", "", "best"]
    assert column(results, "low")[0].value < 38 < column(results, "high")[0].value


def test_times_that_never_came_are_told(tables):
    times = column(tables["reach"], "95% of relu")
    assert [cell.value for cell in times] == [50, 50, 30]
    assert times[2].text == "30 (30 to 30)"
    assert [cell.value for cell in column(tables["reach"], "95% of relu, seconds")] == [5, 5, 3]


def test_the_overview_is_a_papers_table(tables):
    assert tables["final"].columns == ("task", "relu", "silu", "rational")
    (row,) = tables["final"].rows
    assert [cell.text for cell in row[1:]] == ["38.0 ± 0.8", "38.0 ± 0.2 (3 of 4)", "76.0 ± 0.8"]


def test_csv_has_every_number_of_a_cell_in_a_column_of_its_own(tables):
    (final,) = csv.DictReader(io.StringIO(tables["final"].csv()))
    assert [final[f"silu{detail}"] for detail in ("", " judged", " seeds")] == ["38.0", "3", "4"]
    assert float(final["silu sd"]) == pytest.approx(0.3 * np.sqrt(2 / 3))
    reach = list(csv.DictReader(io.StringIO(tables["reach"].csv())))
    assert all(float(line["95% of relu low"]) <= float(line["95% of relu"]) for line in reach)
    assert all(float(line["95% of relu"]) <= float(line["95% of relu high"]) for line in reach)
    assert reach[2]["95% of relu reached"] == reach[2]["95% of relu seeds"] == "3"
    results = list(csv.DictReader(io.StringIO(tables["results"].csv())))
    assert [(line["seeds"], line["seeds of"]) for line in results] == [("3", "3"), ("3", "4"), ("3", "3")]
    aggregates = list(csv.DictReader(io.StringIO(tables["aggregates"].csv())))
    assert float(aggregates[0]["mean low"]) < float(aggregates[0]["mean"]) < float(aggregates[0]["mean high"])


def test_every_run_and_comparison_has_a_line(tables):
    assert len(tables["comparisons"].rows) == 6
    assert len(tables["runs"].rows) == 10
    (unfinished,) = (row for row in tables["runs"].rows if row[3].text == "unfinished")
    assert [cell.text for cell in unfinished[4:8]] == ["no", "0", "-", "-"]


def test_what_nobody_reached_and_who_has_no_runs(tmp_path):
    write_run(tmp_path, [10.0, 10, 10], dataset="a")
    write_run(tmp_path, [1.0, 1, 1], dataset="a", activation="silu")
    write_run(tmp_path, [1.0, 1, 1], dataset="b", activation="silu")
    tables = make_tables(build_report(read_runs([tmp_path])))
    assert column(tables["reach"], "50% of relu")[1].text == "not by 20 (0 of 1)"
    assert column(tables["reach"], "50% of relu")[2].text == "-"
    assert [cell.text for cell in tables["final"].rows[1]] == ["iql on b", "-", "1.0"]  # one seed has no spread
    _, silu, b = csv.DictReader(io.StringIO(tables["reach"].csv()))
    assert [silu[f"50% of relu{detail}"] for detail in ("", " low", " reached", " seeds")] == ["inf", "nan", "0", "1"]
    assert [b[f"50% of relu{detail}"] for detail in ("", " low", " reached", " seeds")] == ["nan", "", "", ""]
    assert all(table.markdown() and table.csv() and table.latex() for table in tables.values())


def test_final_success_rates_are_a_column_where_there_are_some(tmp_path):
    write_goal_seeds(tmp_path / "goal", np.array([0.0, 0.25, 0.5, 0.5, 0.5, 0.5]), dataset="a")
    write_run(tmp_path / "none", [10.0, 10, 10], dataset="b")
    tables = make_tables(build_report(read_runs([tmp_path])))
    assert [cell.text for cell in column(tables["results"], "success rate")] == ["0.450", "-"]
    assert "success rate" not in make_tables(build_report(read_runs([tmp_path / "none"])))["results"].columns
    tables = make_tables(build_report(read_runs([tmp_path / "goal"]), measure="success"))
    assert column(tables["results"], "measure")[0].text == "success rate"
    assert column(tables["results"], "final")[0].text == "0.450"
    assert tables["aggregates"].rows[0][1].text.startswith("0.450 (0.4")
