"""Load files of one's own through the cache, with the bounds and the time limit that the user's words decide."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlrat.datasets import cache
from rlrat.datasets.bounds import Bounds, environment_bounds
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.flat import Limit
from rlrat.environments.registry import find_spec, typed
from rlrat.errors import reason

_MOST_NAMES = 12  # that a note has


@dataclass(frozen=True)
class Words:
    """What the user says about data that does not record it."""

    given: Bounds | None
    """The bounds that were given; they replace recorded ones."""
    bounds: Bounds | None
    """Those, or else the bounds of the environment that was given; None where none was."""
    limit: Limit

    @classmethod
    def of(cls, label: str, env_id: str | None, bounds: Bounds | None) -> "Words":
        """Find the bounds and the time limit of what the user gave.

        Raises:
            InputError: there is no such environment, or its actions are no bounded vector.
        """
        if env_id is None:
            return cls(bounds, bounds, Limit(None, None))
        env_id = typed(env_id)
        limit = Limit(find_spec(env_id).max_episode_steps, env_id)
        return cls(bounds, bounds or environment_bounds(label, env_id, None), limit)

    def settings(self) -> str:
        """Return what a conversion depends on in addition to its source."""
        settings = self.bounds.settings() if self.bounds else ""
        return settings if self.limit.env_id is None else json.dumps([settings, self.limit.steps])


def load(
    id: str,
    files: Sequence[Path],
    env_id: str | None,
    bounds: Bounds | None,
    convert: Callable[[Words], Dataset],
    folder: Path | None = None,
) -> Dataset:
    """Load the dataset of some files from a cache, or else `convert` them.

    Args:
        files: all that the conversion reads.
        folder: the folder that they are in, if all of it is one dataset: the cache lies in it.

    Raises:
        InputError: the files cannot be read, or are no such data.
    """
    words = Words.of(str(folder or files[0]), env_id, bounds)
    beside = cache.beside_folder(folder) if folder else cache.beside_file(files[0])
    return cache.load(cache.Source(id, tuple(files), beside, words.settings()), lambda: convert(words))


def note_unused(dataset: Dataset, label: str, names: Iterable[str], advice: str) -> Dataset:
    """Return the dataset with a note of what its source has and nobody reads: one of them may be mistyped."""
    names = sorted(names)
    if not names:
        return dataset
    few = ", ".join(map(reason, names[:_MOST_NAMES])) + (", ..." if len(names) > _MOST_NAMES else "")
    return replace(
        dataset, notes=(*dataset.notes, f"{label}: {few} {'is' if len(names) == 1 else 'are'} not used; {advice}")
    )
