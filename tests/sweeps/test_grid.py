from pathlib import Path

import pytest

from rlrat.errors import InputError
from rlrat.runs.arguments import run_folder
from rlrat.sweeps.checks import check_folders, check_settings
from rlrat.sweeps.grid import PRESETS, Block, Grid, expand, make_jobs, read_grid
from tests.sweeps.whole_sweeps import cells


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


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_grids(tmp_path, preset):
    found = expand(read_grid(preset), tmp_path)
    check_settings(found)
    check_folders(found)
    assert len(found) == {"paper": 24, "d4rl-gym": 54, "smoke": 6}[preset]


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
    penalties = found["rebrac", "hopper-medium-replay-v2"]
    assert (penalties.actor_penalty, penalties.critic_penalty) == (0.05, 0.5)
    assert found["awac", "walker2d-medium-v2"].temperature == 0.3333
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
    with pytest.raises(InputError, match="--agents bc is not in this grid, which has awac, cql, decision"):
        read_grid("d4rl-gym").changed(["bc"])
    with pytest.raises(InputError, match="--agents bc is not in this grid, which has no agents"):
        Grid((Block(),)).changed(["bc"])


def test_a_grid_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    grid = Grid((Block(("mine.py", "iql"), ("data.hdf5", "hopper-medium-v2")),)).absolute()
    assert grid.blocks[0].agents == (str(tmp_path / "mine.py"), "iql")
    assert grid.blocks[0].datasets == (str(tmp_path / "data.hdf5"), "hopper-medium-v2")


def test_what_a_preset_says_of_an_agent_that_is_not_chosen_is_left_out(tmp_path):
    grid = Grid((Block(("iql", "td3_bc"), axes={"iql.expectile": ("0.7", "0.9"), "td3_bc.alpha": ("1",)}),))
    assert len(expand(grid, tmp_path)) == 3
    (cell,) = expand(grid.changed(["td3_bc"]), tmp_path)
    assert cell.arguments.alpha == 1.0
