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
