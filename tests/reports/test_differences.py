import pytest

from rlrat.reports.build import build_report
from rlrat.reports.differences import _NEWER
from rlrat.reports.read import filter_runs, read_runs
from rlrat.runs.arguments import RunArguments, identity
from tests.reports.run_folders import RISING, write_seeds


def test_what_differs_in_how_runs_were_judged_is_told(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, activation="silu", eval_episodes=20, config={"versions": {"torch": "2.12.0"}})
    report = build_report(read_runs([tmp_path]))
    found = {difference.setting: difference for difference in report.tasks[0].differences}
    assert found["eval_episodes"].values == {"10": ("relu",), "20": ("silu",)}
    assert found["version of torch"].protocol
    assert any("not all runs were judged alike: eval_episodes: 10 (relu), 20 (silu)" in n for n in report.notes)


def test_settings_that_older_runs_do_not_know_are_as_they_were(tmp_path):
    write_seeds(tmp_path)
    newer = {"drop_achieved_goal": None, "ignore_wrappers": False, "max_episode_steps": None, "action_bounds": None}
    newer |= {"critic_norm": None, "critic_rational.degrees": None, "schedule": "constant"}
    write_seeds(tmp_path, activation="silu", reward_shift=None, holdout=None, **newer)
    assert build_report(read_runs([tmp_path])).tasks[0].differences == ()
    write_seeds(tmp_path, activation="gelu", **{**newer, "drop_achieved_goal": False})
    (difference,) = build_report(read_runs([tmp_path])).tasks[0].differences
    assert str(difference) == "drop_achieved_goal: False (gelu), None (relu, silu)"


def test_how_older_runs_were_is_todays_default():
    """So that only runs that were given another value differ from them."""
    today = identity(RunArguments())
    assert {name: value for name, value in _NEWER.items() if name in today} == {
        name: today[name] for name in _NEWER if name in today
    }
    assert {"norm_epsilon", "weight_decay", "warmup_updates"} <= _NEWER.keys()


def test_seconds_are_compared_only_between_equal_processes(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, activation="silu", config={"arguments": {"num_seeds": 1, "num_threads": 1}})
    write_seeds(tmp_path, activation="gelu", config={"members": 5, "arguments": {"num_seeds": 1, "num_threads": 1}})
    alike = build_report(filter_runs(read_runs([tmp_path]), ["activation=relu", "activation=gelu"])).tasks[0]
    assert alike.seconds_differ is None
    assert alike.groups[1].reach[0].seconds is not None
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert task.seconds_differ == "the number of runs in a process is 1 or 5"
    assert {share.seconds for group in task.groups for share in group.reach} == {None}
    notes = build_report(read_runs([tmp_path])).notes
    assert any("training seconds cannot be compared: the number of runs in a process is 1 or 5" in n for n in notes)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ({"members": 5, "device": "cpu", "arguments": {"num_threads": 1}}, None),
        ({"members": 2, "device": "cpu", "arguments": {"num_threads": 1}}, "the number of runs in a process is 2 or 5"),
        ({"members": 5, "device": "cuda", "arguments": {"num_threads": 1}}, "the device is cpu or cuda"),
        ({"members": 5, "device": "cpu", "arguments": {"num_threads": 2}}, "the num_threads is 1 or 2"),
    ],
)
def test_a_run_that_went_on_in_another_way_has_no_seconds(tmp_path, start, reason):
    resumed = [{"update": 30, "versions": {"torch": "2.14.0"}, **start}]
    write_seeds(tmp_path, config={"members": 5, "device": "cpu", "resumed": resumed})
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].seconds_differ == reason
    write_seeds(tmp_path, activation="silu", config={"members": 5, "device": "cpu"})
    (difference,) = build_report(read_runs([tmp_path])).tasks[0].differences
    assert str(difference) == "version of torch: 2.13.0 (silu), 2.13.0 then 2.14.0 (relu)"


@pytest.mark.parametrize(("device", "reason"), [("cpu", None), ("cuda:0", "the capture is - or True")])
def test_a_capture_matters_only_on_a_gpu(tmp_path, device, reason):
    write_seeds(tmp_path, config={"device": device})  # of a version that knew no capture
    arguments = {"num_seeds": 5, "num_threads": 1, "capture": True}
    write_seeds(tmp_path, activation="silu", config={"device": device, "arguments": arguments})
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert task.seconds_differ == reason


def test_activations_that_a_label_mixes_are_told(tmp_path):
    for agent in ("iql", "td3_bc"):
        write_seeds(tmp_path, agent=agent)
        write_seeds(tmp_path, RISING + 5, agent=agent, activation="rational")
    report = build_report(read_runs([tmp_path]), by=["agent"])
    (difference,) = report.tasks[0].differences
    assert difference.setting == "activation"
    assert difference.within == ("iql", "td3_bc")
    assert any("iql, td3_bc have runs of different settings: activation: rational" in note for note in report.notes)
