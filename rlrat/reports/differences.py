"""Find what differs between runs that are compared, besides what they are compared by."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlrat.reports.read import RunRecord, as_text
from rlrat.runs.schema import recalled

_PROTOCOL = {  # how runs are judged, not how they learn
    *("env_id", "env_kwargs", "max_episode_steps", "wrappers", "ignore_wrappers"),
    *("total_updates", "eval_every", "eval_at", "eval_episodes"),
    *("dataset_fingerprint", "reference scores", "holdout", "fqe_updates"),
}
_NEWER = {
    **{"wrappers": [], "ignore_wrappers": False, "norm_epsilon": 1e-5},
    **{"warmup_updates": 0, "schedule": "constant", "weight_decay": 0.0, "dropout": 0.0},
}
"""Settings that older runs do not know, as they were; of those that may be None, that is what they were."""
# Settings that the seconds of an update depend on. A run may be resumed with others, except for the precision.
_SPEED = ("num_threads", "compile", "precision")


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all runs of a task."""

    setting: str
    values: dict[str, tuple[str, ...]]
    """The labels that have each value, by the value's text; `-` where a run does not know the setting."""
    within: tuple[str, ...]
    """Labels whose own runs differ in it: their seeds are not of one kind."""
    protocol: bool
    """It is about how runs are judged, or by which versions, so that their returns may not mean the same."""

    def __str__(self) -> str:
        return f"{self.setting}: " + ", ".join(f"{value} ({', '.join(who)})" for value, who in self.values.items())


def find_differences(runs: dict[str, Sequence[RunRecord]], by: Sequence[str]) -> tuple[Difference, ...]:
    """Find what differs between the runs of a task, by label; leave out imported runs, whose settings are not known."""
    there: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # setting, value, labels
    rows = [(label, _settings(run)) for label, group in runs.items() for run in group if run.config.get("identity")]
    told = {*by, "agent"} | ({"activation"} if "variant" in by else set())  # an agent is in the label or in the task
    names = {name: None for _, settings in rows for name in settings if name not in told}
    for name in names:
        unknown = None if any(settings.get(name, "-") is None for _, settings in rows) else "-"
        for label, settings in rows:
            there[name][as_text(settings.get(name, unknown))].add(label)
    found = []
    for name, values in there.items():
        if len(values) > 1:
            owners = [label for labels in values.values() for label in labels]
            within = tuple(label for label in runs if owners.count(label) > 1)
            ordered = {value: tuple(label for label in runs if label in values[value]) for value in sorted(values)}
            found.append(Difference(name, ordered, within, name in _PROTOCOL or name.startswith("version of ")))
    return tuple(sorted(found, key=lambda difference: not difference.protocol))


def seconds_differ(runs: Sequence[RunRecord]) -> str | None:
    """Say why the training seconds of runs cannot be compared; None where they can."""
    on_gpu = any(start.get("device") != "cpu" for run in runs for start in run.starts)
    names = (*_SPEED, "capture") if on_gpu else _SPEED
    speeds = [
        {
            "number of runs in a process": start.get("members", run.settings().get("num_seeds", "-")),
            "device": start.get("device", "-"),
            **{name: {**run.settings(), **start.get("arguments", {})}.get(name, "-") for name in names},
        }
        for run in runs
        for start in run.starts
    ]
    for name in speeds[0] if speeds else ():
        values = sorted({as_text(speed[name]) for speed in speeds})
        if len(values) > 1:
            return f"the {name} is {' or '.join(values)}"
    return None


def reference_key(run: RunRecord) -> tuple[Any, ...] | None:
    """Return what two runs' scores must have in common to mean the same."""
    reference = run.reference
    if reference is None:
        return None
    return as_text(reference.get("name")), as_text(reference.get("env_id")), reference["random"], reference["expert"]


def _settings(run: RunRecord) -> dict[str, Any]:
    key = reference_key(run)
    identity = recalled(run.config["identity"])
    if run.values is None:
        identity.pop("fqe_updates", None)  # which judge nothing where there is an environment
    return {
        **_NEWER,
        **identity,
        "reference scores": "none" if key is None else "{} ({}: {}, {})".format(*key),
        **{f"version of {name}": " then ".join(versions) for name, versions in _versions(run).items()},
    }


def _versions(run: RunRecord) -> dict[str, dict[str, None]]:
    """Return the versions of each package that a run was trained with, in their order."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for start in run.starts:
        for name, version in start.get("versions", {}).items():
            found[name][as_text(version)] = None
    return found
