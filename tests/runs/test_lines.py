"""A run's CSV files: lines that are cut, changed, doubled, of an older version, or put where they belong later."""

import pytest

from rlrat.errors import InputError
from rlrat.runs.lines import Lines
from rlrat.runs.schema import COLUMNS, EPISODES, EVALUATIONS, LATER_COLUMNS

HEADER = ",".join(COLUMNS[EVALUATIONS])
LATER = COLUMNS[EVALUATIONS][-LATER_COLUMNS[EVALUATIONS] :]
BLANK = "," * (1 + len(LATER))  # the end of a line without a score and the columns that came later


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path / EVALUATIONS, COLUMNS[EVALUATIONS])


def _row(update, **more):
    unknown = dict.fromkeys(("normalized_score", *LATER))
    return {**dict.fromkeys(COLUMNS[EVALUATIONS], 1.5), "update": update, **unknown, **more}


def _again(lines, expected=None):
    """The same file as a process finds it that goes on, which may know what was written."""
    found = Lines(lines.path, COLUMNS[EVALUATIONS])
    found.expected = dict(expected or {})
    return found


def test_lines_are_read_as_they_were_written(lines):
    assert lines.read().texts == {}
    lines.append([_row(0)])
    lines.append([_row(10, target_return=target) for target in ("3600", "1800")])
    assert lines.path.read_text().splitlines()[:2] == [HEADER, "0,1.5,1.5,1.5,1.5,1.5,1.5,1.5" + BLANK]
    found = _again(lines, lines.expected).read()
    assert [(row["update"], row["target_return"]) for row in found.rows[10]] == [("10", "3600"), ("10", "1800")]
    assert (set(found.rows), found.damaged) == ({0, 10}, 0)
    assert lines.whole(found) == {0, 10}
    lines.append([])
    assert len(lines.path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "line",
    [
        "1,2",
        "x,1,1,,1,1,1,1" + BLANK,
        ",".join("1" * (len(COLUMNS[EVALUATIONS]) + 1)),
        "\x00\x00",
        "1,1,1,,1,nan,1,1" + BLANK,
    ],
)
def test_a_line_that_is_no_evaluation_is_none(lines, line):
    lines.append([_row(0)])
    before = lines.path.read_text()
    header, whole = before.splitlines()
    lines.path.write_text("\n".join((header, line, whole, whole, "")))
    found = _again(lines).read()
    assert [row["update"] for row in found.rows[0]] == ["0"]
    assert (set(found.rows), found.damaged) == ({0}, 1)
    lines.keep({0})
    assert lines.path.read_text() == before


def test_the_last_line_counts_with_its_newline_alone(lines):
    lines.append([_row(0), _row(10)])
    lines.path.write_text(lines.path.read_text()[:-1])
    again = _again(lines, lines.expected)
    assert set(again.read().rows) == again.whole(again.read()) == {0}


def test_a_line_that_was_changed_is_not_the_one_that_was_written(lines):
    lines.append([_row(0), _row(10, target_return="1"), _row(10, target_return="2")])
    changed = lines.path.read_text().replace("10,1.5,1.5,1,", "10,1.6,1.5,1,")
    lines.path.write_text(changed)
    again = _again(lines, lines.expected)
    found = again.read()
    assert (set(found.rows), found.damaged, again.whole(found)) == ({0, 10}, 1, {0})
    unknowing = _again(lines)
    assert unknowing.whole(unknowing.read()) == {0, 10}


def test_lines_of_an_update_are_in_the_order_in_which_they_were_written(lines):
    lines.append([_row(10, target_return=target) for target in ("3600", "1800")])
    header, *two = lines.path.read_text().splitlines()
    lines.path.write_text("\n".join([two[1], header, two[0], ""]))
    found = _again(lines, lines.expected).read()
    assert [row["target_return"] for row in found.rows[10]] == ["3600", "1800"]


def test_a_file_with_fewer_columns_is_of_a_version_before(lines):
    lines.path.write_text("update,train_seconds,return_mean\n0,0.5,3.0\n")
    found = lines.read()
    assert found.rows[0] == [
        dict.fromkeys(COLUMNS[EVALUATIONS], "") | {"update": "0", "train_seconds": "0.5", "return_mean": "3.0"}
    ]
    assert found.texts[0] == ["0,0.5,,,,3.0,," + BLANK]


@pytest.mark.parametrize(
    ("name", "missing"), [(name, number + 1) for name, later in LATER_COLUMNS.items() for number in range(later)]
)
def test_lines_of_a_version_without_the_last_columns_stay_the_ones_that_were_written(tmp_path, name, missing):
    """Also if the run is killed before a checkpoint knows of the columns."""
    old = Lines(tmp_path / name, COLUMNS[name][:-missing], later=LATER_COLUMNS[name] - missing)
    row = dict.fromkeys(old._columns, 0) | {"target_return": None}
    for update in (0, 10, 20):
        old.append(
            [
                row | {"update": update, old._columns[-1]: last}
                for last in ((None, 3) if name == EVALUATIONS else (7, 8))
            ]
        )
    before = {update: [text + "," * missing for text in texts] for update, texts in old.read().texts.items()}
    for _ in range(3):  # each time with what the old checkpoint knows
        lines = Lines(tmp_path / name, COLUMNS[name], later=LATER_COLUMNS[name])
        lines.expected = dict(old.expected)
        found = lines.read()
        assert (found.texts, found.damaged, lines.whole(found)) == (before, 0, {0, 10, 20})
        assert {one[COLUMNS[name][-1]] for rows in found.rows.values() for one in rows} == {""}
        lines.keep({0, 10, 20})
        assert lines.path.read_text().splitlines()[0] == ",".join(COLUMNS[name])
    lines.append([row | {"update": 30, COLUMNS[name][-1]: 0.5}])
    assert lines.read().rows[30][0][COLUMNS[name][-1]] == "0.5"
    changed = lines.path.read_text().replace(",0.5\n", ",0.6\n")
    lines.path.write_text(changed)
    assert lines.whole(lines.read()) == {0, 10, 20}


def test_lines_made_up_for_are_put_where_they_belong(lines):
    for update in (0, 10, 20, 40):
        lines.append([_row(update, return_mean=update + 0.123456789)])
    whole = lines.path.read_text()
    (row,) = lines.read().rows[20]
    lines.keep({0, 10, 40})
    assert [line.partition(",")[0] for line in lines.path.read_text().splitlines()] == ["update", "0", "10", "40"]
    lines.append([row])
    assert lines.path.read_text() == whole


@pytest.mark.parametrize("name", [EVALUATIONS, EPISODES])
def test_lines_are_never_written_through_a_link(tmp_path, name):
    (tmp_path / "seed0").mkdir()
    lines = Lines(tmp_path / "seed0" / name, COLUMNS[name])
    lines.path.symlink_to(tmp_path / f"outside {name}")
    lines.keep(set())
    lines.append([dict.fromkeys(COLUMNS[name], 1.5) | dict.fromkeys(("update", "episode", "reset_seed"), 0)
                  if name == EPISODES else _row(0)])  # fmt: skip
    assert [path.name for path in tmp_path.glob("outside*")] == []
    assert set(Lines(lines.path, COLUMNS[name]).read().rows) == {0}


def test_what_cannot_be_read_or_written_is_one_line(lines, tmp_path):
    lines.path.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*evaluations\.csv \(it is no plain file\): make it readable"):
        lines.read()
    with pytest.raises(InputError, match=r"cannot write .*evaluations\.csv: Is a directory; what was saved before is"):
        lines.append([_row(0)])
