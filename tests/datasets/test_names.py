"""Names without reading a file, and without what takes long to import."""

import subprocess
import sys

from rlrat.datasets.names import as_id, dataset_id, safe


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
