import numpy as np
import pytest

from rlrat.reports.files import listed, plain, read_columns, read_names


def test_only_what_a_run_writes_is_a_line_of_numbers():
    assert plain("1,2.5,nan,-1e-05") == "1,2.5,nan,-1e-05"
    for text in ("1_0,2", "1 ,2", "٣,2"):
        with pytest.raises(ValueError, match=r"^$"):
            plain(text)


def test_of_a_long_list_the_first_are_named():
    assert listed([2, 4]) == "2, 4"
    assert listed(range(8), 3) == "0, 1, 2 and 5 more"


def test_columns_are_read_where_they_are_filled(tmp_path, capfd):
    path = tmp_path / "offline.csv"
    path.write_text("update,a,b\n10,1,\n0,0.5,7\n10,2,inf\n20,3\n30,4,5\n40,5,6")
    assert read_names(path, "numbers") == ["a", "b"]
    found = read_columns(path, ["a", "b"], "numbers")
    assert {name: [array.tolist() for array in arrays] for name, arrays in found.items() if name == "a"} == {
        "a": [[0, 10, 30], [0.5, 2.0, 4.0]]
    }
    np.testing.assert_array_equal(found["b"], [[0, 10, 30], [7.0, np.nan, 5.0]])
    assert capfd.readouterr().err == f"warning: {path}: left out as damaged: line 5, 7\n"


def test_a_file_that_is_not_there_has_no_columns(tmp_path, capfd):
    assert read_names(tmp_path / "offline.csv", "numbers") == []
    assert capfd.readouterr().err == ""
    (tmp_path / "offline.csv").write_text("time,a\n1,2\n")
    assert read_names(tmp_path / "offline.csv", "numbers") == []
    assert "offline.csv has no header that can be read: its numbers are left out" in capfd.readouterr().err
