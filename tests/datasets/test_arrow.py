import sys

import pytest

from rlrat import load_dataset
from rlrat.datasets import Dataset
from rlrat.errors import InputError
from tests.datasets.minari_sets import ID, edit_metadata


def test_arrow_without_pyarrow_is_one_line(make_minari, episodes, monkeypatch):
    folder = make_minari(ID, episodes)
    edit_metadata(folder, data_format="arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=rf"{ID} is in the format arrow, for which pyarrow .*pip install 'minari\["):
        load_dataset(ID)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_arrow_and_parquet(make_minari, episodes, data_format):
    pytest.importorskip("pyarrow")
    folder = make_minari(ID, episodes, infos=True, data_format=data_format)
    dataset = load_dataset(ID)
    assert dataset.fingerprint == Dataset.from_episodes(episodes).fingerprint
    edit_metadata(folder, total_episodes=4)
    with pytest.raises(InputError, match=f"has no episode 3, though {ID} should have 4"):
        load_dataset(ID)
    edit_metadata(folder, total_episodes=3)
    file = next((folder / "data" / "1").glob(f"*.{data_format}"))
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * len(content)):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read: ") as caught:
            load_dataset(ID)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_dictionaries_are_read_from_records(make_minari, make_goals, data_format):
    pytest.importorskip("pyarrow")
    make_minari(ID, make_goals(stands=False), data_format=data_format)
    dataset = load_dataset(ID)
    expected = Dataset.from_episodes(make_goals(stands=False))
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.observation_parts == expected.observation_parts
    assert [name for name, _ in expected.observation_parts] == [
        *("achieved_goal", "desired_goal/height", "desired_goal/place", "observation"),
    ]


def test_records_that_lack_values_or_are_too_deep_are_one_line(make_minari, make_goals):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather

    folder = make_minari(ID, make_goals(), data_format="arrow")
    (file,) = (folder / "data" / "1").glob("*.arrow")
    table = feather.read_table(file)
    place = table.column_names.index("observations")

    def write(rows):
        feather.write_feather(table.set_column(place, "observations", pyarrow.array(rows)), file, "uncompressed")

    rows = table["observations"].to_pylist()
    deep = [0.0] * len(rows)
    for _ in range(10):
        deep = [{"a": value} for value in deep]
    for wrong, said in (([None, *rows[1:]], "values are missing in it"), (deep, "more than 8 deep")):
        write(wrong)
        with pytest.raises(InputError, match=f"cannot be read: .*{said}") as caught:
            load_dataset(ID)
        assert "\n" not in str(caught.value)
    write([{**row, "achieved_goal": 0.0} for row in rows])  # of another kind than the other episodes'
    with pytest.raises(
        InputError, match=r"episode 1 has as observations dictionaries \(achieved_goal 1, .*episode 0 dic"
    ):
        load_dataset(ID)
