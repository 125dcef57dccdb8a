"""Names without reading a file, and without what takes long to import."""

import subprocess
import sys

from rlrat.datasets.names import as_id, dataset_id, is_local, is_minari_folder, safe


def test_an_id_is_spelled_with_single_slashes():
    assert as_id("rlrat//hopper/mixed-v0/") == "rlrat/hopper/mixed-v0"
    assert as_id("./hopper-medium-v2") is as_id("mine.hdf5") is None


def test_a_file_that_is_named_as_d4rls_has_their_name():
    assert dataset_id("somewhere/hopper_medium_replay-v2.hdf5") == dataset_id("hopper-medium-replay-v2")
    assert dataset_id("somewhere/hopper_medium_reply-v2.hdf5") == "hopper_medium_reply-v2"


def test_a_safe_name():
    names = {"": "dataset", ".": "dataset.", "..": "dataset..", "a\x1bb": "a_b", "...a": "...a"}
    assert {name: safe(name) for name in names} == names


def test_names_need_neither_numpy_nor_torch():
    code = "import sys, rlrat.datasets.sources; print({'numpy', 'torch', 'h5py'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_folder_of_minaris_may_be_of_before_its_metadata_was_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for id in ("door-human-v0", "D4RL/door/human-v0"):
        data = tmp_path / id / "data"
        data.mkdir(parents=True)
        assert not is_minari_folder(data.parent)
        (data / "main_data.hdf5").touch()
        assert is_minari_folder(data.parent)
        assert is_local(id) == ("/" not in id)  # with a namespace it is today's, whose download broke off
        (data / "metadata.json").touch()
        assert is_local(id)
        (data / "main_data.hdf5").unlink()
        assert not is_local(id)
