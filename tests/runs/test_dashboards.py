"""What TensorBoard and Weights & Biases show of a run."""

import importlib.util
import json
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from rlrat.evaluation.scores import mean_height
from rlrat.runs.dashboards import LAYOUT, finish_board
from rlrat.runs.folder import RunFolder
from tests.reports.page_runs import make_run

FINISHED = {"status": "finished", "final_return": 900.0, "final_score": 45.0, "final_evaluations": 5}


def _events(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def _without(monkeypatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("rlrat.runs.dashboards.find_spec", lambda name: None if name == package else find(name))


@pytest.fixture
def finish(tmp_path):
    """`finish("rational")`: what TensorBoard shows of such a run once `finish_board` has had it."""

    def build(activation: str, summary: dict = FINISHED, **run) -> tuple[RunFolder, EventAccumulator]:
        folder = RunFolder(make_run(tmp_path / "runs", activation, 3, name="expectile=0.9", **run))
        config = json.loads((folder.path / "config.json").read_text())
        config["identity"]["total_updates"] = 20_000
        folder.open_scalars(LAYOUT, None)
        with folder.board() as board:
            finish_board(board, folder.path, config, folder.curve(), summary)
        folder.close_scalars()
        return folder, _events(folder.path)

    return build


def test_a_finished_run_is_a_row_of_the_hparams_tab(finish, scalars):
    folder, events = finish("relu")
    tags = events.summary_metadata
    start = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert values == {
        **{"agent": "iql", "dataset": "rlrat/hopper/mixed-v0", "activation": "relu"},
        **{"name": "expectile=0.9", "seed": 3, "total_updates": 20_000},
    }
    experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG].plugin_data.content)
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics == {
        *("final/score", "final/return", "final/success_rate", "final/value"),
        *("final/evaluations", "final/score_area", "final/return_area"),
    }

    points = scalars(folder.path)
    assert points["final/score"] == {20_000: 45.0}
    curve = np.array([(int(row["update"]), float(row["return_mean"])) for row in folder.curve()])
    assert points["final/return_area"][20_000] == pytest.approx(mean_height(*curve.T, 0, 20_000), rel=1e-6)


def test_one_evaluation_is_its_own_area(finish, scalars):
    folder, _ = finish("relu", evaluations=1)
    assert scalars(folder.path)["final/return_area"][0] == pytest.approx(float(folder.curve()[0]["return_mean"]))


def test_a_run_without_references_has_no_score(finish):
    _, events = finish("relu", FINISHED | {"final_score": None}, reference=None)
    final = {tag for tag in events.Tags()["scalars"] if tag.startswith("final/")}
    assert final == {"final/return", "final/evaluations", "final/return_area"}


def test_a_diverged_run_has_no_final_figures(finish):
    _, events = finish("relu", {"status": "diverged", "final_return": None, "final_score": None})
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("final/")]
    assert metadata.SESSION_START_INFO_TAG in events.summary_metadata


def test_a_real_run_shows_whatever_the_layout_overlays(run_agent, tmp_path):
    offline = ("--keep-best", "fqe", "--holdout", "0.01", "--fqe-updates", "2")
    run_agent("--activation", "rational", *offline)
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    events = _events(folder)
    assert metadata.SESSION_END_INFO_TAG in events.summary_metadata
    assert events.Tags()["images"] == []  # which scripts/compare.py draws
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert len(tags) == 11
    for tag in set(tags) - {"eval/success_rate"}:  # which Hopper does not say
        assert any(re.fullmatch(tag, there) for there in events.Tags()["scalars"]), tag


def test_tracking_without_weights_and_biases_is_one_line(run_agent, tmp_path, monkeypatch):
    _without(monkeypatch, "wandb")
    result = run_agent("--track", check=False)
    assert result.returncode == 2
    assert result.stderr == 'error: --track needs Weights & Biases: pip install "rlrat[track]"\n'
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_tracking_mirrors_every_seed_offline(run_agent, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run_agent("--track", "--num-seeds", 2, "--total-updates", 20)
    wandb.teardown()  # waits until all is written
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    for name in (b"seed0/eval/return_mean", b"seed1/eval/return_mean", b"seed1/losses/q", b"seed1/final/score"):
        assert name in content
