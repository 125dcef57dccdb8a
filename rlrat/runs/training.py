"""Train an agent from Python, on a dataset in memory or by its id, as its command line does."""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from rlrat.datasets.dataset import Dataset
from rlrat.datasets.sources import given
from rlrat.errors import InputError, reason
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import RunArguments, validate
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import Which, load_policy
from rlrat.runs.presets import with_preset
from rlrat.runs.run import made
from rlrat.runs.schema import EPISODES, EVALUATIONS, METRICS, OFFLINE

if TYPE_CHECKING:
    from rlrat.networks.policies import Policy
    from rlrat.networks.transformer import SequencePolicy


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What `train` leaves: the run folders, and what is read from them."""

    paths: tuple[Path, ...]
    """The run folder of each member: each seed with each value of a setting that has several."""

    @property
    def path(self) -> Path:
        """Return the first member's run folder."""
        return self.paths[0]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """Return each member's `summary.json`."""
        return [RunFolder(path).summary() or {} for path in self.paths]

    @property
    def policy(self) -> "Policy | SequencePolicy":
        """Load the first member's policy, as `rlrat.load_policy` does."""
        return self.load_policy()

    def load_policy(self, member: int = 0, which: Which = "last") -> "Policy | SequencePolicy":
        """Load the policy of a member, the newest or the best."""
        return load_policy(self.paths[member], which=which)

    @property
    def curves(self) -> dict[str, list[Any]]:
        """Return the evaluations of all members, a list for each column: `pandas.DataFrame(result.curves)`.

        The columns are `seed`, `run` (the folder) and those of `evaluations.csv`, `offline.csv` beside them where there
        is one. An empty field is NaN.
        """
        return self._columns(EVALUATIONS, OFFLINE)

    @property
    def metrics(self) -> dict[str, list[Any]]:
        """Return the points of `metrics.csv` of all members in the same form."""
        return self._columns(METRICS)

    @property
    def episodes(self) -> dict[str, list[Any]]:
        """Return the evaluations' episodes of all members in the same form."""
        return self._columns(EPISODES)

    def _columns(self, *names: str) -> dict[str, list[Any]]:
        rows: list[dict[str, Any]] = []
        for path in self.paths:
            folder = RunFolder(path)
            first, *others = [folder.lines[name].read().rows for name in names]
            seed = (folder.config() or {}).get("seed")
            for update in sorted(first):
                beside = {k: v for other in others for row in other.get(update, ()) for k, v in row.items()}
                for row in first[update]:
                    numbers = {name: _number(text) for name, text in {**beside, **row}.items()}
                    rows.append({"seed": seed, "run": str(path), **numbers})
        columns = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name, float("nan")) for row in rows] for name in columns}


def train(agent: str | os.PathLike[str], dataset: "Dataset | str | os.PathLike[str]", **settings: Any) -> RunResult:
    """Train an agent, and return where its runs are and what they found.

    It does what the agent's command does, `python agents/iql.py --activation rational`, in this process: a run that is
    finished is not trained again, one that was interrupted goes on, and each member has a run folder.

        dataset = rlrat.Dataset.from_episodes(episodes, id="my-log")
        result = rlrat.train("iql", dataset, activation="rational", total_updates=20_000)
        result.policy(observation)

    Args:
        agent: the name of an agent, or the path of a file of one's own.
        dataset: in memory, whose content is then part of the runs' identity; or what `rlrat.load_dataset` takes.
        settings: of the agent by the names of its options: `total_updates=20_000`, `run_dir="runs"`, `num_seeds=5`,
            `expectile=(0.7, 0.9)`, `rational={"degrees": (3, 2)}`. The others have their defaults.

    Raises:
        InputError: no such agent, dataset or setting, or one that the command would refuse.
        RuntimeError: training was interrupted, or a run has no evaluation of a trained policy.
    """
    for what, given_one, kinds in (("agent", agent, str), ("dataset", dataset, str | Dataset)):
        if not isinstance(given_one, kinds | os.PathLike):
            wanted = "a name or a path" if kinds is str else "a Dataset, an id or a path"
            raise InputError(f"the {what} is a {type(given_one).__name__}, but must be {wanted}")
    module = load_agent(os.fspath(agent))
    kind: type[RunArguments] = module.Arguments
    with contextlib.ExitStack() as stack:
        if isinstance(dataset, Dataset):  # a fingerprint says nothing of bounds, which are identity, too
            bounds = zip(dataset.action_low.tolist(), dataset.action_high.tolist(), strict=True)
            settings = {"action_bounds": tuple(bounds), **settings, "dataset": stack.enter_context(given(dataset))}
        else:
            settings = {**settings, "dataset": os.fspath(dataset)}
        arguments = _made(kind, with_preset(kind, settings))
        validate(arguments)
        folders: list[Path] = []
        token = made.set(folders)
        try:
            module.main(arguments)
        except SystemExit as stop:
            if stop.code:
                why = "was interrupted: the same call goes on" if stop.code > 1 else "has no evaluated policy"
                raise RuntimeError(f"training {agent} {why} (exit code {stop.code})") from None
        finally:
            made.reset(token)
    return RunResult(tuple(folders))


def _made(kind: type[Any], settings: Mapping[str, Any], prefix: str = "") -> Any:
    """Make an agent's arguments from settings by name; a mapping fills a group such as `rational`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [name for name in settings if name not in fields]:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(fields)}"
        raise InputError(f"no setting {prefix}{unknown[0]}: {hint}")
    hints, found = get_type_hints(kind, include_extras=True), {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[name]):
            value = _made(hints[name], value, f"{name}.")
        elif isinstance(value, list):
            value = tuple(tuple(part) if isinstance(part, list) else part for part in value)
        elif name == "run_dir" and isinstance(value, str | os.PathLike):
            value = Path(value)
        elif isinstance(value, np.generic):
            value = value.item()
        if not dataclasses.is_dataclass(value) and not _fits(value, hints[name]):
            raise InputError(f"the setting {prefix}{name} is {reason(repr(value))}, but must be {_words(hints[name])}")
        found[name] = value
    return kind(**found)


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a setting's type; a whole number is a float, too, and a bool is no number."""
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, bool) for number in numbers) and "bool" not in _words(hint):
        return False
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        return False
    return True


def _words(hint: Any) -> str:
    """A type as words: int, float or tuple[float, ...]."""
    if get_origin(hint) is Annotated:
        return _words(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if hint is type(None):
        return "None"
    return str(hint) if get_args(hint) else hint.__name__


def _number(text: str) -> float | int:
    if not text:
        return float("nan")
    return int(text) if text.isdecimal() else float(text)
