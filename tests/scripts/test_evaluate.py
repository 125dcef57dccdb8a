"""scripts/evaluate.py: it repeats a run's own evaluation, says in one line what is wrong, and films where it can."""

import contextlib
import json
import shutil
import sys
import types
from pathlib import Path

import gymnasium
import imageio.v2
import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import InputError, one_line_errors
from rlrat.evaluation import rendering
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import parse
from rlrat.runs.folder import RunFolder
from rlrat.runs.trained import TrainedRun, film
from scripts import evaluate
from tests.forked import Forked
from tests.goal_env import GOAL_ID, SPEC, goal_dataset
from tests.short_runs import ROOT, SHORT

SCRIPT = ROOT / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Finished runs by agent."""
    base = tmp_path_factory.mktemp("runs")
    found = {}
    threads = torch.get_num_threads()
    for name in ("iql", "decision_transformer"):
        module = load_agent(name)
        argv = [*SHORT, "--run-dir", str(base), "--run-name", "short", "--seed", "3", "--eval-every", "40"]
        module.main(parse(module.Arguments, name, argv))
        (found[name],) = base.glob(f"*/{name}/*/seed3")
    torch.set_num_threads(threads)
    return found


@pytest.fixture
def run(folders, tmp_path):
    """A copy of IQL's run to be spoilt."""
    return shutil.copytree(folders["iql"], tmp_path / "seed3")


@pytest.fixture
def main(capfd):
    """`main(run, episodes=2)`: exit code, standard output and errors of the script."""

    def call(*runs: Path, **settings) -> tuple[int, str, str]:
        code = 0
        capfd.readouterr()
        try:
            with one_line_errors():
                evaluate.main(evaluate.Arguments(runs, **settings))
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


def cells(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]


@pytest.mark.parametrize("agent", ["iql", "decision_transformer"])
def test_a_runs_last_evaluation_is_repeated_bit_for_bit(folders, agent, main):
    lines = RunFolder(folders[agent]).evaluations()
    lines = [line for line in lines if line["update"] == "40"]
    code, output, _ = main(folders[agent], episodes=2)
    assert code == 0
    reached, _ = TrainedRun(folders[agent]).evaluate(2)
    assert len(lines) == len(reached) == {"iql": 1, "decision_transformer": 2}[agent]
    for line, row, (target, result) in zip(lines, cells(output), reached.items(), strict=True):
        assert float(line["return_mean"]) == result.return_mean[0]
        assert float(line["return_std"]) == result.return_std[0]
        assert float(line["length_mean"]) == result.length_mean[0]
        mean, spread, score = (float(line[name]) for name in ("return_mean", "return_std", "normalized_score"))
        targets = [] if target is None else [line["target_return"]]
        figures = [f"{mean:.1f} +- {spread:.1f}", f"{float(line['length_mean']):.1f}", f"{score:.1f}"]
        assert row == [str(folders[agent]), "40", *targets, "2", *figures, "v5-2026.11"]


def test_the_command_prints_one_line_per_run_and_target(folders, tmp_path):
    command = [sys.executable, str(SCRIPT), *map(str, folders.values()), "--episodes", "1", "--seed", "5"]
    found = Forked(command, tmp_path).wait()
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    rows = cells(found.stdout)
    assert [row[0] for row in rows] == [str(folders[name]) for name in ("iql", *["decision_transformer"] * 2)]
    assert [row[2] for row in rows] == ["-", "3600", "1800"]


def test_success_is_a_column_where_the_environment_says_it(main, tmp_path, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, GOAL_ID, SPEC)
    small = {"hidden_dims": (8,), "total_updates": 2, "eval_every": 2, "num_threads": 1, "eval_episodes": 7}
    result = rlrat.train("bc", goal_dataset(), run_dir=tmp_path, **small)
    rate = result.summaries[0]["final_success_rate"]
    code, output, _ = main(result.path, episodes=7)
    assert code == 0
    assert "success" in output.splitlines()[1]
    ((*_, success, score, reference),) = cells(output)
    assert (success, score, reference) == (f"{rate:.2f}", f"{100 * rate:.1f}", "success")
    config = json.loads((result.path / "config.json").read_text())
    for measure in ("length", ["success"]):
        (result.path / "config.json").write_text(
            json.dumps(config | {"reference": config["reference"] | {"measure": measure}})
        )
        assert "config.json is damaged: its reference is" in main(result.path, episodes=1)[2]


def test_a_target_return_of_ones_own(folders, main):
    _, output, _ = main(folders["decision_transformer"], episodes=1, target_returns=(90.0,))
    assert [row[2] for row in cells(output)] == ["90"]


def test_another_environment_has_no_score(run, main):
    for settings in ({"env_id": "Hopper-v4"}, {"env_kwargs": ("reset_noise_scale=0.0",)}):
        code, output, _ = main(run, episodes=2, **settings)
        assert code == 0
        ((*_, returns, _, score, reference),) = cells(output)
        assert (score, reference) == ("-", "-")
    assert returns.endswith("+- 0.0")  # no noise, no spread


def rewrite(run, arguments=(), **identity):
    """A run's config.json with another identity."""
    config = json.loads((run / "config.json").read_text())
    config["identity"] |= identity
    config["environment"] |= {name: value for name, value in identity.items() if name in config["environment"]}
    config["arguments"] |= dict(arguments)
    (run / "config.json").write_text(json.dumps(config))


MODULE = """
import pathlib
import gymnasium
pathlib.Path(__file__).with_suffix(".imported").touch()
gymnasium.register("MyHopper-v0", "gymnasium.envs.mujoco.hopper_v5:HopperEnv", max_episode_steps=3)
"""


def test_a_module_that_a_run_names_is_imported_only_if_this_command_names_it(run, main, tmp_path, monkeypatch):
    (tmp_path / "my_hoppers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rewrite(run, env_id="my_hoppers:MyHopper-v0", max_episode_steps=3)
    code, _, errors = main(run, episodes=1)
    assert (code, errors.count("\n")) == (2, 1)
    assert "config.json names the environment 'my_hoppers:MyHopper-v0', which is not registered here" in errors
    assert "give --env-modules my_hoppers if you trust that code" in errors
    rewrite(run, {"env_modules": ["my_hoppers"]}, env_id="MyHopper-v0")  # as today's runs have it
    assert "give --env-modules my_hoppers if you trust that code" in main(run, episodes=1)[2]
    assert not (tmp_path / "my_hoppers.imported").exists()
    try:
        for given in ({"env_modules": ("my_hoppers",)}, {"env_id": "my_hoppers:MyHopper-v0"}):
            code, output, _ = main(run, episodes=1, **given)
            assert code == 0
            ((*_, length, score, _),) = cells(output)
            assert (length, score != "-") == ("3.0", True)
    finally:
        del gymnasium.registry["MyHopper-v0"], sys.modules["my_hoppers"]
    assert (tmp_path / "my_hoppers.imported").exists()


def test_files_that_a_run_names_must_be_given_again(run, main):
    rewrite(run, env_kwargs={"xml_file": "hopper.xml"})
    code, _, errors = main(run, episodes=1)
    assert (code, errors.count("\n")) == (2, 1)
    assert "records xml_file='hopper.xml' of Hopper-v5" in errors
    assert "give --env-kwargs xml_file=... yourself" in errors
    code, output, _ = main(run, episodes=1, env_kwargs=("xml_file=hopper.xml",))
    assert code == 0
    assert cells(output)[0][-1] == "v5-2026.11"  # the run's own


def test_a_time_limit_is_the_runs_own_or_the_given_one(run, main):
    def length_and_reference(**settings):
        code, output, errors = main(run, episodes=1, **settings)
        assert code == 0, errors
        ((*_, length, _, reference),) = cells(output)
        return float(length), reference

    own = length_and_reference()
    assert own[0] > 2
    assert length_and_reference(max_episode_steps=2) == (2, "-")
    rewrite(run, max_episode_steps=2)
    assert length_and_reference() == (2, "v5-2026.11")
    assert length_and_reference(max_episode_steps=1000) == (own[0], "-")
    # As older runs have it: among the settings, and a Decision Transformer's time steps under its name.
    config = json.loads((run / "config.json").read_text())
    del config["identity"]["action_bounds"]
    del config["environment"]
    config["identity"] |= {"max_episode_steps": 500, "env_kwargs": {"max_episode_steps": 2, "render_mode": "human"}}
    (run / "config.json").write_text(json.dumps(config))
    assert length_and_reference() == (2, "v5-2026.11")


def test_settings_keep_the_types_that_they_were_typed_with(run, main):
    pairs = ["healthy_z_range=(0.7, 9.0)", "reset_noise_scale=0.0", "frame_skip=no"]
    rewrite(run, {"env_kwargs": pairs}, env_kwargs={"healthy_z_range": [0.7, 9.0], "reset_noise_scale": 0.1})
    trained = TrainedRun(run)
    assert trained.env_kwargs == {"healthy_z_range": [0.7, 9.0], "reset_noise_scale": 0.1}  # of an older version
    rewrite(run, {"env_kwargs": pairs[:2]})
    trained = TrainedRun(run)
    assert trained.env_kwargs == {"healthy_z_range": (0.7, 9.0), "reset_noise_scale": 0.1}
    assert trained.reference is not None


def test_settings_that_fail_in_the_first_step_are_one_line(run, main):
    code, _, errors = main(run, episodes=1, env_kwargs=("healthy_z_range=5",))
    assert (code, errors.count("\n")) == (2, 1)
    assert "Hopper-v5 refuses the settings {'healthy_z_range': 5}" in errors


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, True, -1, 1e400])
def test_a_config_of_other_types_is_borne_or_one_line(run, main, value):
    original = (run / "config.json").read_text()
    places = [("identity",), ("arguments",), ("seed",), ("reference",), ("reference", "expert"), ("reference", "name")]
    places += [("identity", name) for name in ("env_id", "env_kwargs", "max_episode_steps", "action_bounds")]
    places += [("arguments", name) for name in ("env_kwargs", "num_threads")] + [("environment",)]
    places += [("environment", name) for name in ("env_id", "env_kwargs", "max_episode_steps", "wrappers")]
    for place in places:
        config = json.loads(original)
        inner = config
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        (run / "config.json").write_text(json.dumps(config))
        with contextlib.suppress(InputError):
            trained = TrainedRun(run)
            assert trained.env_id == "Hopper-v5"
            assert trained.num_threads >= 1
            assert trained.reference is None or isinstance(trained.reference.name, str)


def test_mistakes_are_one_line(run, main, tmp_path):
    cases = [
        ((), {}, "no run is given"),
        ((tmp_path / "none",), {}, "there is no run folder"),
        ((run,), {"episodes": 0}, "cannot evaluate 0 episodes"),
        ((run,), {"seed": -1}, "evaluation seeds are [-1]"),
        ((run,), {"num_threads": 0}, "on 0 threads"),
        ((run,), {"env_id": "Walker2d-v5"}, "has observations of size 11, Walker2d-v5 of 17"),
        ((run,), {"env_kwargs": ("x",)}, "--env-kwargs has 'x'"),
        ((run,), {"episodes": 10**9}, "cannot play 1,000,000,000 episodes"),
        ((run,), {"max_episode_steps": 0}, "--max-episode-steps is 0, but must be at least 1"),
        ((run,), {"env_modules": ("no_such_module",)}, "there is no module no_such_module"),
        ((run,), {"target_returns": (90.0,)}, "takes no target returns"),
        ((run,), {"video": Path("x.gif")}, "--video is x.gif: give a file that ends in .mp4"),
        ((run, run), {"video": Path("x.mp4")}, "--video films one run, 2 are given"),
    ]
    for runs, settings, message in cases:
        code, output, errors = main(*runs, **settings)
        assert (code, output, errors.count("\n")) == (2, "", 1), errors
        assert message in errors
    (run / "config.json").write_text("{}")
    assert "config.json is damaged" in main(run)[2]
    (run / "config.json").unlink()
    assert "config.json is missing" in main(run)[2]


def test_what_is_evaluated_is_shown_though_the_next_run_fails(folders, run, main):
    config = json.loads((run / "config.json").read_text())
    config["environment"]["env_id"] = "Walker2d-v5"
    (run / "config.json").write_text(json.dumps(config))
    code, output, errors = main(folders["iql"], run, episodes=1)
    assert code == 2
    assert len(cells(output)) == 1
    assert "choose an environment like the one it was trained for" in errors


def test_a_diverged_run_warns(run, main):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "diverged", "diverged_at": 30}))
    code, _, errors = main(run, episodes=1)
    assert code == 0
    assert "diverged at update 30: its policy is the one frozen then" in errors


@pytest.fixture
def frames(monkeypatch):
    """What is written with an encoder that is not there."""
    written = []

    @contextlib.contextmanager
    def get_writer(path, **settings):
        path.write_bytes(b"film")
        yield types.SimpleNamespace(append_data=written.append)

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(get_ffmpeg_exe=str))
    monkeypatch.setattr(imageio.v2, "get_writer", get_writer)
    return written


@pytest.mark.parametrize("agent", ["iql", "decision_transformer"])
def test_the_film_is_of_the_first_episode(folders, agent, frames, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(rendering, "rendering_backend", lambda: None)
    monkeypatch.setattr(rendering, "render", lambda env, _: seen.append(env) or np.zeros((2, 2, 3), np.uint8))
    trained = TrainedRun(folders[agent])
    reached, actions = trained.evaluate(2)
    played = film(trained, actions, tmp_path / "films" / "a.mp4")
    first = next(iter(reached.values()))
    assert played.returns[0, 0] == first.returns[0, 0]
    assert played.lengths[0, 0] == first.lengths[0, 0]
    assert seen[0].render_mode == "rgb_array"
    assert len(frames) == -(-first.lengths[0, 0] // 3) + 1  # 125 steps a second, at most 60 frames
    assert [file.name for file in (tmp_path / "films").iterdir()] == ["a.mp4"]


def test_a_policy_that_is_lost_is_filmed_until_then(folders, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "rendering_backend", lambda: None)
    monkeypatch.setattr(rendering, "render", lambda *_: np.zeros((2, 2, 3), np.uint8))
    trained = TrainedRun(folders["iql"])
    actions = np.zeros((5, 3))
    actions[3] = np.nan
    assert film(trained, actions, tmp_path / "a.mp4").lengths[0, 0] == 3


def no_ffmpeg():
    raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg")


@pytest.mark.parametrize("encoder", [None, types.SimpleNamespace(get_ffmpeg_exe=no_ffmpeg)])
def test_without_an_encoder_nothing_is_played(run, main, tmp_path, monkeypatch, encoder):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", encoder)
    monkeypatch.setattr(TrainedRun, "evaluate", lambda *_: pytest.fail("played"))
    code, output, errors = main(run, episodes=1, video=tmp_path / "a.mp4")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: no video without an encoder (")
    assert errors.endswith("): pip install 'rlrat[video]'\n")


def test_a_film_that_fails_is_one_line_after_the_table(run, main, frames, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    code, output, errors = main(run, episodes=1, video=tmp_path / "a.mp4")
    assert (code, len(cells(output)), errors.count("\n")) == (2, 1, 1), errors
    assert "Hopper-v5 cannot be rendered here (MUJOCO_GL=nonsense: " in errors
    (tmp_path / "file").touch()
    code, output, errors = main(run, episodes=1, video=tmp_path / "file" / "a.mp4")
    assert (code, len(cells(output)), errors.count("\n")) == (2, 1, 1), errors
    assert "cannot write" in errors
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_video_is_written(folders, main, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    code, output, errors = main(folders["iql"], episodes=2, video=tmp_path / "a.mp4")
    if "cannot be rendered here" in errors:
        pytest.skip(errors)
    assert code == 0, errors
    assert "a.mp4: the first episode" in output
    with imageio.v2.get_reader(tmp_path / "a.mp4") as video:
        frames = np.array(list(video.iter_data()), np.float64)
        assert video.get_meta_data()["fps"] == pytest.approx(125 / 3, abs=0.01)
    assert frames.shape[1:] == (480, 480, 3)
    assert frames[0].std() > 20  # a chessboard, not one colour
    assert np.abs(frames[0] - frames[-1]).max() > 50
