import json

import numpy as np
import pytest
import torch

import growth
import parts
from growth import Growth
from rlrat.errors import InputError
from rlrat.runs.agents import agent_names


def test_a_synthetic_dataset_is_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "_BLOCK", 1500)
    growth.write_dataset(tmp_path / "entry", 3400)
    dataset = growth.open_dataset(tmp_path / "entry")
    assert len(dataset) == 3400
    assert isinstance(dataset.observations, np.memmap)
    assert dataset.observations.shape == dataset.next_observations.shape == (3400, 11)
    assert dataset.episode_starts.tolist() == [0, 1000, 2000, 3000]
    assert dataset.episode_lengths.tolist() == [1000, 1000, 1000, 400]
    assert np.array_equal(dataset.rewards[:1500], dataset.rewards[1500:3000])
    assert np.abs(dataset.actions).max() <= 1
    whole = sum(file.stat().st_size for file in (tmp_path / "entry").iterdir())
    assert 106 <= whole / 3400 < 120  # what the disk is asked for


@pytest.fixture
def settings(tmp_path) -> Growth:
    small = {"num_seeds": (1, 2), "hidden_dims": (8, 16), "batch_size": (4, 8), "transitions": (500,), "seconds": 0.01}
    return Growth(output=tmp_path / "output", threads=torch.get_num_threads(), **small)


@pytest.mark.parametrize("axis", ["num_seeds", "hidden_dims", "batch_size"])
def test_an_axis_is_measured_value_by_value(axis, settings):
    found = list(growth._part(settings, f"{axis}, relu"))
    assert [figure["name"] for figure in found] == [str(value) for value in getattr(settings, axis)]
    assert all(figure["value"] > 0 and figure["unit"] == "/s" for figure in found)


def test_a_dataset_is_measured_and_removed(settings, tmp_path, monkeypatch):
    settings.folder = str(tmp_path)
    found = {figure["name"]: figure["value"] for figure in growth._part(settings, "transitions, 5000")}
    assert found["updates"] > 0
    assert found["on the disk"] == pytest.approx(5000 * 106e-9, rel=0.05)
    assert not (tmp_path / "entry").exists()
    free = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(growth.shutil, "disk_usage", lambda folder: free)
    (figure,) = growth._part(settings, "transitions, 100000")
    assert figure["value"] == "0.0106 GB of disk are needed, 0.001 are free"


def fake_parts(monkeypatch, fail: tuple[str, ...] = ()) -> list[str]:
    """Figures without processes; the names of the parts that were asked for."""
    asked = []

    def figures(part, *_):
        name = part.command[-1]
        asked.append(name)
        if name in fail:
            raise RuntimeError("broke")
        kind = name.split(", ")[0]
        if kind == "transitions":
            yield parts.figure("updates", 100.0, "/s")
            yield parts.figure("peak memory, mapped files included", 0.25, "GB")
        else:
            for value in json.loads(part.command[-2]).get(kind, (0,)):
                yield parts.figure(str(value), 100.0 / (1 + value), "/s")

    monkeypatch.setattr(parts, "_figures", figures)
    return asked


def test_tables_and_a_plot_and_only_what_is_missing_is_measured_again(settings, monkeypatch, capsys):
    asked = fake_parts(monkeypatch, fail=("hidden_dims, rational", "memory"))
    report = growth.run_growth(settings)
    assert len(asked) == len(set(asked)) == 4 * 3 + 1 + 2
    assert set(report["errors"]) == {"hidden_dims, rational", "memory"}
    output = capsys.readouterr().out
    assert "| seeds side by side | relu | rational | relu compiled | rational compiled |" in output
    assert "| 2 | 66.67 | 66.67 | 66.67 | 66.67 |" in output  # two seeds a 33.3 updates
    assert "| 16 | 5.88 | 5.88 | 5.88 |" in output
    assert "| 500 | 100.00 | 0.25 |" in output
    assert (settings.output / "growth.png").read_bytes().startswith(b"\x89PNG")

    asked = fake_parts(monkeypatch)
    report = growth.run_growth(settings)
    settings.compile = False  # what is there stays there
    assert growth.run_growth(settings)["parts"].keys() == report["parts"].keys()
    assert asked == ["hidden_dims, rational", "memory"]
    assert report["errors"] == {}
    assert json.loads((settings.output / "growth.json").read_text()) == report


def test_figures_of_other_settings_are_not_mixed(settings, monkeypatch):
    fake_parts(monkeypatch)
    growth.run_growth(settings)
    settings.threads += 1
    with pytest.raises(InputError, match=r"growth\.json has figures for threads \d+, not \d+: give another --output"):
        growth.run_growth(settings)


@pytest.mark.slow
def test_the_shares_of_a_real_run(settings):
    settings.run_updates = 600
    found = {figure["name"]: figure for figure in growth._part(settings, "run")}
    assert {"update", "sampling", "checkpoints", "logging", "everything else"} <= set(found)
    assert 0 < found["logging and checkpoints"]["value"] < 100


@pytest.mark.slow
def test_the_memory_of_one_more_seed_of_every_agent(settings):
    found = {figure["name"]: figure["value"] for figure in growth._part(settings, "memory")}
    assert set(found) == set(agent_names())
    assert found["bc"] < found["cql"] < found["decision_transformer"]
