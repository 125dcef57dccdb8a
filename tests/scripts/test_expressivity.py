"""scripts/expressivity.py."""

import csv
import math

import pytest

from rlrat.approximation import comparison as of
from rlrat.errors import InputError
from rlrat.runs import files
from scripts import expressivity


@pytest.fixture
def _few_sizes(monkeypatch):
    sizes = {"_DEGREES": (2, 16, 64), "_PIECES": (4,), "_DEPTHS": (4,), "_FITTED": ((1, 0),)}
    sizes |= {"_QUOTIENTS": ((16,), (2,), (16,)), "_HIDDEN": ((2,),)}
    for name, value in sizes.items():
        monkeypatch.setattr(of, name, value)
    monkeypatch.setattr(expressivity, "DISTANCES", (0.3,))
    monkeypatch.setattr(expressivity, "APPROACH", 0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_sizes")
def test_it_prints_tables_and_writes_them_with_a_picture(tmp_path, capsys):
    expressivity.main(expressivity.Arguments(("relu",), 0.3, 0, 8, tmp_path / "new"))
    said = capsys.readouterr().out
    assert (tmp_path / "new" / "expressivity.md").read_text() + "\n" == said
    assert "## rationals imitate relu on (-1, 1)" in said
    assert "| rational, composed | 9 | 13 | 17 | - | - | - | - |" in said
    assert "| ReLU, one layer | 2 | 2 | 2 | 2 | 2 | 2 | 2 |" in said
    assert "## fixed activations imitate poles at ±0.3i on (-1, 1)" in said
    assert "| polynomials by rho = 1.344 |" in said
    assert "| method | pole at 0.3 |" in said
    with (tmp_path / "new" / "expressivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = min(float(row["error"]) for row in rows if row["target"] == "relu" and row["method"] == of.RATIONAL)
    assert best == pytest.approx(7.84e-10, rel=0.01)
    assert {row["target"] for row in rows} == {"relu", of.ACTIVATION, of.POLE, "pole at 0.3"}
    assert (tmp_path / "new" / "expressivity.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "new" / "expressivity.svg").read_text()


def test_what_was_measured_is_written_whole(tmp_path):
    found = [of.Measured("x", of.POLYNOMIAL, size, 10.0**-size, f"degree {size - 1}") for size in (2, 4)]
    found.append(of.Measured("x", of.FIT, 3, 0.0, "itself"))
    panel = expressivity.Panel("fixed ones imitate x", found, rho=10.0, pieces=0.5)
    expressivity.write([panel], [of.Measured("pole at 0.1", of.FIT, 3, 0.0, "itself")], tmp_path)
    tables = (tmp_path / "expressivity.md").read_text()
    assert "| polynomial | 2 | 4 | - | - | - | - | - |" in tables
    assert "| polynomials by rho = 10 | 2 | 4 | 8 | 16 | 32 | 64 | 128 |" in tables
    assert "| rational, best fit | 3 |\n" in tables
    assert (tmp_path / "expressivity.csv").read_text().splitlines()[1] == "x,polynomial,2,1.000000e-02,degree 1"
    assert (tmp_path / "expressivity.png").read_bytes().startswith(b"\x89PNG")
    assert "rational: exact with 3" in (tmp_path / "expressivity.svg").read_text()


def test_the_barrier_goes_through_the_last_polynomial_that_was_measured():
    found = [of.Measured("x", of.POLYNOMIAL, size, 10.0**-size, "") for size in (2, 4, 20)]
    panel = expressivity.Panel("x", found, rho=10.0)
    assert panel.barrier(1e-6) == pytest.approx(6)  # what is below 1e-12 may be rounding
    assert expressivity.Panel("x", found).barrier(1e-6) is None
    assert expressivity.Panel("x", [], rho=2.0).barrier(1e-6) is None


def test_the_fewest_parameters():
    found = [of.Measured("x", "one", size, error, "") for size, error in ((9, 1e-3), (5, 1e-1), (7, 1e-3))]
    assert expressivity.needed(found, "one", 1e-2) == 7
    assert expressivity.needed(found, "one", 1e-4) is None
    assert expressivity.needed(found, "another", 1.0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ("relu", "sine")}, "--targets has sine, but must be among relu, abs, tanh, "),
        ({"distance": 0.0}, "--distance is 0.0, but must be at least 0.001 and at most 1"),
        ({"distance": math.nan}, "--distance is nan"),
        ({"seeds": -1}, "--seeds is -1, but must be at least 0"),
        ({"digits": 0}, "--digits is 0, but must be at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        expressivity.main(expressivity.Arguments(**arguments))


def test_a_picture_that_cannot_be_drawn_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(expressivity, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="matplotlib is not installed, which --output needs"):
        expressivity.main(expressivity.Arguments(output=tmp_path))


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(files, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot write in the folder .*: Permission denied; choose another --output"):
        expressivity.main(expressivity.Arguments(output=tmp_path))


def test_mistakes_exit_with_two(run_script, tmp_path, capsys):
    assert run_script("expressivity.py", "--targets", "sine") == 2
    assert run_script("expressivity.py", "--distance", "near") == 2
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        assert run_script("expressivity.py", "--output", str(path)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["error:"] * 4
    assert "--distance is 'near', but must be a number" in lines[1]
    assert "give a folder" in lines[2]
    assert "cannot make the folder" in lines[3]
