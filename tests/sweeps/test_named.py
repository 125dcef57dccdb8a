"""Code that a sweep folder names is never run; what this command line names, is."""

import json
import os
import shlex
import sys

import pytest

from rlrat.datasets import load_dataset
from rlrat.errors import InputError
from rlrat.runs.agents import agent_names
from rlrat.sweeps import commands
from rlrat.sweeps.checks import check_datasets
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.named import Named
from rlrat.sweeps.options import Options, RayOptions, admit_sweep, find_grid, kept_options
from tests.sweeps.whole_sweeps import TOY_FILE, write_record


@pytest.fixture
def mine(tmp_path):
    """An agent that writes to the file `ran` whenever it is executed."""
    file, ran = tmp_path / "mine" / "toy.py", tmp_path / "ran"
    file.parent.mkdir()
    file.write_text(TOY_FILE.read_text().replace("import csv", f"open({str(ran)!r}, 'a').write('ran')\nimport csv"))
    return file, ran


@pytest.fixture
def left(sweeper, mine):
    """A folder with a sweep of that agent of which one process has failed, as somebody else would find it."""
    file, ran = mine
    assert sweeper("--grid.trouble", "first", "--retries", 0, agents=[file]) == 1
    ran.unlink()
    return sweeper


def test_looking_at_a_folder_runs_no_agent_and_retry_only_one_that_is_named(left, mine, tmp_path, monkeypatch):
    file, ran = mine
    assert left.command("status") == 0
    assert "1 cells, 1 runs: 1 failed" in left.said
    assert "failed: rlrat-hopper-mixed-v0 toy relu+trouble=first seed0: exit code 1" in left.said
    assert left.command("stop") == 0
    for others in ((), ("--agents", TOY_FILE)):
        with pytest.raises(InputError, match=rf"names code .* add --agents {file} if you trust"):
            left.command("retry", *others)
    assert not ran.exists()
    # Its workers read nothing from the folder, nor take modules from it where somebody works inside of it.
    assert not list((left.run_dir / ".sweep" / "jobs").glob("*/job*.json"))
    (left.run_dir / "csv.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nfrom _csv import *\n")
    monkeypatch.chdir(left.run_dir)
    assert left.command("retry", "--agents", "../mine/toy.py") == 0
    assert ran.exists()
    assert not (tmp_path / "imported").exists()


def record(folder) -> tuple:
    (file,) = (folder.run_dir / ".sweep" / "grids").iterdir()
    return file, json.loads(file.read_text())


def test_a_sweep_of_an_older_version_shows_agents_that_come_with_rlrat_and_those_that_are_named(left, mine):
    file, ran = mine
    grid_file, content = record(left)
    old = {name: content[name] for name in ("grid", "options")}
    grid_file.write_text(json.dumps(old))
    for command in ("status", "retry"):
        with pytest.raises(InputError, match=rf"add --agents {file} if"):
            left.command(command)
    assert left.command("stop") == 0
    assert not ran.exists()
    assert left.command("status", "--agents", file) == 0
    assert "1 runs: 1 failed" in left.said
    old["grid"]["blocks"][0] |= {"agents": ["bc"], "axes": {}}
    grid_file.write_text(json.dumps(old))
    assert left.command("status") == 0
    assert "1 runs: 1 missing" in left.said
    ran.unlink()
    old["grid"]["blocks"][0]["agents"] = [os.path.relpath(file.with_suffix(""), commands.__file__), str(file)[:-3]]
    grid_file.write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"no agent .*give one of " + ", ".join(agent_names())):
        left.command("status")
    assert not ran.exists()


def test_a_plan_has_no_folder_but_runs_below_its_own(left):
    grid_file, content = record(left)
    for folder in ("../../etc", "/etc/passwd", "a", "a/b/c", "a/..", "a/\x1b[31m", "a/\udcff", "a/"):
        content["plan"]["cells"][0]["folder"] = folder
        write_record(grid_file, content)
        with pytest.raises(InputError, match="its plan has a folder that is no run's"):
            left.command("status")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that registers Swept-v0, and is in `sys.modules` only once it was imported."""
    (tmp_path / "swept_envs.py").write_text(
        "from gymnasium import register\nregister('Swept-v0', 'gymnasium.envs.mujoco.hopper_v5:HopperEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "swept_envs"
    if sys.modules.pop("swept_envs", None) is not None:
        from gymnasium.envs.registration import registry

        registry.pop("Swept-v0", None)


def cell_of(axes: dict, tmp_path, **options):
    grid = Grid((Block(("bc",), axes=axes),))
    (cell,) = expand(grid, tmp_path / "runs")
    return cell


def test_a_module_that_the_user_names_is_imported_for_every_cell(tmp_path, module):
    cell = cell_of({"env_id": ("Swept-v0",)}, tmp_path)
    with pytest.raises(InputError, match="Swept-v0"):
        check_datasets([cell], fetch=False)
    options = Options(env_modules=(module,))
    assert check_datasets([cell], fetch=False, env_modules=options.env_modules).missing == ()
    assert module in sys.modules
    (job,) = make_jobs([cell], None)
    words = job.argv(commands.extra_settings(options))
    assert words[words.index("--env-modules") + 1] == module
    with pytest.raises(InputError, match=r"--grid\.env-modules is a sweep's own: use --env-modules"):
        cell_of({"env_modules": (module,)}, tmp_path)


def test_an_environments_identity_is_without_the_module_that_it_was_named_with(tmp_path, module):
    cell = cell_of({"env_id": (f"{module}:Swept-v0",)}, tmp_path)
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    folder = cell.run_folder(0)
    folder.mkdir(parents=True)
    there = {"agent": "bc", "dataset": dataset.id, "dataset_fingerprint": dataset.fingerprint, "env_kwargs": {}}
    for env_id in ("Swept-v0", "of_old:Swept-v0"):
        (folder / "config.json").write_text(json.dumps({"identity": {**there, "env_id": env_id}, "versions": {}}))
        assert check_datasets([cell], fetch=False).missing == ()
    (folder / "config.json").write_text(json.dumps({"identity": {**there, "env_id": "Hopper-v5"}, "versions": {}}))
    with pytest.raises(InputError, match="env_id is 'Hopper-v5' there and 'Swept-v0' here"):
        check_datasets([cell], fetch=False)


def test_what_a_folder_recalls_of_environments_and_clusters_is_named_again():
    axes = {"env_id": ("my_envs:Toy-v0", "Hopper-v5"), "env_kwargs": ("a=1 xml_file=x.xml", "b=true")}
    grid = Grid((Block(("iql",), axes=axes),))
    with pytest.raises(InputError) as error:
        Named().admit(grid, "it")
    assert "add --env-modules my_envs --env-kwargs xml_file=x.xml if you trust" in str(error.value)
    found = Named(env_modules=("my_envs",), env_kwargs=("xml_file=x.xml",)).admit(grid, "it")
    assert found.blocks[0].axes == {**axes, "env_id": ("Toy-v0", "Hopper-v5")}

    kept = Options(env_modules=("more",), launcher="ray", ray=RayOptions(address="ray://elsewhere:10001"))
    with pytest.raises(InputError) as error:
        admit_sweep(Named(env_kwargs=("xml_file=x.xml",)), grid, kept, "it")
    assert "add --env-modules my_envs more --ray.address ray://elsewhere:10001 if you trust" in str(error.value)
    named = Named(env_modules=("my_envs", "more"), env_kwargs=("xml_file=x.xml",), ray_address="ray://elsewhere:10001")
    assert admit_sweep(named, grid, kept, "it")[1].env_modules == ("my_envs", "more")


def test_modules_of_activations_are_named_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = {"critic_activation": ("other:Snake", "relu"), "norm": ("layer",)}
    grid = Grid((Block(("iql",), activations=("mine:Snake", "rational:gelu", "relu"), axes=axes),))
    with pytest.raises(InputError, match="add --activation-modules mine other if you trust"):
        Named().admit(grid, "it")
    Named().admit_agents(grid, "it")
    named = Named(activation_modules=("mine", "other"))
    assert named.admit(grid, "it") == grid
    options = admit_sweep(named, grid, Options(), "it")[1]
    assert options.activation_modules == ("mine", "other")
    assert "activation_modules" not in kept_options(options)
    file = tmp_path / "grid.toml"
    file.write_text('agents = ["iql"]\nactivations = ["mine:Snake"]\n[grid]\nactor-activation = "other:Snake"\n')
    with pytest.raises(InputError, match=r"grid.toml names code .* add --activation-modules mine other if"):
        find_grid(Options(file=file), {})
    with pytest.raises(InputError, match=r"add --activation-modules other if"):
        find_grid(Options(file=file, activations=("mine:Snake",)), {})
    axes = {"actor_activation": ("other:Snake",)}
    find_grid(Options(file=file, activations=("mine:Snake",)), axes)
    find_grid(Options(file=file, activation_modules=("mine", "other")), {})


def test_a_grids_file_names_no_code_that_the_command_line_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "grid.toml"
    file.write_text('agents = ["iql", "mine.py"]\n[grid]\nenv-id = "my_envs:Toy-v0"\nenv-kwargs = "xml_file=x.xml"\n')
    with pytest.raises(InputError, match=r"grid.toml names code .* add --agents mine.py --env-modules my_envs if"):
        find_grid(Options(file=file), {})
    grid = find_grid(Options(file=file, agents=("iql", "mine.py"), env_modules=("my_envs",)), {})
    assert grid.blocks[0].agents == ("iql", "mine.py")
    assert grid.blocks[0].axes["env_id"] == ("Toy-v0",)
    grid = find_grid(Options(file=file, agents=("iql",)), {"env_id": ("mine:Other-v0",)})
    assert grid.blocks[0].axes["env_id"] == ("mine:Other-v0",)


def test_options_are_printed_as_a_shell_takes_them():
    grid = Grid((Block(("a b.py",)),))
    with pytest.raises(InputError) as error:
        Named().admit(grid, "it")
    assert shlex.split(str(error.value).partition(" add ")[2])[:2] == ["--agents", "a b.py"]
