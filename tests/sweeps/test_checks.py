import dataclasses
import json
import os

import pytest

from rlrat.datasets import load_dataset
from rlrat.datasets.names import PACKAGED
from rlrat.errors import InputError
from rlrat.sweeps.agents import read_agent
from rlrat.sweeps.checks import DataCheck, check_datasets, check_folders, check_settings, check_together
from rlrat.sweeps.folder import is_done, seed_status
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from tests.sweeps.whole_sweeps import cells


def test_what_cannot_be_looked_at_is_one_line(tmp_path):
    long = "a" * 300
    with pytest.raises(InputError, match=r"no agent a+"):
        read_agent(f"{long}.py")
    for dataset in (long, f"{long}/a-v0", "~nobody-here/x"):
        with pytest.raises(InputError, match="dataset"):
            check_datasets(cells(tmp_path, Block(("bc",), (dataset,))), fetch=False)


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
    assert check_datasets([cell], fetch=False) == DataCheck()
    for changes, message in (
        ({"env_kwargs": {}}, r"env_kwargs is {} there and {'healthy_reward': 2} here"),
        ({"env_id": "Hopper-v4"}, "env_id is 'Hopper-v4' there"),
        ({"dataset_fingerprint": "other"}, "dataset_fingerprint is 'other' there"),
        ({"max_episode_steps": 15, "action_bounds": None}, "max_episode_steps is 15 there and None here"),
        ({"reward_scaling": "paper"}, "reward_scaling is 'paper' there and 'iql' here"),
    ):
        write(**changes)
        with pytest.raises(InputError, match=rf"seed0 holds a run with other settings \({message}"):
            check_datasets([cell], fetch=False)


def test_a_run_whose_rewards_the_data_decided_about_is_the_cells(tmp_path, monkeypatch):
    (cell,) = cells(tmp_path, Block(("iql",)))
    dataset = dataclasses.replace(load_dataset("rlrat/hopper/mixed-v0"), id="pen-human-v1")
    monkeypatch.setattr("rlrat.datasets.load_dataset", lambda *_, **__: dataset)
    cell.run_folder(0).mkdir(parents=True)
    identity = {"agent": "iql", "dataset": dataset.id, "reward_scaling": "none", "reward_shift": None}
    (cell.run_folder(0) / "config.json").write_text(json.dumps({"identity": identity, "versions": {}}))
    check_folders([cell])
    assert check_datasets([cell], fetch=False) == DataCheck()


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


def test_a_plan_knows_what_is_still_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    datasets = ("rlrat/hopper/medium-v0", "hopper-medium-v2", "mujoco/hopper/medium-v0")
    assert check_datasets(cells(tmp_path, Block(("iql",), datasets)), fetch=False).missing == datasets[1:]


def test_data_without_an_environment_is_known_and_may_be_given_one(tmp_path, mine):
    def without(**axes: str) -> list[str]:
        found = cells(tmp_path, Block(("iql",), (mine, PACKAGED[0]), axes={name: (of,) for name, of in axes.items()}))
        check = check_datasets(found, fetch=True)
        assert check.missing == ()
        return [cell.arguments.dataset for cell in found if cell in check.without_environment]

    bounds = {"action_bounds": "-1 1"}
    assert without(**bounds) == [mine]
    assert without(env_id="none", **bounds) == [mine, PACKAGED[0]]
    assert without(env_id="Hopper-v5") == []


def test_settings_of_rollouts_are_refused_where_there_are_none(tmp_path):
    for axis, value, message in (
        ("keep_best", "return", "--keep-best is return, but without an environment there is none: give fqe or heldout"),
        ("max_episode_steps", "10", "--max-episode-steps limits rollouts, but there is no environment"),
        ("env_kwargs", "a=1", "--env-kwargs sets a, but there is no environment"),
    ):
        axes = {"env_id": ("none",), axis: (value,)}
        with pytest.raises(InputError, match=message):
            check_datasets(cells(tmp_path, Block(("iql",), axes=axes)), fetch=True)
    for axes in ({"keep_best": ("return",)}, {"env_id": ("none",), "keep_best": ("heldout",)}):
        check_datasets(cells(tmp_path, Block(("iql",), axes=axes)), fetch=True)


def test_what_is_held_out_is_part_of_a_run(tmp_path):
    (cell,) = cells(tmp_path, Block(("iql",), axes={"env_id": ("none",)}))
    folder, dataset = cell.run_folder(0), load_dataset(PACKAGED[0])
    folder.mkdir(parents=True)
    there = {"agent": "iql", "dataset": dataset.id, "dataset_fingerprint": dataset.fingerprint, "env_id": None}
    for holdout, clashes in ((0.1, False), (0.2, True), (None, True)):
        identity = {**there, "env_kwargs": {}, "holdout": holdout}
        (folder / "config.json").write_text(json.dumps({"identity": identity, "versions": {}}))
        check_folders([cell])
        if clashes:
            with pytest.raises(InputError, match=rf"holdout is {holdout} there and 0.1 here"):
                check_datasets([cell], fetch=False)
        else:
            check_datasets([cell], fetch=False)
