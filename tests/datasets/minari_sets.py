import json

import h5py
import numpy as np

ID = "own/set-v0"


def edit_metadata(folder, **changes):
    """Change metadata.json; None leaves an entry out."""
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in metadata.items() if value is not None}))


def in_the_old_layout(folder):
    """Move the metadata into the HDF5 file, as Minari 0.4.3 had it."""
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        for name in ("total_episodes", "total_steps"):
            file.attrs[name] = np.int64(metadata[name])
        for name in ("observation_space", "action_space", "env_spec", "dataset_id"):
            if name in metadata:
                file.attrs[name] = metadata[name]
        file.attrs["minari_version"] = "~=0.4"
    path.unlink()


def raw_parts(folder, names):
    """The final form of what a Minari file holds: its own numbers, side by side in the order of `names`, float32."""
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        episodes = [file[f"episode_{number}"] for number in range(len(file))]
        whole = [np.concatenate([one["observations"][name][()] for name in names], axis=1) for one in episodes]
        return [array.astype(np.float32) for array in whole]
