"""Read the command line that all agents share. Nothing here needs torch: `--help` and mistakes are answered at once.

An agent's own dataclass inherits from `RunArguments` and adds the settings of its paper, one line of help under each.
"""

import dataclasses
import io
import itertools
import json
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from tyro import conf

from rlrat.datasets.names import PACKAGED
from rlrat.datasets.sources import folder_name
from rlrat.environments.registry import MOST_EPISODES
from rlrat.environments.settings import parse_env_kwargs
from rlrat.errors import InputError, guarded_output, one_line_errors, printable
from rlrat.json_files import EXACT_INTEGERS
from rlrat.networks.choices import Norm, RationalVersion
from rlrat.runs.presets import with_preset
from rlrat.runs.roles import PerRole
from rlrat.runs.schema import HELD_OUT_SHARE, NETWORK_SETTINGS, OUTSIDE_IDENTITY, OUTSIDE_NAME
from rlrat.updates.seeds import SEED_LIMIT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlrat.updates.optim import Adam, SeedGuard


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have: `Annotated[float, Range(0.0, 1.0, open_high=True)]`."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if self.high == math.inf:
            return f"finite and {low}" if self.open_high else low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:,.12g}"


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0.0, open_low=True, open_high=True)]
NotNegative = Annotated[float, Range(0.0, open_high=True)]
Share = Annotated[float, Range(0.0, 1.0)]
Rate = Annotated[float, Range(0.0, 1.0, open_high=True)]
Number = Annotated[float, Range(-1e6, 1e6)]

Kind = TypeVar("Kind")
Axis = Kind | tuple[Kind, ...]
"""A setting that may differ along the seed axis: with several values, each value and each seed together are a member.

The agent gets one value as a number, and several values as a tensor `[S, 1]`, to which `beside` gives more axes."""

_LEAST, _GREATEST = 1e-37, 1e38  # sizes of float32 numbers, digits and some room left


@dataclass(frozen=True)
class RationalArguments:
    degrees: tuple[int, int] = (5, 4)
    """Degrees of the numerator and the denominator."""
    version: RationalVersion = "A"
    """A: Q = 1 + sum |b_i x^i|; B: 1 + |sum b_i x^i|; C: 0.1 + |sum b_i x^i|; N: 1 + sum b_i x^i, unguarded."""
    groups: Count = 1
    """Feature groups with coefficients of their own."""
    rate_scale: NotNegative = 1.0
    """Multiplies the learning rate of the coefficients, and of any other trained activation."""


@dataclass(frozen=True)
class RunArguments(PerRole):
    dataset: str = PACKAGED[0]
    """Packaged (rlrat/hopper/mixed-v0, rlrat/hopper/medium-v0), Minari id, D4RL name, or the path of an .npz, .csv,
    .parquet or D4RL-layout .hdf5 file, or of a folder of .npz files or of Minari's."""
    env_id: str | None = None
    """Gymnasium environment to evaluate in; the dataset's own by default. none: judge on the data alone."""
    env_kwargs: tuple[str, ...] = ()
    """Environment settings, name=value, such as xml_file=walker2d.xml; a value is JSON, a Python literal or a word."""
    env_modules: tuple[str, ...] = ()
    """Your modules that register environments, also from the working directory. Nothing that data names is imported."""
    max_episode_steps: Count | None = None
    """Steps after which an episode of an evaluation is cut; by default as the data records it, or else as the
    environment is registered."""
    ignore_wrappers: bool = False
    """Evaluate without those recorded wrappers that cannot be made again, such as NormalizeObservation; without it they
    are an error."""
    action_bounds: tuple[tuple[float, float], ...] | None = None
    """Least and greatest action, LOW HIGH, or a pair for each component; by default the data's or the environment's."""
    drop_achieved_goal: Annotated[bool | None, conf.arg(constructor=bool)] = None
    """Leave achieved_goal out of dictionary observations; by default where all of it stands in observation, too."""
    seed: Annotated[int, Range(0)] = 0
    """First seed."""
    num_seeds: Count = 1
    """Seeds side by side: seed, seed + 1, ...; each is trained with every value of a setting that has several."""
    total_updates: Count = 300_000
    """Gradient updates."""
    batch_size: Count = 256
    """Transitions per seed and update."""
    eval_every: Count = 10_000
    """Updates between evaluations."""
    eval_at: tuple[int, ...] = ()
    """Further updates to evaluate at."""
    eval_episodes: Count = 20
    """Episodes per seed and evaluation."""
    checkpoint_every: Count = 10_000
    """Updates between checkpoints."""
    keep_best: Literal["return", "score", "fqe", "heldout"] | None = None
    """Keep the policy with the best return, score, value by fitted Q evaluation, or actor's loss on held-out episodes,
    in checkpoint.best.pt."""
    holdout: Rate | None = None
    """Share of the episodes that is never trained on, the same for all seeds; 0.1 by default where there is no
    environment, else none."""
    fqe_updates: Annotated[int, Range(0)] = 5000
    """Updates of each fitted Q evaluation, where there is no environment or --keep-best needs it; 0 leaves it out."""
    log_every: Count = 500
    """Updates between points of TensorBoard and metrics.csv, each the mean since the last."""
    activation: str = "relu"
    """relu leaky_relu prelu elu selu celu gelu gelu_tanh silu mish softplus sigmoid logsigmoid tanh softmin softmax
    logsoftmax identity rational, or rational:<name> for a rational that starts as another elementwise one."""
    gated: bool = False
    """Hidden layers act(Wx) * Vx, narrowed to about the plain network's number of weights."""
    norm: Norm = "none"
    """Of hidden layers; layer: LayerNorm before each activation, layer_after: after it, as ReBRAC and FQL have it."""
    norm_epsilon: Positive = 1e-5
    """Added to LayerNorm's variance: 1e-5 as in PyTorch, in Flax 1e-6."""
    hidden_dims: tuple[int, ...] = (256, 256)
    """Hidden widths."""
    warmup_updates: Annotated[int, Range(0)] = 0
    """The learning rates grow linearly over so many updates."""
    weight_decay: Axis[NotNegative] = 0.0
    """AdamW's, of all parameters but those of norms, embeddings, trained activations and multipliers."""
    max_norm: Axis[Positive] | None = None
    """Clips the norm of a seed's gradient of each network."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rates; cosine: they fall to 0 over all updates."""
    rational: RationalArguments = field(default_factory=RationalArguments)
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of matrix products; tf32 is for NVIDIA GPUs, bf16 for CPUs with AMX. Everything else stays fp32."""
    compile: Annotated[bool | None, conf.arg(constructor=bool)] = None
    """Compile the update: half a minute, then up to twice as fast on a CPU; by default of 20,000 updates or more."""
    capture: bool = True
    """On a GPU, record the update as CUDA graphs and replay them."""
    eval_timeout: Positive = 300.0
    """Seconds without a step after which an evaluation is begun again; the second time it has failed. Where the
    environment has no time limit, it has also failed after so many seconds in which no episode ends."""
    profile: bool = False
    """Print where the time goes, and write trace.json, a trace of some updates, into the first seed's folder."""
    track: bool = False
    """Mirror TensorBoard to Weights & Biases (pip install "rlrat[track]"); WANDB_MODE=offline keeps it here."""
    num_threads: Annotated[int, Range(1, 4096)] | None = None
    """CPU threads; by default one for each core, fewer where updates are too small for so many or other work has the
    cores, which is looked at again every 3 seconds. OMP_NUM_THREADS is kept, too."""
    run_dir: Path = Path("runs")
    """Folder that the run folders are made in."""
    run_name: str | None = None
    """Name that tells run folders apart; by default the algorithm settings that differ from their defaults."""
    resume: bool = True
    """Go on from the newest checkpoint; without it, an unfinished run is an error."""
    overwrite: bool = False
    """Delete the run folders of these seeds first."""

    def network(self, role: str) -> dict[str, Any]:
        """Collect the settings of the networks of a role, `actor` or `critic`, as `rlrat.networks.MLP` takes them."""
        rational = self.of_role(role, "rational")
        settings = {name: getattr(rational, name) for name in ("degrees", "version", "groups")}
        return {**{name: self.of_role(role, name) for name in NETWORK_SETTINGS}, "activation_settings": settings}

    def adam(
        self,
        network: "nn.Module",
        learning_rate: "float | Tensor",
        role: str,
        *,
        name: str,
        guard: "SeedGuard",
        every: int = 1,
        undecayed: "Iterable[nn.Module]" = (),
    ) -> "Adam":
        """Make a network's optimizer, with all that the command line says of optimizers.

        Every optimizer of an agent is made here, also those of a temperature or a multiplier: none lacks a setting.

        Args:
            network: has a `batch_shape`; see `rlrat.updates.Adam`.
            learning_rate: one number, or one for each seed.
            role: whose `--<role>-schedule` it follows, and whose `--<role>-rational.rate-scale`.
            name: what `guard` calls its loss and gradient.
            guard: the learner's.
            every: updates between two of its steps.
            undecayed: modules that weight decay leaves alone, besides norms, embeddings and trained activations.
        """
        from rlrat.networks.layers import Embedding, LayerNorm
        from rlrat.networks.transformer import Gain
        from rlrat.updates.optim import Adam

        schedule = self.of_role(role, "schedule")
        return Adam(
            network,
            learning_rate,
            name=name,
            guard=guard,
            rational_rate_scale=self.of_role(role, "rational").rate_scale,
            weight_decay=self.weight_decay,
            decoupled=True,
            undecayed=[*undecayed, *(m for m in network.modules() if isinstance(m, Embedding | LayerNorm | Gain))],
            max_norm=self.max_norm,
            warmup_updates=-(-self.warmup_updates // every) or None,
            cosine_updates=max(1, self.total_updates // every) if schedule == "cosine" else None,
        )

    def activations(self) -> tuple[str, ...]:
        """Name the activations of all networks, each once."""
        return tuple(dict.fromkeys(self.network(role)["activation"] for role in self.roles))


Arguments = TypeVar("Arguments", bound=RunArguments)


def parse(kind: type[Arguments], description: str, argv: list[str] | None = None) -> Arguments:
    """Read an agent's command line as `read_command_line` does, and check its values, too."""
    if argv is None:  # the program's own command line: nothing has been done yet
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback, until the run can stop cleanly
        warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    arguments = read_command_line(kind, description, argv)
    with one_line_errors():
        if (preset := getattr(arguments, "preset", None)) is not None:  # now what it sets is the default
            defaults = kind(**with_preset(kind, {"preset": preset, "dataset": arguments.dataset}))
            arguments = read_command_line(kind, description, argv, defaults=defaults)
        validate(arguments)
    return arguments


@guarded_output()
def read_command_line(
    kind: type[Kind],
    description: str,
    argv: list[str] | None = None,
    prog: str | None = None,
    defaults: Kind | None = None,
) -> Kind:
    """Read a command line as a `kind`: a dataclass, or for subcommands a union of them.

    `--help` is answered. A mistake is one line on stderr and exit code 2. `argv` and `prog`, the program's name, are
    those of this process by default. `defaults` take the place of the kind's own.
    """
    import tyro

    chosen = {} if defaults is None else {"default": defaults}

    def read() -> Kind:
        return tyro.cli(kind, description=description, args=argv, prog=prog, **chosen)

    printed, width = io.StringIO(), os.environ.get("COLUMNS")
    try:
        with redirect_stderr(printed):
            return read()
    except SystemExit as stop:
        if stop.code:
            os.environ["COLUMNS"] = "10000"  # read again, without line breaks, which would become blanks inside values
            with redirect_stderr(wide := io.StringIO()), suppress(SystemExit):
                read()
            print(f"error: {one_line(wide.getvalue() or printed.getvalue())}", file=sys.stderr)
        raise
    finally:
        os.environ.pop("COLUMNS", None)
        os.environ.update({"COLUMNS": width} if width is not None else {})


def program() -> str:
    """Return how this program is called: `sweep.py`, or `rlrat sweep` where it is installed."""
    return Path(sys.argv[0]).name


def one_line(box: str) -> str:
    """Turn the box that tyro prints into one line, without its frame and the help of options."""
    box = re.sub(r"\x1b\[[\d;]*m", "", box)  # colours, in a terminal
    box = re.sub(r"^[╭│╰ ][─ ]|[╮│╯]$", "", box, flags=re.MULTILINE)  # the frame, blanks where it cannot be printed
    if "Missing from" in box:
        box = re.sub(r"^( {4}\S+).*(?:\n {8}.*)*", r"\1,", box, flags=re.MULTILINE)
    if "Unrecognized" in box:  # of the options that it suggests, only the names
        box = re.sub(r"^( {4}-[^\s,]+(?:, -[^\s,]+)*).*(?:\n {4}(?!-).*)*", r"\1,", box, flags=re.MULTILINE)
    parts = re.split(r"^ ?[─-]{3,} *$| ─+$", box, flags=re.MULTILINE)  # the title, and the parts between lines
    parts = [" ".join(part.split()).split(" Got errors:")[0] for part in parts]
    if wrong := re.search(_NO_NUMBER, "\n".join(parts)):
        option, given, kind = wrong.groups()
        number, several = "number" if "FLOAT" in kind else "whole number", "..." in kind
        count = len(re.findall("INT|FLOAT", kind)) // (1 + several)  # [INT [INT ...]] has each twice
        wanted = f"{count} {number}s" if count > 1 else f"one or more {number}s" if several else f"a {number}"
        return f"{option or 'the value'} is {given}, but must be {wanted}"
    said = [re.sub(r"(?<=\S)[.,]$", "", part) for part in parts if part and not re.match(_UNSAID, part)]
    return ". ".join(said).replace("Expected 1 values", "Expected 1 value")


# Where numbers are expected: the option, what was given, and what --help says of it, such as {None}|INT.
_NO_NUMBER = (
    r"Error parsing (?:(--\S+)|.*?): .*?(?:\[|base 10: |float: )(['\"].*['\"]).*\n"
    r"Argument helptext: (?:--\S+ )?((?:{None}|INT|FLOAT|[][{}|. ])+)"
)
# Parts to leave out: help, and titles that say less than what follows them.
_UNSAID = (
    r"Argument helptext:|For full helptext|"
    r"(Unrecognized options|Value error|Parsing error|Missing argument|Required options|Invalid choice)$"
)


def validate(arguments: RunArguments) -> None:
    """Raise `InputError` for the first value that cannot be right."""
    check_ranges(arguments)
    if arguments.seed + arguments.num_seeds > SEED_LIMIT:
        raise InputError(f"--seed is {arguments.seed}, but the last of --num-seeds must be below {SEED_LIMIT:,}")
    for name in ("hidden_dims", *(f"{role}_hidden_dims" for role in arguments.roles)):
        widths = getattr(arguments, name)
        if widths is not None and (not widths or min(widths) < 1):
            raise InputError(f"{_flag(name)} is {widths}, but must be one or more positive widths")
    for role, name, value in arguments.of_absent_roles():
        raise InputError(f"{_flag(name)} is {value}, but this agent has no {role}: leave it out")
    if any(not 0 <= update <= arguments.total_updates for update in arguments.eval_at):
        raise InputError(f"--eval-at is {arguments.eval_at}, but must lie in [0, --total-updates]")
    if arguments.run_name is not None and not re.fullmatch(r"[\w.,=+-]+", arguments.run_name):
        raise InputError(f"--run-name is {arguments.run_name!r}, but may hold only letters, digits and . , = + - _")
    parse_env_kwargs(arguments.env_kwargs)
    _check_bounds(arguments.action_bounds)
    count = arguments.num_seeds
    for name, values in _varied(arguments).items():
        if not values or len(set(values)) < len(values):
            raise InputError(f"{_flag(name)} is {list(values)}, but must be one or more values, each once")
        if arguments.run_name is not None:
            raise InputError(f"--run-name names one folder a seed, but {_flag(name)} has several values: leave it out")
        count *= len(values)
    if (episodes := count * arguments.eval_episodes) > MOST_EPISODES:
        several = f"--num-seeds {arguments.num_seeds}" if count == arguments.num_seeds else f"{count:,} members"
        raise InputError(
            f"{several} with --eval-episodes {arguments.eval_episodes} play {episodes:,} episodes at once, "
            f"but at most {MOST_EPISODES:,} can be: give fewer, or several commands"
        )


def _check_bounds(bounds: tuple[tuple[float, float], ...] | None) -> None:
    if bounds is None:
        return
    if not bounds:
        raise InputError("--action-bounds has no values, but must be LOW HIGH, or a pair for each component")
    for low, high in bounds:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"--action-bounds has {low:g} {high:g}, but must be finite numbers, the lower one first")


def check_ranges(arguments: Any, prefix: str = "") -> None:
    """Raise `InputError` for the first number outside its `Range`, or too large or small for any run."""
    for name, kind in get_type_hints(type(arguments), include_extras=True).items():
        value = getattr(arguments, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        values = value if isinstance(value, tuple) else (value,)
        for part in (kind, *get_args(kind)):  # None or several values: the range is one level deeper
            for bound in getattr(part, "__metadata__", ()):
                for one in values:
                    if isinstance(bound, Range) and one is not None and one not in bound:
                        raise InputError(f"{_flag(prefix + name)} is {one}, but must be {bound}")
        for one in values:  # what `config.json` is read with again
            if isinstance(one, int) and abs(one) > EXACT_INTEGERS:
                raise InputError(f"{_flag(prefix + name)} is {one}, but must be at most {EXACT_INTEGERS:,}")
        for one in values:  # 1e300 would be infinite for PyTorch, and 1e-300 zero
            if isinstance(one, float) and math.isfinite(one) and one and not _LEAST <= abs(one) <= _GREATEST:
                size = f"between {_LEAST:g} and {_GREATEST:g}"
                raise InputError(f"{_flag(prefix + name)} is {one}, but numbers have 32 bits: give 0 or one {size}")


@dataclass(frozen=True)
class Member:
    """A seed with one value of each setting: what a command trains side by side, each in its own run folder.

    `arguments` are those of the command that trains this member alone.
    """

    arguments: RunArguments
    label: str
    """`seed 3`, or `seed 3 with expectile=0.9`."""

    @property
    def seed(self) -> int:
        return self.arguments.seed


def _varied(arguments: RunArguments) -> dict[str, tuple[float, ...]]:
    """Find the settings that have several values."""
    return {
        name: getattr(arguments, name)
        for name, kind in get_type_hints(type(arguments)).items()
        if {float, tuple[float, ...]} <= set(get_args(kind)) and isinstance(getattr(arguments, name), tuple)
    }


def members(arguments: RunArguments) -> list[Member]:
    """List the members of a command: each seed with each combination of the settings that have several values."""
    varied, found = _varied(arguments), []
    for seed in range(arguments.seed, arguments.seed + arguments.num_seeds):
        for values in itertools.product(*varied.values()):
            own = dict(zip(varied, values, strict=True))
            label = f"seed {seed}" + (" with " + ", ".join(f"{k}={v:g}" for k, v in own.items()) if own else "")
            found.append(Member(dataclasses.replace(arguments, seed=seed, num_seeds=1, **own), label))
    return found


def side_by_side(arguments: Arguments, members: Sequence[Member], device: Any) -> Arguments:
    """Replace each setting of `arguments` that has several values by a tensor `[S, 1]` of the members' own."""
    varied = _varied(arguments)
    if not varied:
        return arguments
    import torch

    columns = {name: [[getattr(member.arguments, name)] for member in members] for name in varied}
    return dataclasses.replace(arguments, **{k: torch.tensor(column, device=device) for k, column in columns.items()})


def beside(setting: Any, axes: int) -> Any:
    """Fit a setting to a tensor of `axes` axes: a number stays as it is, `[S, 1]` becomes `[S, 1, ..., 1]`."""
    return setting.view(-1, *[1] * (axes - 1)) if hasattr(setting, "view") else setting


def settings(arguments: RunArguments) -> dict[str, Any]:
    """Collect every argument by the name of its flag (`rational.degrees`), with values as JSON has them."""

    def rows(value: Any, prefix: str) -> dict[str, Any]:
        found = {}
        for entry in dataclasses.fields(value):
            item = getattr(value, entry.name)
            if dataclasses.is_dataclass(item):
                found |= rows(item, f"{prefix}{entry.name}.")
            else:
                found[prefix + entry.name] = list(item) if isinstance(item, tuple) else item
        return found

    return json.loads(json.dumps(rows(arguments, ""), default=str))


def identity(arguments: RunArguments) -> dict[str, Any]:
    """Collect the settings that change a run's result."""
    return {name: value for name, value in settings(arguments).items() if name not in OUTSIDE_IDENTITY}


def held_out_share(arguments: RunArguments, env_id: str | None, episodes: int) -> float | None:
    """Return the share of a dataset's `episodes` that is held out, as a run's identity has it; None where none is."""
    if arguments.holdout is None and env_id is None and episodes > 1:
        return HELD_OUT_SHARE
    return arguments.holdout or None


def run_name(arguments: RunArguments) -> str:
    """Return `--run-name`, or the algorithm settings that are not their defaults: `expectile=0.9,norm=layer`, or ''."""
    if arguments.run_name is not None:
        return arguments.run_name
    defaults = settings(type(arguments)())
    different = {
        name: value
        for name, value in settings(arguments).items()
        if name not in OUTSIDE_NAME and value != defaults[name]
    }
    text = {name: "x".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in different.items()}
    return ",".join(f"{name}={text[name].replace('/', '-').replace(':', '-')}" for name in sorted(text))


def run_folder(arguments: RunArguments, agent: str, seed: int) -> Path:
    """Return the path of a run folder: `<run-dir>/<dataset>/<agent>/<activation>[+<run-name>]/seed<k>`."""
    name = run_name(arguments)
    activation = arguments.activation.replace(":", "-") + (f"+{name}" if name else "")
    return arguments.run_dir / folder_name(arguments.dataset) / agent / activation / f"seed{seed}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
