from rlrat.reports.build import build_report
from rlrat.reports.html import render
from rlrat.reports.pairs import count_of_winners, matrices, winners
from rlrat.reports.read import read_runs
from rlrat.reports.tables import pairs_table
from tests.reports.run_folders import RISING, write_seeds


def make_report(root):
    """Of three labels: rational is higher, gelu has two seeds and cannot be tested."""
    write_seeds(root, RISING)
    write_seeds(root, RISING + 20, activation="rational")
    write_seeds(root, RISING, seeds=2, activation="gelu")
    return build_report(read_runs([root]))


def test_a_matrix_has_every_pair_from_both_sides(tmp_path):
    report = make_report(tmp_path)
    assert count_of_winners(report) == "2 of 6 comparisons have a winner; 0 are not told apart, 4 not tested"
    (matrix,) = matrices(report)
    assert matrix.cells["rational", "relu"] == "++"
    assert matrix.cells["relu", "rational"] == "--"
    assert matrix.cells["gelu", "relu"] == matrix.cells["rational", "gelu"] == "??"
    assert ("relu", "relu") not in matrix.cells
    assert matrix.counts("rational") == (2, 0, 0)
    assert matrix.counts("relu") == (0, 2, 0)
    assert matrix.told_apart == ("rational", "relu")
    found = winners(report)
    assert [one.p for one in found] == sorted(one.p for one in found)
    assert {one.winner for one in found} == {"rational"}
    table = pairs_table(matrix, matrix.told_apart)
    assert table.columns == ("iql on rlrat/hopper/mixed-v0", "1", "2", "wins", "losses", "not told apart")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["1 rational", "", "++", "2", "0", "0"],
        ["2 relu", "--", "", "0", "2", "0"],
    ]


def test_one_label_has_no_matrix(tmp_path):
    write_seeds(tmp_path)
    assert matrices(build_report(read_runs([tmp_path]))) == []


def test_the_page_shows_the_matrix_above_its_sentences(tmp_path):
    page = render(make_report(tmp_path))
    matrix = page.index('<table class="pairs">')
    assert page.index("2 of 6 comparisons have a winner") < matrix < page.index('<ul class="verdicts">')
    assert '<td class="won">++</td>' in page[matrix:]
    assert '<td class="lost">--</td>' in page[matrix:]
