#!/usr/bin/env bash
# h5py 3.16.0 with HDF5 2.0.0, hdf5plugin 7.1.0: a dataset compressed by a filter that the reader lacks cannot be read,
# and the error speaks of a folder for plugins instead of the filter: whoever meets it in a shared dataset learns neither
# what is missing nor what brings it. The file has both: the creation property list of the dataset gives the filter's
# registered number and the name that its writer gave it, filter or no filter.
#
# Seen: "Can't synchronously read data (can't open directory (/usr/local/lib/plugin). Please verify its existence)";
# the property list has (32001, ..., b'blosc'). With `import hdf5plugin` the same file is read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet h5py==3.16.0 hdf5plugin==7.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import h5py
import hdf5plugin
import numpy

with h5py.File("blosc.h5", "w") as file:
    file.create_dataset("x", data=numpy.arange(1000.0), chunks=(100,), **hdf5plugin.Blosc())
PYTHON
venv/bin/python - <<'PYTHON'
import h5py

with h5py.File("blosc.h5") as file:
    filters = file["x"].id.get_create_plist()
    number, *_, name = filters.get_filter(0)
    try:
        file["x"][:]
    except OSError as error:
        said = str(error)
    import hdf5plugin

    assert file["x"][999] == 999.0
print(f"HDF5 {h5py.version.hdf5_version}: {said!r}; the file itself: {number}, {name}, {hdf5plugin.version}")
assert (number, name) == (32001, b"blosc")
assert not any(word in said.lower() for word in ("filter", "blosc", "32001"))
PYTHON
