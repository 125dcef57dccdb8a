import copy
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import pytest
import torch
import tyro
from torch import nn

from agents.iql import Arguments
from rlrat.networks import MLP, activations
from rlrat.rational import VERSIONS
from rlrat.runs.arguments import (
    RationalArguments,
    identity,
    parse,
    read_command_line,
    run_folder,
    run_name,
    settings,
)
from rlrat.runs.schema import NETWORK_SETTINGS
from rlrat.updates import Adam, SeedGuard
from tests.short_runs import ROOT


def _names(**changes):
    return run_name(Arguments(**changes))


def test_the_run_name_is_what_differs_from_the_defaults():
    assert _names() == ""
    assert _names(expectile=0.9, norm="layer") == "expectile=0.9,norm=layer"
    assert _names(hidden_dims=(64, 32), rational=RationalArguments(degrees=(3, 2))) == (
        "hidden_dims=64x32,rational.degrees=3x2"
    )
    assert _names(actor_activation="rational:gelu") == "actor_activation=rational-gelu"
    assert _names(dataset="hopper-medium-v2", seed=3, num_seeds=4, total_updates=7, device="cpu", eval_at=(5,)) == ""
    assert _names(expectile=0.9, run_name="mine") == "mine"


def test_a_role_has_its_own_of_every_setting_of_networks():
    own = {"activation": "tanh", "gated": True, "norm": "layer_after", "norm_epsilon": 1e-6, "hidden_dims": (8,)}
    assert own.keys() == {*NETWORK_SETTINGS}
    plain = Arguments().network("critic")
    for name, value in own.items():
        arguments = Arguments(**{f"critic_{name}": value})
        assert arguments.network("critic") == {**plain, name: value}
        assert arguments.network("actor") == plain
        assert Arguments(**{name: value}).network("critic") == Arguments(**{name: value}).network("actor")
    assert Arguments(gated=True, critic_gated=False).network("critic")["gated"] is False
    argv = ["--critic-norm", "layer_after", "--critic-hidden-dims", "8", "4", "--no-critic-gated"]
    read = read_command_line(Arguments, "", [*argv, "--actor-norm-epsilon", "1e-6"])
    assert (read.critic_norm, read.critic_hidden_dims, read.critic_gated) == ("layer_after", (8, 4), False)
    assert (read.actor_norm_epsilon, read.norm) == (1e-6, "none")
    assert Arguments(actor_activation="tanh", critic_activation="relu").activations() == ("tanh", "relu")


def test_an_optimizer_has_all_that_is_said_of_optimizers():
    network = nn.ModuleDict(
        {"mlp": MLP(3, (4,), 2, batch_shape=(2,), norm="layer"), "own": MLP(3, (), 2, batch_shape=(2,))}
    )
    network.batch_shape = (2,)
    rates = torch.tensor([[1e-3], [2e-3]])
    arguments = Arguments(
        total_updates=10, warmup_updates=5, weight_decay=0.1, max_norm=0.5, rational=RationalArguments(rate_scale=2.0),
        actor_schedule="constant", critic_schedule="cosine", activation="prelu",
    )  # fmt: skip
    guard, about = SeedGuard(2), {"guard": SeedGuard(2), "every": 3, "undecayed": [network["own"]]}
    ours = arguments.adam(network, rates, "critic", name="n", **about)
    assert (ours.cosine_updates, ours.warmup_updates, ours.decoupled) == (3, 2, True)
    named = zip(dict(network.named_parameters()), ours._decays, strict=True)
    assert {name for name, decays in named if not decays} == {
        *("mlp.hidden.0.norm.weight", "mlp.hidden.0.norm.bias", "own.output.weight", "own.output.bias"),
    }
    theirs = Adam(copy.deepcopy(network), rates, name="n", guard=guard, weight_decay=0.1, max_norm=0.5)
    for name in ("_seed_rate", "_seed_decay", "_max_norm"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert arguments.adam(network, 1e-3, "actor", name="n", guard=guard).cosine_updates is None
    plain = Arguments().adam(network, 1e-3, "critic", name="n", guard=guard)
    assert (plain.cosine_updates, plain.warmup_updates, plain._max_norm, plain._decaying) == (None, None, None, False)
    for every in (1, 20):
        actor = Arguments(total_updates=10).adam(network, 1e-3, "actor", name="n", guard=guard, every=every)
        assert actor.cosine_updates == max(1, 10 // every)


def test_the_run_folder_is_the_contracts():
    assert run_folder(Arguments(activation="rational:gelu"), "iql", 3) == Path(
        "runs/rlrat-hopper-mixed-v0/iql/rational-gelu/seed3"
    )
    assert run_folder(Arguments(dataset="data/my.hdf5", expectile=0.5, run_dir=Path("x")), "iql", 0) == Path(
        "x/my/iql/relu+expectile=0.5/seed0"
    )


def test_identity_is_what_changes_a_result():
    same = Arguments(seed=5, num_seeds=2, device="cpu", num_threads=1, run_dir=Path("x"), run_name="y", overwrite=True)
    assert identity(same) == identity(Arguments())
    for change in ({"expectile": 0.9}, {"total_updates": 5}, {"eval_episodes": 3}, {"env_kwargs": ("a=1",)}):
        assert identity(Arguments(**change)) != identity(Arguments())
    assert settings(Arguments())["rational.degrees"] == [5, 4]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--activaton", "relu"], "--activation"),
        (["--total-updates", "many"], "--total-updates"),
        (["--norm", "batch"], "batch"),
        (["--batch-size", "0"], "--batch-size is 0, but must be at least 1"),
        (["--hidden-dims", "0"], "--hidden-dims"),
        (["--critic-hidden-dims", "0"], "--critic-hidden-dims is (0,), but must be one or more positive widths"),
        (["--warmup-updates", "-1"], "--warmup-updates is -1, but must be at least 0"),
        (["--max-norm", "0"], "--max-norm is 0.0, but must be finite and above 0"),
        (["--weight-decay", "-1"], "--weight-decay is -1.0, but must be finite and at least 0"),
        (["--critic-norm-epsilon", "0"], "--critic-norm-epsilon is 0.0, but must be finite and above 0"),
        (["--eval-at", "7", "--total-updates", "5"], "--eval-at"),
        (["--run-name", "a/b"], "--run-name"),
        (["--env-kwargs", "x"], "name=value"),
        (["--env-kwargs", "reset=False,b=0"], "--env-kwargs has reset=False,b=0, which is several at once"),
        (["--env-kwargs", "max_episode_steps=5"], "give --max-episode-steps"),
        (["--checkpoint-every", "9" * 20], "must be at most 9,007,199,254,740,992"),
        (["--max-episode-steps", "0"], "--max-episode-steps is 0, but must be at least 1"),
        (["--num-seeds", "100000000"], "--num-seeds 100000000 with --eval-episodes 20 play 2,000,000,000 episodes"),
        (
            ["--eval-episodes", "1000000000"],
            "--num-seeds 1 with --eval-episodes 1000000000 play 1,000,000,000 episodes",
        ),
        (
            ["--num-seeds", "1000", "--eval-episodes", "60", "--expectile", "0.5", "0.7"],
            "2,000 members with --eval-episodes 60 play 120,000 episodes at once, but at most 100,000 can be",
        ),
        (["--action-bounds", "1", "-1"], "--action-bounds has 1 -1, but must be finite numbers, the lower one first"),
        (["--action-bounds", "-1", "1", "0", "0"], "--action-bounds has 0 0, but must be"),
        (["--action-bounds", "-inf", "1"], "--action-bounds has -inf 1, but must be"),
        (["--action-bounds", "-1", "1", "0"], "--action-bounds is '-1', '1', '0', but must be"),
        (["--action-bounds", "a", "b"], "--action-bounds is 'a', 'b', but must be"),
        (["--num-threads", "0"], "--num-threads is 0, but must be at least 1 and at most 4,096"),
        (["--seed", "-1"], "--seed is -1, but must be at least 0"),
        (["--seed", "4294967295", "--num-seeds", "2"], "--seed is 4294967295"),
        (["--rational.groups", "0"], "--rational.groups is 0, but must be at least 1"),
        (["--rational.rate-scale", "nan"], "--rational.rate-scale is nan, but must be finite and at least 0"),
        (["--expectile", "1"], "--expectile is 1.0, but must be above 0 and below 1"),
        (["--actor-dropout", "1"], "--actor-dropout is 1.0, but must be at least 0 and below 1"),
        (["--polyak", "-1"], "--polyak is -1.0, but must be at least 0 and at most 1"),
        (["--learning-rate", "inf"], "--learning-rate is inf, but must be finite and above 0"),
        (
            ["--max-weight", "1e300"],
            "--max-weight is 1e+300, but numbers have 32 bits: give 0 or one between",
        ),
        (["--learning-rate", "1e-300"], "--learning-rate is 1e-300, but numbers have 32 bits: give 0 or one between"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Arguments, "test", argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@dataclass
class Point:
    at: Annotated[Path, tyro.conf.Positional]
    """Where it is."""
    times: tuple[tuple[int, int], ...] = ()


@dataclass
class Line:
    length: float | None = None


@pytest.mark.parametrize(
    ("kind", "argv", "line"),
    [
        # Options that are not there: those alike by their names alone, whatever is said of them.
        (Arguments, "--totl-updates 5", "Unrecognized options: --totl-updates, 5. Perhaps you meant: --total-updates"),
        (Arguments, "--num-seed x", "Unrecognized options: --num-seed, x. Perhaps you meant: --num-seeds"),
        (Arguments, "--no-gatedd", "Unrecognized options: --no-gatedd. Perhaps you meant: --gated, --no-gated"),
        (
            Arguments,
            "--rationl.version A",
            "Unrecognized options: --rationl.version, A. Perhaps you meant: --rational.version, "
            "--actor-rational.version, --critic-rational.version",
        ),
        (Arguments, "--polyk 1", "Unrecognized options: --polyk, 1. Perhaps you meant: --polyak, --policy"),
        (Arguments, "--xyzzy", "Unrecognized options: --xyzzy"),
        # Values.
        (Arguments, "--total-updates 1.5", "--total-updates is '1.5', but must be a whole number"),
        (Arguments, "--num-threads x", "--num-threads is 'x', but must be a whole number"),
        (Arguments, "--eval-timeout x", "--eval-timeout is 'x', but must be a number"),
        (Arguments, "--learning-rate abc", "--learning-rate is 'abc', but must be one or more numbers"),
        (Arguments, "--learning-rate 1 b", "--learning-rate is '1', 'b', but must be one or more numbers"),
        (Arguments, "--hidden-dims a", "--hidden-dims is 'a', but must be one or more whole numbers"),
        (Arguments, "--rational.degrees 5 x", "--rational.degrees is '5', 'x', but must be 2 whole numbers"),
        (
            Arguments,
            "--precision fp64",
            "invalid choice 'fp64' for argument '--precision'. Expected one of ('fp32', 'tf32', 'bf16')",
        ),
        (
            Arguments,
            "--rational.version Z",
            "invalid choice 'Z' for argument '--rational.version'. Expected one of ('A', 'B', 'C', 'N')",
        ),
        # Values that are missing.
        (Arguments, "--total-updates", "Missing value for argument '--total-updates'. Expected 1 value"),
        (Arguments, "--rational.degrees 5", "Missing value for argument '--rational.degrees'. Expected 2 values"),
        (Point, "", "Missing from it.py: PATH"),
        # Values that would be wrapped, and quotes inside of them.
        (Arguments, "--total-updates 1,000", "--total-updates is '1,000', but must be a whole number"),
        (Arguments, f"--total-updates {'9' * 90}x", f"--total-updates is '{'9' * 90}x', but must be a whole number"),
        (Arguments, "--total-updates it's", '--total-updates is "it\'s", but must be a whole number'),
        (Arguments, "--num-threads o'clock", '--num-threads is "o\'clock", but must be a whole number'),
        (Arguments, "--rational.degrees 5 it's", "--rational.degrees is '5', \"it's\", but must be 2 whole numbers"),
        (Arguments, "--rational.foo 1", "Unrecognized options: --rational.foo, 1"),
        (Point, "here --times 1", "--times is '1', but must be 2 whole numbers"),
        # Subcommands.
        (Point | Line, "", "Missing subcommand. Expected one of {point, line}"),
        (Point | Line, "lime", "Unrecognized options: lime. Available subcommands: point, line"),
        (Point | Line, "line --lenght 5", "Unrecognized options: --lenght, 5. Perhaps you meant: --length"),
        (Point | Line, "line --length x", "--length is 'x', but must be a number"),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_tyro_says_of_a_mistake_is_good_to_read(kind, argv, line, terminal, capsys, monkeypatch):
    if terminal:  # which tyro prints frames and colours for
        monkeypatch.setenv("COLUMNS", "50")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as stop:
        read_command_line(kind, "test", argv.split(), prog="it.py")
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_help_names_every_activation_and_is_answered_without_torch():
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['iql.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'agents' / 'iql.py')!r}, run_name='__main__')\n"
        "finally: print('TORCH', 'torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "TORCH False" in result.stdout
    words = result.stdout.replace(",", " ").split()
    assert set(activations.names()) <= set(words)
    for name in settings(Arguments()):
        assert "--" + name.replace("_", "-") in result.stdout


def test_rational_versions_are_those_of_the_package():
    assert get_args(get_type_hints(RationalArguments)["version"]) == VERSIONS


def test_importing_rlrat_imports_no_torch():
    code = "import rlrat, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
