"""Read episodes of Minari's arrow and parquet formats with pyarrow alone.

Minari's own reader makes the recorded environment if the metadata lacks spaces.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets.steps import STEP_FIELDS
from rlrat.errors import InputError, reason

_DEEPEST = 8  # records in each other
_OLDEST = (14, 0, 1)  # older versions unpickle a file's extension types


def check_pyarrow(what: str, remedy: str) -> None:
    """Refuse to go on without pyarrow, or with one that may run what a file holds.

    Args:
        what: says what needs it, as the beginning of the message.
        remedy: the command that installs it.
    """
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{what}, for which pyarrow is needed: {remedy}") from None
    if tuple(int(part) for part in pyarrow.__version__.split(".")[:3] if part.isdigit()) < _OLDEST:
        raise InputError(f"pyarrow {pyarrow.__version__} may run code of a file: pip install 'pyarrow>=14.0.1'")


def read_episodes(id: str, data: Path, count: int, data_format: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of `STEP_FIELDS` of each episode: T + 1 observations and T of everything else.

    Raises:
        InputError: pyarrow is not installed, an episode is missing, or a file is damaged or of another layout.
    """
    check_pyarrow(f"{id} is in the format {data_format}", "pip install 'minari[arrow]'")
    import pyarrow
    from pyarrow import dataset, fs

    for index in range(count):
        files = sorted((data / str(index)).glob(f"*.{data_format}"))
        if not files:
            raise InputError(f"{data} has no episode {index}, though {id} should have {count}: a part of it is missing")
        try:
            source = dataset.dataset(list(map(str, files)), format=data_format, filesystem=fs.LocalFileSystem())
            if missing := [name for name in STEP_FIELDS if name not in source.schema.names]:
                raise InputError(f"{id}: episode {index} lacks {', '.join(missing)}")
            table = source.to_table(columns=list(STEP_FIELDS))
            arrays = {name: _array(table[name].combine_chunks()) for name in STEP_FIELDS}
        except (pyarrow.ArrowException, ValueError, TypeError, OSError, MemoryError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{files[0]} cannot be read: {reason(error)}") from None
        # The last row has only the final observation; its other values belong to no step.
        yield {name: array if name == "observations" else array[:-1] for name, array in arrays.items()}


def _array(column: Any, depth: int = 0) -> Any:
    """Return a column as an array `[steps]`, `[steps, features]` if rows hold vectors, or a dictionary of arrays."""
    import pyarrow.types as types

    if column.null_count:
        raise ValueError("values are missing in it")
    if types.is_struct(column.type):
        if depth == _DEEPEST:
            raise ValueError(f"its records are more than {_DEEPEST} deep in each other")
        fields = [column.type.field(place) for place in range(column.type.num_fields)]
        return {field.name: _array(column.field(place), depth + 1) for place, field in enumerate(fields)}
    if not (types.is_fixed_size_list(column.type) or types.is_list(column.type) or types.is_large_list(column.type)):
        return column.to_numpy(zero_copy_only=False)
    values, rows = column.flatten(), len(column)
    if values.null_count:
        raise ValueError("values are missing in it")
    if len(values) % max(rows, 1) or any(length.as_py() * rows != len(values) for length in _lengths(column)):
        raise ValueError("its rows are vectors of several lengths")
    return values.to_numpy(zero_copy_only=False).reshape(rows, -1)


def _lengths(column: Any) -> Any:
    import pyarrow.compute as compute

    return compute.unique(compute.list_value_length(column))
