import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import ROOT

from agents.iql import Arguments
from rlrat import activations
from rlrat.arguments import (
    RationalArguments,
    identity,
    parse,
    parse_env_kwargs,
    run_folder,
    run_name,
    settings,
)
from rlrat.errors import InputError


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


def test_environment_settings_are_json_where_they_can_be():
    assert parse_env_kwargs(("xml_file=walker2d.xml", "healthy_reward=0.5", "reset=true")) == {
        "xml_file": "walker2d.xml",
        "healthy_reward": 0.5,
        "reset": True,
    }
    with pytest.raises(InputError, match="expects name=value"):
        parse_env_kwargs(("walker2d.xml",))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--activaton", "relu"], "--activation"),
        (["--total-updates", "many"], "--total-updates"),
        (["--norm", "batch"], "batch"),
        (["--batch-size", "0"], "--batch-size is 0, but must be at least 1"),
        (["--hidden-dims", "0"], "--hidden-dims"),
        (["--eval-at", "7", "--total-updates", "5"], "--eval-at"),
        (["--run-name", "a/b"], "--run-name"),
        (["--env-kwargs", "x"], "name=value"),
        (["--num-threads", "0"], "--num-threads is 0, but must be at least 1 and at most 4,096"),
        (["--seed", "-1"], "--seed is -1, but must be at least 0"),
        (["--seed", "4294967295", "--num-seeds", "2"], "--seed is 4294967295"),
        (["--rational.groups", "0"], "--rational.groups is 0, but must be at least 1"),
        (["--rational.rate-scale", "nan"], "--rational.rate-scale is nan, but must be finite and at least 0"),
        (["--expectile", "1"], "--expectile is 1.0, but must be above 0 and below 1"),
        (["--actor-dropout", "1"], "--actor-dropout is 1.0, but must be at least 0 and below 1"),
        (["--polyak", "-1"], "--polyak is -1.0, but must be at least 0 and at most 1"),
        (["--learning-rate", "inf"], "--learning-rate is inf, but must be finite and above 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Arguments, "test", argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


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


def test_importing_rlrat_imports_no_torch():
    code = "import rlrat, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
