"""Write a model card of a run, in the form that the Hugging Face hub shows: what its folder says, in honest words."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets.names import safe
from rlrat.errors import InputError, reason
from rlrat.json_files import as_number, read_json
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import build_policy, read_checkpoint
from rlrat.runs.schema import (
    BEST_CHECKPOINT,
    CONFIG,
    DIVERGED,
    FAILED,
    FINISHED,
    JUDGEMENT,
    UNFINISHED,
    differing,
    recalled,
)

CARD = "MODEL_CARD.md"
_MOST_LISTED = 12  # components or rows of a list
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MOST_LETTERS = 200


@dataclass(frozen=True)
class _Seed:
    """One run of the same settings."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def status(self) -> str:
        return self.summary.get("status", UNFINISHED)

    def number(self, name: str) -> float | None:
        value: Any = self.summary
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return as_number(value)


def write_card(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the model card of a run folder to `out`, by default `MODEL_CARD.md` in it; return where it is.

    Raises:
        InputError: no run folder, a policy that cannot be loaded, or a path that cannot be written.
    """
    folder = Path(run)
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the run folder that it is in, {folder.parent}")
    target = folder / CARD if out is None else Path(out)
    if target.is_dir():
        raise InputError(f"--out {target} is a folder: name a file in it, such as {target / CARD}")
    text = card(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or reason(error)}") from None
    return target


def card(folder: Path) -> str:
    """Return the text of a run's model card: YAML for the hub, then Markdown.

    Raises:
        InputError: no run folder, or a policy that cannot be loaded.
    """
    checkpoint = read_checkpoint(folder)
    policy = build_policy(checkpoint, folder)
    config = RunFolder(folder).config()
    if config is None:
        raise InputError(f"{folder / CONFIG} is missing: give a whole run folder")
    run = _Seed(folder, config, RunFolder(folder).summary() or {})
    parts = [
        _front_matter(run, policy),
        "\n".join(_introduction(run, checkpoint)),
        "## Data\n\n" + "\n".join(_data(run)),
        "## What goes in and comes out\n\n" + "\n".join(_units(policy)),
        "## Results\n\n" + "\n".join(_results(run)),
    ]
    if judgement := _judgement(folder):
        parts.append("## Judgement\n\n" + "\n".join(judgement))
    parts += [
        "## Limits\n\n" + "\n".join(_limits(run, policy)),
        "## Use\n\n" + "\n".join(_use(run, policy)),
        "## Settings\n\n" + "\n".join(_settings(run)),
    ]
    return "\n\n".join(parts) + "\n"


def _identity(run: _Seed) -> dict[str, Any]:
    return recalled(run.config["identity"])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _env_id(run: _Seed) -> str | None:
    """Return where the run was evaluated; None for a run without an environment."""
    env_id = _identity(run).get("env_id")
    return env_id if isinstance(env_id, str) else None


def _around(run: _Seed) -> str:
    """Say how long the episodes of an evaluation are at most, and in which wrappers the environment is."""
    environment = _mapping(run.config.get("environment"))
    limit, wrappers = environment.get("max_episode_steps"), environment.get("wrappers")
    said = [f"episodes of at most {_count(limit)} steps"] if isinstance(limit, int) else []
    if isinstance(wrappers, list) and wrappers:
        said.append(f"in the wrappers {', '.join(_text(_mapping(one).get('name')) for one in wrappers)}")
    return f" ({', '.join(said)})" if said else ""


def _name(run: _Seed) -> str:
    identity = _identity(run)
    return "-".join(str(identity.get(name)) for name in ("agent", "activation")) + f"-{run.path.resolve().name}"


def _front_matter(run: _Seed, policy: Any) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    identity = _identity(run)
    env_id, dataset = _env_id(run), str(identity.get("dataset"))
    results = []
    measured = {
        "mean_reward": (run.number("final_return"), "mean return of the last evaluations"),
        "normalized_score": (run.number("final_score"), "normalized score of the last evaluations"),
        "success_rate": (run.number("final_success_rate"), "success rate of the last evaluations"),
    }
    if env_id is None:
        value = run.number("final_value")
        measured = {"fqe_value": (value, "estimated discounted value (fitted Q evaluation), not a return")}
    for metric, (value, words) in measured.items():
        if value is not None:
            results.append(
                EvalResult(
                    task_type="reinforcement-learning",
                    task_name="offline reinforcement learning",
                    dataset_type=_hub_id(env_id or dataset),
                    dataset_name=env_id or dataset,
                    metric_type=metric,
                    metric_name=words,
                    metric_value=round(value, 3),
                )
            )
    activation = str(policy.settings.get("activation", "relu"))
    tags = ["reinforcement-learning", "offline-reinforcement-learning", str(identity.get("agent")), activation]
    data = ModelCardData(
        library_name="rlrat",
        tags=[*tags, *([env_id] if env_id else [])],
        datasets=[_hub_id(dataset)],
        model_name=_name(run),
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _hub_id(name: str) -> str:
    """Give a name the form of the hub's ids, which have at most one slash."""
    if _HUB_ID.fullmatch(name):
        return name
    return re.sub(r"[^\w.-]", "-", safe(name))


def _text(value: Any) -> str:
    """Show a value from a file as code, which nothing in it can end: it is no markup."""
    words = reason(value if isinstance(value, str) else repr(value))[:_MOST_LETTERS]
    return f"`{words.replace('`', chr(39)).replace('|', '/')}`" if words else "``"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _count(value: Any) -> str:
    return _number(as_number(value), 0)


def _table(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _introduction(run: _Seed, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    identity = _identity(run)
    yield f"# {_text(identity.get('agent'))} with {_text(identity.get('activation'))} activations"
    yield ""
    yield (
        f"A policy for continuous actions, trained by rlrat {_text(_mapping(run.config.get('versions')).get('rlrat'))} "
        "from logged data alone: while it learned, it never acted. Its newest checkpoint is of update "
        f"{checkpoint['update']:,} of {_count(identity.get('total_updates'))}; its run is {run.status}."
    )


def _data(run: _Seed) -> Iterator[str]:
    about, identity = _mapping(run.config.get("dataset")), _identity(run)
    yield f"- dataset {_text(about.get('id', identity.get('dataset')))}"
    counts = [(name, as_number(about.get(name))) for name in ("transitions", "episodes")]
    if any(count is not None for _, count in counts):
        yield "- " + ", ".join(f"{count:,.0f} {name}" for name, count in counts if count is not None)
    returns = [as_number(about.get(f"return_{name}")) for name in ("mean", "worst", "best")]
    if None not in returns:
        mean, worst, best = map(_number, returns)
        yield f"- returns of its episodes: {mean} on average, {worst} the worst, {best} the best"
    holdout = as_number(identity.get("holdout"))
    if holdout:
        yield f"- a share of {holdout:g} of its episodes was held out: nothing was trained on it"
    yield f"- SHA-256 of its content: {_text(about.get('fingerprint', identity.get('dataset_fingerprint')))}"


def _units(policy: Any) -> Iterator[str]:
    settings = policy.settings
    yield (
        f"Observations are vectors of {settings['observation_size']} numbers, raw as the data has them; actions are "
        f"vectors of {settings['action_size']}, in the data's units. The policy holds both units: it subtracts means "
        "and divides by standard deviations, and scales tanh to the bounds of the actions."
    )
    if policy.observation_parts:
        parts = ", ".join(_text(f"{name} {width}") for name, width in policy.observation_parts)
        yield f"\nAn observation is made of, in this order, with their widths: {parts}."
    mean, std, scale, offset = (
        getattr(policy, name)[0].cpu().numpy()
        for name in ("observation_mean", "observation_std", "action_scale", "action_offset")
    )
    for kind, columns in (
        ("observation", {"mean": mean, "standard deviation": std}),
        ("action", {"least": offset - scale, "greatest": offset + scale}),
    ):
        rows = list(zip(*columns.values(), strict=True))
        yield ""
        yield from _table(
            [kind, *columns],
            [[str(place), *(f"{value:.6g}" for value in row)] for place, row in enumerate(rows[:_MOST_LISTED])],
        )
        if len(rows) > _MOST_LISTED:
            yield f"\n... and {len(rows) - _MOST_LISTED} more components."


def _siblings(run: _Seed) -> list[_Seed]:
    """Find the runs of the same settings with other seeds, beside this one, itself included."""
    found, own = [], run.path.resolve()
    for path in sorted({*own.parent.glob("seed*"), own}, key=lambda path: (len(path.name), path.name)):
        try:
            config, summary = RunFolder(path).config(), RunFolder(path).summary()
        except InputError:
            continue
        if config is not None and not differing(_identity(run), recalled(config["identity"])):
            found.append(_Seed(path, config, summary or {}))
    return found


def _results(run: _Seed) -> Iterator[str]:
    seeds = _siblings(run)
    env_id = _env_id(run)
    if env_id is None:
        columns = {
            "estimated value": "final_value",
            "value of the data": "offline.data_value",
            "action error": "offline.action_error",
            "agreement": "offline.agreement",
        }
        yield (
            "This run had no environment: **nothing here is a return**. The estimated value is that of the policy at "
            "the data's initial states, discounted, by fitted Q evaluation, the mean of the last evaluations; beside "
            "it stands the data's own. It is an estimate from the same log, and is wrong where the policy does what "
            "the log does not show. Action error is the mean squared difference to held-out actions in units of "
            "[-1, 1]; agreement is 1 where the policy takes the held-out actions that the critics rate highly."
        )
    else:
        columns = {"return": "final_return", "score": "final_score"}
        succeeds = any(seed.number("final_success_rate") is not None for seed in seeds)
        columns |= {"success rate": "final_success_rate"} if succeeds else {}
        episodes = _count(_identity(run).get("eval_episodes"))
        yield (
            f"Measured in {_text(env_id)}{_around(run)}: a return is the undiscounted sum of an episode's rewards, "
            "with deterministic actions. The number of a seed is the mean of its last five evaluations, or of all "
            f"where there are fewer, of {episodes} {'episode' if episodes == '1' else 'episodes'} each; none was "
            "chosen by its result."
        )
        if succeeds:
            yield (
                "The success rate is the share of episodes in which the environment says at any step that the task is "
                "done (in FrankaKitchen the mean share of its tasks)."
            )
        reference = _mapping(run.config.get("reference"))
        random, expert = as_number(reference.get("random")), as_number(reference.get("expert"))
        if reference.get("measure") == "success":
            yield "A score is 100 x the success rate, as in the papers that use this task."
        elif random is not None and expert is not None:
            yield (
                f"A score is 0 at {random:g}, the return of random actions, and 100 at {expert:g}, an expert's "
                f"({_text(reference.get('name'))})."
            )
    yield ""
    rows = [
        [
            f"{_text(seed.path.name)}{', this one' if seed.path == run.path.resolve() else ''}",
            seed.status,
            *(_number(seed.number(name)) for name in columns.values()),
        ]
        for seed in seeds
    ]
    yield from _table(["seed", "status", *columns], rows)
    values = [value for seed in seeds if (value := seed.number(next(iter(columns.values())))) is not None]
    if len(values) > 1:
        spread = float(np.std(values, ddof=1))
        yield ""
        yield (
            f"Over {len(values)} seeds: {_number(float(np.mean(values)))} +- {_number(spread)} "
            f"({next(iter(columns))}, mean and standard deviation between seeds)."
        )
    best = _mapping(run.summary.get("best"))
    if best:
        yield ""
        yield (
            f"{BEST_CHECKPOINT} holds the policy of update {_count(best.get('update'))}, chosen by "
            f"{_text(best.get('by'))}, where it had {_number(as_number(best.get('value')))}. A value by which "
            "something was chosen is too high: the numbers above are of the newest one."
        )


def _judgement(folder: Path) -> list[str]:
    """Say what `rlrat judge` found, if it was asked."""
    found = read_json(folder / JUDGEMENT)
    if found is None:
        return []
    which = "best" if found.get("which") == "best" else "newest"
    lines = [
        f"`rlrat judge`, from data alone: **an estimate, no return**. The value of the {which} policy, of update "
        f"{_count(found.get('update'))}, at the data's initial states is {_number(as_number(found.get('value')))}, in "
        f"rewards discounted by {_value(found.get('discount'))}, by fitted Q evaluation; the data's own is "
        f"{_number(as_number(found.get('data_value')))}."
    ]
    interval, refits = found.get("interval"), found.get("refits")
    if isinstance(interval, list) and len(interval) == 2 and isinstance(refits, list):
        low, high = (_number(as_number(end)) for end in interval)
        lines.append(f"Its 95% interval is {low} to {high}, from {len(refits)} refits on resampled episodes.")
    outside = as_number(found.get("outside"))
    if outside is not None:
        lines.append(f"It acts unlike the data in {outside:.0%} of the states; the data itself does in 5%.")
    problems = found.get("problems")
    if isinstance(problems, list) and problems:
        lines += ["", "**It cannot be trusted:**", "", *(f"- {_text(problem)}" for problem in problems[:_MOST_LISTED])]
    else:
        lines.append("The diagnosis found nothing against it, which proves nothing.")
    if rows := [[_text(name), words] for name, words in _flat(_mapping(found.get("importance")))]:
        lines += ["", *_table(["by importance sampling", "value"], rows)]
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", _value(value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = as_number(value)
    return _text(value) if number is None else f"{number:.6g}"


def _limits(run: _Seed, policy: Any) -> Iterator[str]:
    yield (
        "- It learned from one log. In states, and for tasks, that the log does not show, its actions are guesses; "
        "nothing in it keeps it from unsafe ones, but for the bounds of each action."
    )
    if _env_id(run) is None:
        yield "- It has not acted anywhere yet: try it with a human at the switch, and record what it does."
    else:
        yield "- It was evaluated in simulation alone, from the simulator's own initial states."
    count = len(_siblings(run))
    if count < 5:
        seeds = "one seed" if count == 1 else f"{count} seeds"
        yield f"- {seeds.capitalize()} of training: what another would give may differ more than the numbers show."
    if run.status == DIVERGED:
        update = _count(run.summary.get("diverged_at"))
        yield f"- **Training diverged** at update {update}: this is the policy frozen then."
    elif run.status == FAILED:
        yield "- **No evaluation of the trained policy worked.**"
    elif run.status != FINISHED:
        yield "- Training had not finished when this card was written."
    if policy.settings["kind"] == "sequence":
        targets = ", ".join(f"{target:g}" for target in policy.target_returns)
        yield f"- It is told which return to reach (trained runs were evaluated at {targets}); it need not reach it."


def _use(run: _Seed, policy: Any) -> Iterator[str]:
    path = Path(*run.path.resolve().parts[-5:])  # below the folder of --run-dir, whose own path is nobody's business
    looks_back = policy.settings["kind"] == "sequence"
    yield "```python"
    yield "import rlrat"
    yield ""
    yield f"policy = rlrat.load_policy({str(path)!r})"
    if looks_back:
        yield "policy.reset()  # before each episode"
    yield "action = policy(observation)"
    if looks_back:
        yield "policy.observe(reward, done)  # after each step"
    yield "```"
    yield ""
    yield "It also runs without rlrat, from a file that is compared with it as it is written:"
    yield ""
    yield "```bash"
    yield f"rlrat export {shlex.quote(str(path))} --format onnx"
    yield "```"


def _settings(run: _Seed) -> Iterator[str]:
    known = {"seed": run.config.get("seed"), **_identity(run)}
    rows = [
        [_text(name), _text(str(value))]
        for name, value in known.items()
        if not name.startswith("dataset") and value not in (None, [], {})
    ]
    yield from _table(["setting", "value"], rows)
    versions = _mapping(run.config.get("versions"))
    yield ""
    yield "Versions: " + ", ".join(f"{name} {_text(value)}" for name, value in versions.items()) + "."
