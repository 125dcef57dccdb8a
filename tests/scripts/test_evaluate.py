"""scripts/evaluate.py: it repeats a run's own evaluation, says in one line what is wrong, and films where it can."""

import contextlib
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import imageio.v2
import numpy as np
import pytest
import torch
from short_runs import ROOT, SHORT

from rlrat.arguments import parse
from rlrat.errors import one_line_errors
from rlrat.runs import RunFolder

SCRIPT = ROOT / "scripts" / "evaluate.py"
spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
evaluate = importlib.util.module_from_spec(spec)
sys.modules["evaluate"] = evaluate  # where dataclasses look up annotations
spec.loader.exec_module(evaluate)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Finished runs by agent."""
    base = tmp_path_factory.mktemp("runs")
    found = {}
    threads = torch.get_num_threads()
    for name in ("iql", "decision_transformer"):
        module = importlib.import_module(f"agents.{name}")
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
    reached, _ = evaluate.TrainedRun(folders[agent], evaluate.Arguments(())).evaluate(2)
    assert len(lines) == len(reached) == {"iql": 1, "decision_transformer": 2}[agent]
    for line, row, (target, result) in zip(lines, cells(output), reached.items(), strict=True):
        assert float(line["return_mean"]) == result.return_mean[0]
        assert float(line["return_std"]) == result.return_std[0]
        assert float(line["length_mean"]) == result.length_mean[0]
        mean, spread, score = (float(line[name]) for name in ("return_mean", "return_std", "normalized_score"))
        targets = [] if target is None else [line["target_return"]]
        figures = [f"{mean:.1f} +- {spread:.1f}", f"{float(line['length_mean']):.1f}", f"{score:.1f}"]
        assert row == [str(folders[agent]), "40", *targets, "2", *figures, "v5-2026.11"]


def test_the_command_prints_one_line_per_run_and_target(folders):
    command = [sys.executable, SCRIPT, *folders.values(), "--episodes", "1", "--seed", "5"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    rows = cells(found.stdout)
    assert [row[0] for row in rows] == [str(folders[name]) for name in ("iql", *["decision_transformer"] * 2)]
    assert [row[2] for row in rows] == ["-", "3600", "1800"]


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


def test_mistakes_are_one_line(run, main, tmp_path):
    cases = [
        ((), {}, "no run is given"),
        ((tmp_path / "none",), {}, "there is no run folder"),
        ((run,), {"episodes": 0}, "cannot evaluate 0 episodes"),
        ((run,), {"seed": -1}, "evaluation seeds are [-1]"),
        ((run,), {"num_threads": 0}, "on 0 threads"),
        ((run,), {"env_id": "Walker2d-v5"}, "has observations of size 11, Walker2d-v5 of 17"),
        ((run,), {"env_kwargs": ("x",)}, "--env-kwargs has 'x'"),
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
    config["identity"]["env_id"] = "Walker2d-v5"
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
    monkeypatch.setattr(evaluate, "_rendering_backend", lambda: None)
    monkeypatch.setattr(evaluate, "_render", lambda env, _: seen.append(env) or np.zeros((2, 2, 3), np.uint8))
    trained = evaluate.TrainedRun(folders[agent], evaluate.Arguments(()))
    reached, actions = trained.evaluate(2)
    played = evaluate.film(trained, actions, tmp_path / "films" / "a.mp4")
    first = next(iter(reached.values()))
    assert played.returns[0, 0] == first.returns[0, 0]
    assert played.lengths[0, 0] == first.lengths[0, 0]
    assert seen[0].render_mode == "rgb_array"
    assert len(frames) == -(-first.lengths[0, 0] // 3) + 1  # 125 steps a second, at most 60 frames
    assert [file.name for file in (tmp_path / "films").iterdir()] == ["a.mp4"]


def test_a_policy_that_is_lost_is_filmed_until_then(folders, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "_rendering_backend", lambda: None)
    monkeypatch.setattr(evaluate, "_render", lambda *_: np.zeros((2, 2, 3), np.uint8))
    trained = evaluate.TrainedRun(folders["iql"], evaluate.Arguments(()))
    actions = np.zeros((5, 3))
    actions[3] = np.nan
    assert evaluate.film(trained, actions, tmp_path / "a.mp4").lengths[0, 0] == 3


def no_ffmpeg():
    raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg")


@pytest.mark.parametrize("encoder", [None, types.SimpleNamespace(get_ffmpeg_exe=no_ffmpeg)])
def test_without_an_encoder_nothing_is_played(run, main, tmp_path, monkeypatch, encoder):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", encoder)
    monkeypatch.setattr(evaluate.TrainedRun, "evaluate", lambda *_: pytest.fail("played"))
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
