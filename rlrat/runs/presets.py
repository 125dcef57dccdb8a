"""Apply an agent's presets: published settings for each of many datasets. Nothing here needs torch.

An agent that has some declares them in its arguments:

    presets: ClassVar[Presets] = {"rebrac-d4rl": {"hopper-medium-v2": {"actor_penalty": 0.01}, ...}}
    preset: Literal["rebrac-d4rl"] | None = None
"""

import difflib
from collections.abc import Mapping
from typing import Any, TypeAlias

from rlrat.datasets.sources import dataset_id
from rlrat.errors import InputError

Presets: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""Name of a preset -> dataset -> setting -> value."""


def with_preset(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add to settings by name, of arguments of a `kind`, those of the preset that they choose; what is given wins.

    Raises:
        InputError: the preset has no settings for the dataset.
    """
    name, presets = settings.get("preset"), getattr(kind, "presets", {})
    if name not in presets:  # None, or no choice: reading the settings reports it
        return dict(settings)
    table, dataset = presets[name], dataset_id(settings.get("dataset", kind.dataset))
    if dataset not in table:
        some = difflib.get_close_matches(dataset, table, n=3) or [*sorted(table)[:3], f"{len(table) - 3} more"]
        raise InputError(f"--preset {name} has no settings for the dataset {dataset}, but for {', '.join(some)}")
    return {**table[dataset], **settings}
