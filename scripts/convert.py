"""Rewrite a Minari dataset as a compact one: float32, compressed, without infos.

    python scripts/convert.py SOURCE_ID OUT_FOLDER

The source is looked for where Minari keeps datasets (MINARI_DATASETS_PATH). OUT_FOLDER is a folder of the same kind:
point MINARI_DATASETS_PATH at it and `minari.load_dataset(SOURCE_ID)` reads the result. Equal sources give equal bytes.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import h5py
import minari
import numpy as np
import tyro
from gymnasium.spaces import Box, Space
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import serialize_space

from rlrat.datasets.names import minari_root
from rlrat.errors import InputError, one_line_errors, reason
from rlrat.json_files import read_json
from rlrat.runs.arguments import read_command_line

FIELDS: dict[str, type[np.generic]] = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
}
_SPACES = ("action_space", "observation_space")


@dataclass
class Arguments:
    source_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE_ID")]
    """Minari's id of the dataset."""
    out_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT_FOLDER")]
    """Where it is written, in a folder of the same id."""


def convert(source_id: str, out_folder: Path) -> None:
    """Write the float32 version of Minari dataset SOURCE_ID under OUT_FOLDER.

    Raises:
        InputError: there is no such local dataset, a space is missing or no Box, or the target exists already.
    """
    path = minari_root() / source_id / "data" / "metadata.json"
    if path.is_file():  # without a recorded space Minari would make the environment
        recorded = read_json(path)
        missing = [name for name in _SPACES if not isinstance(recorded.get(name), str)]
        if missing:
            raise InputError(f"{source_id} records no {' and no '.join(missing)}, which is needed to convert it")
    try:
        source = minari.load_dataset(source_id)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AssertionError) as error:  # also for damaged spaces
        raise InputError(f"cannot read {source_id}: {reason(error)}") from None
    metadata = MinariStorage.read_raw_metadata(source.storage.data_path)
    for name in _SPACES:
        metadata[name] = _float32_space(source_id, name, getattr(source, name))
    folder = out_folder / source_id
    if folder.exists():
        raise InputError(f"{folder} exists already: name another folder")
    data = folder / "data"
    data.mkdir(parents=True)
    try:
        _write_episodes(data / "main_data.hdf5", source)
        metadata |= {
            "data_format": "hdf5",
            "description": f"{metadata.get('description', source_id)} (float32 version, without infos)",
            "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
        }
        (data / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder)
        raise
    for namespace in folder.relative_to(out_folder).parents[:-1]:
        (out_folder / namespace / "namespace_metadata.json").write_text("{}\n", encoding="utf-8")


def _float32_space(id: str, name: str, space: Space) -> str:
    if not isinstance(space, Box):
        raise InputError(f"{id} has the {name.replace('_', ' ')} {space}: only Box spaces can be converted")
    return serialize_space(Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32))


def _write_episodes(path: Path, source: minari.MinariDataset) -> None:
    attributes = source.storage.get_episode_metadata(source.episode_indices)
    with h5py.File(path, "w", libver="v110") as file:
        for index, (episode, attribute) in enumerate(zip(source.iterate_episodes(), attributes, strict=True)):
            group = file.create_group(f"episode_{index}", track_times=False)
            group.attrs.update(sorted(attribute.items()))
            for name, dtype in FIELDS.items():
                values = np.asarray(getattr(episode, name)).astype(dtype)
                # compression needs chunks, and each costs an index entry
                group.create_dataset(
                    name, data=values, chunks=values.shape, shuffle=True, compression="gzip", compression_opts=9
                )


if __name__ == "__main__":
    with one_line_errors():
        convert(**vars(read_command_line(Arguments, __doc__)))
