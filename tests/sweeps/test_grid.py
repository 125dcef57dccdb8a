import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlrat.datasets import load_dataset
from rlrat.errors import InputError
from rlrat.runs.arguments import run_folder
from rlrat.sweeps.agents import read_agent
from rlrat.sweeps.checks import check_datasets, check_folders, check_settings, check_together
from rlrat.sweeps.folder import is_done, seed_status
from rlrat.sweeps.grid import PRESETS, Block, Grid, expand, make_jobs, read_grid
from rlrat.sweeps.options import split_axes


def cells(tmp_path, *blocks: Block, seeds: int = 1):
    return expand(Grid(blocks, seeds), tmp_path / "runs")


def test_everything_with_everything_else_in_the_folders_that_the_agents_choose(tmp_path):
    block = Block(
        ("iql", "td3_bc"),
        ("rlrat/hopper/mixed-v0", "hopper-medium-v2"),
        ("relu", "rational:gelu"),
        {"expectile": ("0.7", "0.9"), "td3_bc.alpha": ("1", "2.5"), "hidden_dims": ("64 64",)},
    )
    found = cells(tmp_path, block, seeds=3)
    names = ["/".join(cell.folder.parts[-3:]) for cell in found]
    assert len(set(names)) == len(names) == 2 * 2 * 2 + 2 * 2 * 2
    assert names[0] == "rlrat-hopper-mixed-v0/iql/relu+hidden_dims=64x64"
    assert names[3] == "rlrat-hopper-mixed-v0/iql/rational-gelu+expectile=0.9,hidden_dims=64x64"
    assert names[-1] == "hopper-medium-v2/td3_bc/rational-gelu+hidden_dims=64x64"  # 2.5 is the default
    for cell in found:
        assert cell.run_folder(2) == run_folder(cell.arguments, cell.agent.name, 2)


@pytest.mark.parametrize("size", [None, 2])
def test_seeds_of_a_cell_share_processes_and_the_agents_read_their_command_lines(tmp_path, size):
    import tyro

    axes = {"gated": ("True", "False"), "rational.degrees": ("5 4", "3 2"), "iql.actor_activation": ("None", "tanh")}
    axes["normalize_observations"] = ("False",)
    found = cells(tmp_path, Block(("iql",), activations=("rational",), axes=axes), seeds=3)
    jobs = make_jobs(found, size)
    assert [list(job.seeds) for job in jobs[:2]] == ([[0, 1, 2]] * 2 if size is None else [[0, 1], [2]])
    assert len({job.id for job in jobs}) == len(jobs)
    for job in (jobs[0], jobs[-1]):
        read = tyro.cli(job.cell.agent.arguments, args=job.argv({"num_threads": 1}))
        assert [run_folder(read, "iql", seed) for seed in job.seeds] == job.folders
        assert (read.seed, read.num_seeds, read.num_threads) == (job.seeds[0], len(job.seeds), 1)


@pytest.mark.parametrize(
    ("text", "bounds"), [("-1 1 0 0.3", ((-1, 1), (0, 0.3))), ("-2 2", ((-2, 2),)), ("None", None)]
)
def test_pairs_and_what_may_be_none_reach_the_agent(tmp_path, text, bounds):
    import tyro

    steps = ("None", "50")
    for value, limit in zip(steps, (None, 50), strict=True):
        axes = {"action_bounds": (text,), "max_episode_steps": (value,)}
        (job,) = make_jobs(cells(tmp_path, Block(("iql",), axes=axes)), None)
        read = tyro.cli(job.cell.agent.arguments, args=job.argv({}))
        assert (read.action_bounds, read.max_episode_steps) == (bounds, limit)
        assert job.cell.arguments.action_bounds == bounds


def test_an_agents_settings_are_read_without_importing_torch():
    import subprocess
    import sys

    script = """
import sys
from rlrat.runs.agents import agent_names
from rlrat.sweeps import commands
from rlrat.sweeps.agents import read_agent
for name in agent_names():
    read_agent(name).defaults
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_cannot_be_looked_at_is_one_line(tmp_path):
    long = "a" * 300
    with pytest.raises(InputError, match=r"no agent a+"):
        read_agent(f"{long}.py")
    for dataset in (long, f"{long}/a-v0", "~nobody-here/x"):
        with pytest.raises(InputError, match="dataset"):
            check_datasets(cells(tmp_path, Block(("bc",), (dataset,))), fetch=False)


def test_a_users_own_file_is_an_agent(tmp_path):
    found = cells(tmp_path, Block((str(Path(__file__).with_name("toy.py")),)))
    assert found[0].folder.parts[-2] == "toy"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block(()), "no agent is given"),
        (Block(("iql",), ("a\0.hdf5",)), r"the grid has 'a\\x00.hdf5', with characters that no name"),
        (Block(("iql",), axes={"env_id": ("\ud800",)}), r"the grid has '\\ud800'"),
        (Block(("iqll",)), "no agent iqll: did you mean iql"),
        (
            Block(("iql",), axes={"expectle": ("0.7",)}),
            "--grid.expectle: no such setting of iql; did you mean expectile",
        ),
        (Block(("iql", "bc"), axes={"bc.expectile": ("0.7",)}), "--grid.expectile: no such setting of bc"),
        (Block(("iql",), axes={"expectile": ("high",)}), "--grid.expectile 'high' of iql: .*one or more numbers"),
        (Block(("iql",), axes={"env_id": ("--help",)}), "--grid.env-id '--help' of iql: "),
        (Block(("iql",), axes={"expectile": ("0.7",) * 1001, "tau": ("1",) * 1000}), "up to 1,001,000 cells"),
        (Block(("iql",), axes={"policy": ("x",)}), "--grid.policy 'x' of iql: .*squashed_gaussian"),
        (Block(("iql",), axes={"expectile": ("0.7 0.9",)}), "give its values apart, each makes cells of its own"),
        (Block(("iql",), axes={"seed": ("1",)}), "--grid.seed is a sweep's own: use --seeds"),
        (Block(("iql",), axes={"expectile": ("0.7", "0.7")}), "two cells have one folder, .*they are the same"),
        (Block(("iql",), axes={"total_updates": ("10", "20")}), "only total_updates 10 and 20 tell them apart"),
    ],
)
def test_what_is_no_grid_is_one_line(tmp_path, block, message):
    with pytest.raises(InputError, match=message):
        cells(tmp_path, block)


def test_more_seeds_than_a_sweep_may_have_are_one_line(tmp_path):
    with pytest.raises(InputError, match="--seeds is 100,000,000, but must be at most 100,000"):
        cells(tmp_path, Block(("iql",)), seeds=100_000_000)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block(("iql",), activations=("relu", "rellu")), "unknown activation 'rellu'.*relu"),
        (Block(("iql",), axes={"actor_activation": ("gelo",)}), "unknown activation 'gelo'"),
        (Block(("iql", "bc"), axes={"expectile": ("0.7", "1.5")}), "iql: --expectile is 1.5, but must be"),
        (Block(("iql",), axes={"total_updates": ("10",), "eval_at": ("5 20",)}), "--eval-at .* must lie in"),
    ],
)
def test_what_an_agent_would_refuse_is_found_before_anything_starts(tmp_path, block, message):
    with pytest.raises(InputError, match=message):
        check_settings(cells(tmp_path, block))


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    block = Block(("iql",), activations=("a1", "a2", "a3", "a4", "a5", "a6", "a7"))
    with pytest.raises(InputError, match=r"'a1'.*'a2'.*'a5'.*; and 2 more"):
        check_settings(cells(tmp_path, block))


def test_settings_that_depend_on_each_other_are_judged_together(tmp_path):
    check_settings(cells(tmp_path, Block(("iql",), axes={"total_updates": ("1000000",), "eval_at": ("400000",)})))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_grids(tmp_path, preset):
    found = expand(read_grid(preset), tmp_path)
    check_settings(found)
    check_folders(found)
    assert len(found) == {"paper": 24, "d4rl-gym": 36, "smoke": 6}[preset]


def test_the_papers_grid_has_its_walker_and_its_rewards(tmp_path):
    for cell in expand(read_grid("paper"), tmp_path):
        assert ("xml_file=walker2d.xml" in cell.arguments.env_kwargs) == ("walker2d" in cell.values["dataset"])
        assert (cell.arguments.total_updates, len(cell.seeds)) == (300_000, 5)
        if cell.agent.name == "iql":
            assert cell.arguments.reward_scaling == "paper"


def test_corls_settings_differ_from_set_to_set(tmp_path):
    found = {
        (cell.agent.name, cell.values["dataset"]): cell.arguments for cell in expand(read_grid("d4rl-gym"), tmp_path)
    }
    hopper = found["iql", "hopper-medium-replay-v2"]
    assert (hopper.policy, hopper.polyak, hopper.reward_scaling) == ("deterministic", 0.001, "iql")
    expert = found["iql", "hopper-medium-expert-v2"]
    assert (expert.inverse_temperature, expert.expectile, expert.reward_scaling) == (6.0, 0.5, "none")
    assert found["decision_transformer", "walker2d-medium-v2"].batch_size == 4096
    scaled = {dataset for (agent, dataset), a in found.items() if agent == "cql" and a.reward_scaling == "iql"}
    assert scaled == {"hopper-medium-v2"}


TOML = """
datasets = ["hopper-medium-v2"]
seeds = 2
[grid]
total-updates = 100
rational.degrees = [[5, 4], [3, 2]]
action-bounds = [[[-1, 1], [0, 0.3]]]
[[grids]]
agents = "iql"
grid = { expectile = [0.7, 0.9], normalize-observations = false }
[[grids]]
agents = ["td3_bc", "bc"]
activations = ["relu", "gelu"]
"""
YAML = """
datasets: [hopper-medium-v2]
seeds: 2
grid: {total-updates: 100, rational: {degrees: [[5, 4], [3, 2]]}, action-bounds: [[[-1, 1], [0, 0.3]]]}
grids:
  - agents: iql
    grid: {expectile: [0.7, 0.9], normalize-observations: false}
  - {agents: [td3_bc, bc], activations: [relu, gelu]}
"""


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("yaml", YAML)])
def test_a_file_is_a_grid(tmp_path, suffix, text):
    file = tmp_path / f"grid.{suffix}"
    file.write_text(text)
    grid = read_grid(str(file))
    assert grid == Grid(
        (
            Block(
                ("iql",),
                ("hopper-medium-v2",),
                axes={
                    "total_updates": ("100",), "rational.degrees": ("5 4", "3 2"), "action_bounds": ("-1 1 0 0.3",),
                    "expectile": ("0.7", "0.9"), "normalize_observations": ("False",),
                },
            ),
            Block(
                ("td3_bc", "bc"),
                ("hopper-medium-v2",),
                ("relu", "gelu"),
                {
                    "total_updates": ("100",), "rational.degrees": ("5 4", "3 2"), "action_bounds": ("-1 1 0 0.3",),
                },
            ),
        ),
        seeds=2,
    )  # fmt: skip
    assert len(expand(grid, tmp_path)) == 4 + 8


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "agents = [", "a.toml is no grid"),
        ("a.yaml", "agents: [", "a.yaml is no grid"),
        ("a.toml", "agent = 'iql'", "unknown key 'agent'"),
        ("a.toml", "seeds = 0", "seeds is 0"),
        ("a.toml", "grid = 3", "grid must be a table"),
        ("a.toml", "agents = []", "agents must be a value or a list"),
        ("a.toml", "grids = 3", "grids must be tables"),
        ("a.toml", "[grid]\ntotal-updates = 3\ntotal_updates = 4", "grid.total_updates is there twice"),
        ("a.toml", "[[grids]]\nseeds = 3", "seeds stand before"),
        ("b.toml", None, "cannot read the grid .*b.toml"),
    ],
)
def test_a_file_that_is_no_grid_is_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_grid(str(tmp_path / name))


def test_flags_choose_from_a_preset_and_replace_the_rest(tmp_path):
    grid = read_grid("d4rl-gym").changed(["iql"], ["hopper-medium-v2"], ["rational"], {"total_updates": ("10",)})
    (cell,) = expand(grid, tmp_path)
    assert (cell.arguments.policy, cell.arguments.activation) == ("deterministic", "rational")
    assert cell.arguments.total_updates == 10
    with pytest.raises(InputError, match="--agents bc is not in this grid, which has cql, decision"):
        read_grid("d4rl-gym").changed(["bc"])
    with pytest.raises(InputError, match="--agents bc is not in this grid, which has no agents"):
        Grid((Block(),)).changed(["bc"])


@pytest.mark.parametrize("spelling", ["total-updates", "total_updates"])
def test_an_axis_is_the_same_in_either_spelling(tmp_path, spelling):
    _, axes = split_axes([f"--grid.{spelling}", "10"])
    for cell in expand(read_grid("smoke").changed(axes=axes), tmp_path):
        assert cell.arguments.total_updates == 10


def test_a_grid_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    grid = Grid((Block(("mine.py", "iql"), ("data.hdf5", "hopper-medium-v2")),)).absolute()
    assert grid.blocks[0].agents == (str(tmp_path / "mine.py"), "iql")
    assert grid.blocks[0].datasets == (str(tmp_path / "data.hdf5"), "hopper-medium-v2")


def test_seeds_that_have_begun_are_not_put_beside_new_ones(tmp_path):
    grid = Grid((Block(("iql",)),), seeds=3)
    together = [make_jobs(expand(grid, tmp_path), each) for each in (None, 1)]
    folders = together[0][0].folders
    for folder in folders[:2]:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    check_together(together[0])  # killed before its folders were made
    for folder in folders[:2]:
        (folder / "checkpoint.pt").touch()
    with pytest.raises(InputError, match=r"a checkpoint of seed0, seed1, none of seed2: give --seeds-per-process 1"):
        check_together(together[0])
    check_together(together[1])
    for folder in folders[:2]:
        (folder / "summary.json").write_text('{"status": "finished"}')
    check_together(together[0])


def test_a_folder_with_another_run_clashes(tmp_path):
    (cell,) = cells(tmp_path, Block(("iql",), axes={"total_updates": ("100",)}))
    cell.run_folder(0).mkdir(parents=True)
    (cell.run_folder(0) / "config.json").write_text(
        '{"identity": {"agent": "iql", "total_updates": 50}, "versions": {}}'
    )
    with pytest.raises(
        InputError, match=r"seed0 holds a run with other settings .total_updates is 50 there and 100 here"
    ):
        check_folders([cell])
    (cell.run_folder(0) / "config.json").write_text(
        '{"identity": {"agent": "iql", "total_updates": 100}, "versions": {}}'
    )
    check_folders([cell])  # what the folder does not know is the default


def test_a_run_in_another_environment_or_on_other_data_clashes(tmp_path):
    """As a finished run of Walker2d-v5 does with a cell on the model of -v4."""
    axes = {"env_kwargs": ("healthy_reward=2",)}
    (cell,) = cells(tmp_path, Block(("iql",), axes=axes))
    folder, dataset = cell.run_folder(0), load_dataset("rlrat/hopper/mixed-v0")
    folder.mkdir(parents=True)
    there = {
        **{"agent": "iql", "dataset": dataset.id, "dataset_fingerprint": dataset.fingerprint},
        **{"env_id": dataset.env_id, "env_kwargs": {**dataset.env_kwargs, "healthy_reward": 2}},
    }

    def write(**changes) -> None:
        (folder / "config.json").write_text(json.dumps({"identity": {**there, **changes}, "versions": {}}))
        (folder / "summary.json").write_text('{"status": "finished"}')
        check_folders([cell])

    write()
    assert check_datasets([cell], fetch=False) == []
    for changes, message in (
        ({"env_kwargs": {}}, r"env_kwargs is {} there and {'healthy_reward': 2} here"),
        ({"env_id": "Hopper-v4"}, "env_id is 'Hopper-v4' there"),
        ({"dataset_fingerprint": "other"}, "dataset_fingerprint is 'other' there"),
    ):
        write(**changes)
        with pytest.raises(InputError, match=rf"seed0 holds a run with other settings \({message}"):
            check_datasets([cell], fetch=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("closed", ["seed0", "relu", "iql", "rlrat-hopper-mixed-v0", "runs"])
def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path, closed):
    (cell,) = cells(tmp_path, Block(("iql",)))
    cell.run_folder(0).mkdir(parents=True)
    (cell.run_folder(0) / "config.json").write_text("{}")
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 0o055:  # pytest's own, of which there is one more with pytest-xdist
            path.chmod(0o755)
    path = next(path for path in (cell.run_folder(0), *cell.run_folder(0).parents) if path.name == closed)
    path.chmod(0o700)
    (job,) = make_jobs([cell], None)
    os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(InputError, match=rf"/{closed} cannot be written: it is root's"):
            check_folders([cell])
        assert not is_done(job)
        assert seed_status(cell.run_folder(0)) in ("unfinished", "missing")
    finally:
        os.setresuid(0, 0, 0)


def test_a_folder_of_somebody_else_is_one_line(tmp_path, monkeypatch):
    (cell,) = cells(tmp_path, Block(("iql",)))
    cell.run_folder(0).mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda path, mode: "seed0" not in str(path))
    with pytest.raises(InputError, match=r"seed0 cannot be written: it is .*'s"):
        check_folders([cell])


def test_read_agent_refuses_what_is_no_agent(tmp_path):
    for text in ("x = 1", "class Arguments: pass", "import nothing_of_that_name", "x =", "1 / 0", "{}['x']"):
        (tmp_path / "odd.py").write_text(text)
        with pytest.raises(InputError, match=r"odd.py is no agent"):
            read_agent(str(tmp_path / "odd.py"))


def test_what_a_preset_says_of_an_agent_that_is_not_chosen_is_left_out(tmp_path):
    grid = Grid((Block(("iql", "td3_bc"), axes={"iql.expectile": ("0.7", "0.9"), "td3_bc.alpha": ("1",)}),))
    assert len(expand(grid, tmp_path)) == 3
    (cell,) = expand(grid.changed(["td3_bc"]), tmp_path)
    assert cell.arguments.alpha == 1.0


def test_a_plan_knows_what_is_still_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    datasets = ("rlrat/hopper/medium-v0", "hopper-medium-v2", "mujoco/hopper/medium-v0")
    assert check_datasets(cells(tmp_path, Block(("iql",), datasets)), fetch=False) == list(datasets[1:])


def test_a_file_without_an_environment_needs_one(tmp_path):
    steps = 6
    with h5py.File(tmp_path / "mine.hdf5", "w") as file:
        for name, shape in (("observations", (steps, 11)), ("actions", (steps, 3)), ("rewards", (steps,))):
            file[name] = np.zeros(shape, np.float32)
        for name in ("terminals", "timeouts"):
            file[name] = np.arange(steps) == (2 if name == "terminals" else 5)
    mine = str(tmp_path / "mine.hdf5")
    with pytest.raises(InputError, match=r"mine.hdf5 names no environment: give --grid.env-id"):
        check_datasets(cells(tmp_path, Block(("iql",), (mine,))), fetch=True)
    found = cells(tmp_path, Block(("iql",), (mine,), axes={"env_id": ("Hopper-v5",)}))
    assert check_datasets(found, fetch=True) == []
    assert found[0].folder.parts[-3] == "mine"
