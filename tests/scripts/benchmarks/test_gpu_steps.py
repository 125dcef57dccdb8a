"""The steps of the GPU's check on a CPU, with recordings that need no GPU and stand-ins for what is not here."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import agent_speed
import gpu_check
import gpu_steps
import table
from peers import Clocked
from rlrat.runs.agents import agent_names
from tests.scripts.benchmarks.test_agent_speed import recorded_by
from tests.updates.test_captured import Recorder

PEER = """
import sys
print("ready JAX on", *sys.argv[2:], flush=True)
for line in sys.stdin:
    *_, updates = line.split()
    print(0.01 * int(updates), 0.02 * int(updates), flush=True)
"""


def by_name(figures) -> dict:
    return {figure["name"]: figure for figure in figures}


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(gpu_steps, "captured", recorded_by(Recorder))
    monkeypatch.setattr(agent_speed, "captured", recorded_by(Recorder))
    monkeypatch.setattr(agent_speed, "is_gpu", lambda device: True)


@pytest.fixture
def turns(monkeypatch):
    """The contenders that were made; each makes 200 updates a second, by the clock that it says."""
    made = []

    def make(*choice):
        made.append(choice)
        return lambda updates: Clocked(updates / 200, updates / 100)

    monkeypatch.setattr(gpu_steps, "make_contender", make)
    return made


def test_what_is_right(recorded):
    found = by_name(gpu_steps.right("cpu"))
    assert len(found) == 4
    assert all(figure["reached"] for figure in found.values())


def test_what_is_wrong(monkeypatch, capsys):
    right = gpu_steps.rational_error((1, 4, 8), "cpu")
    assert 0 < right < 1e-5
    exact = gpu_steps.Rational.forward

    def inexact(self, x, *more):
        return exact(self, x, *more) * (1.0 if x.dtype == torch.float64 else 1.001)

    monkeypatch.setattr(gpu_steps.Rational, "forward", inexact)
    assert gpu_steps.rational_error((1, 4, 8), "cpu") == pytest.approx(1e-3, rel=0.1)
    assert gpu_steps.difference(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")
    missed = gpu_steps.figure("it", gpu_steps.rational_error((1, 4, 8), "cpu"), at_most=1e-4)
    for step, code in (("right", 1), ("table", 0)):  # what is wrong has failed, what is slow has not
        monkeypatch.setitem(gpu_steps.STEPS, step, lambda device: iter([missed]))
        assert gpu_steps.main([step]) == code
        assert json.loads(capsys.readouterr().out) == missed


def test_what_is_not_replayed_is_no_contender():
    dataset = gpu_steps.load_dataset(gpu_steps.DATASET)
    with pytest.raises(RuntimeError, match="its update is not replayed as a CUDA graph"):
        gpu_steps.make_contender("bc", "relu", 1, "fp32", dataset, "cpu")


def test_a_contender_computes_in_its_precision(recorded):
    dataset = gpu_steps.load_dataset(gpu_steps.DATASET)
    before = torch.get_float32_matmul_precision()
    assert gpu_steps.make_contender("bc", "relu", 1, "tf32", dataset, "cpu").replayed
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision(before)


def test_an_agent_that_breaks_costs_no_other(turns, monkeypatch):
    make = gpu_steps.make_contender

    def sometimes(agent, activation, seeds, *rest):
        if agent == "cql" and seeds == 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(agent, activation, seeds, *rest)

    monkeypatch.setattr(gpu_steps, "make_contender", sometimes)
    found = []
    with pytest.raises(SystemExit, match="cql rational, S = 64, fp32: CUDA out of memory"):
        found.extend(gpu_steps.agents("cpu"))
    others = len(agent_names()) - 1
    assert len(found) == others * 2 * 3 * 2 - 4
    found = by_name(found)
    assert found["decision_transformer rational:gelu, S = 5, tf32"]["value"] == pytest.approx(1000)
    assert "iql rational, S = 1, fp32" not in found


def test_iql_is_measured_beside_jax(turns, tmp_path, monkeypatch):
    (tmp_path / "peer.py").write_text(PEER)
    monkeypatch.setattr(gpu_steps, "PEER_JAX", tmp_path / "peer.py")
    found = by_name(gpu_steps.iql("cpu"))
    assert len(turns) == 2 * 3 * 2
    assert found["iql rational, S = 64, fp32"] == {
        **{"name": "iql rational, S = 64, fp32", "unit": "/s", "aim": ">= 35000", "reached": False},
        "value": pytest.approx(64 * 200),
    }
    peer = "JAX on iql --activations relu rational --num-seeds 1 64 5 --precisions fp32 tf32"
    assert found[f"iql relu, S = 5, tf32, {peer}"]["value"] == pytest.approx(5 * 100)
    for name in [name for name in gpu_check.AIMS if name.startswith("iql")]:
        assert "aim" in found[name]
    assert found["iql rational, S = 1, fp32 / JAX"]["value"] == pytest.approx(2.0)
    assert found["iql rational, S = 1, fp32 / JAX"]["reached"]


def test_without_jax_iql_is_measured_alone(turns, tmp_path, monkeypatch):
    (tmp_path / "peer.py").write_text("import sys; sys.exit('No module named jax')")
    monkeypatch.setattr(gpu_steps, "PEER_JAX", tmp_path / "peer.py")
    *ours, jax = gpu_steps.iql("cpu")
    assert len(ours) == 12
    assert jax["value"] == "left out: the peer process ended with exit code 1: No module named jax"


def test_compiled_updates_are_measured_beside_others(turns):
    assert len(by_name(gpu_steps.compile("cpu"))) == 2
    assert [choice[-1] for choice in turns] == [False, True]


def test_kernels_are_summed_by_name():
    gpu, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU

    def event(name, micros, device=gpu):
        return SimpleNamespace(name=name, device_type=device, self_device_time_total=micros)

    events = [event("void gemm<float, 4>(int)", 4.0)] * 10 + [event("_backward_kernel", 50.0)] + [event("x", 9.0, cpu)]
    assert [(figure["name"], figure["value"]) for figure in gpu_steps.by_kernel(events, "S = 1", 5)] == [
        ("S = 1: all kernels, 2.2 launches", pytest.approx(18.0)),
        ("S = 1: 0.2 x _backward_kernel", 10.0),
        ("S = 1: 2.0 x void gemm", pytest.approx(8.0)),
    ]


def test_the_whole_table_is_projected_from_four_cells(monkeypatch):
    cell = {"agent": "iql", "env_id": "HalfCheetah-v5", "activation": "relu", "seed_updates_per_second": 5000.0}
    monkeypatch.setattr(table, "run_table", lambda settings: {"cells": [cell] * 4, "projected_hours": 0.1})
    *_, last = gpu_steps.table("cuda")
    assert (last["name"], last["value"], last["reached"]) == ("the paper's table", pytest.approx(0.6), True)


def test_every_kernel_is_launched():
    assert [figure["name"] for figure in gpu_steps.kernels("cpu")] == ["kernels launched"]


SANITIZER = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
case "$2" in
memcheck) echo '{"name": "kernels launched", "value": true, "unit": ""}'; echo "========= ERROR SUMMARY: 3 errors" ;;
racecheck) echo "Device not supported" ;;
esac
"""


def test_what_the_sanitizer_finds(tmp_path, monkeypatch, capsys):
    (tmp_path / "compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    memory, races = gpu_steps.races("cpu")
    assert (memory["name"], memory["value"], memory["reached"]) == ("memcheck: errors", 3, False)
    assert races["value"] == "left out: Device not supported"
    assert "COMPUTE-SANITIZER" in capsys.readouterr().out
    monkeypatch.setattr(gpu_steps.shutil, "which", lambda name: None)
    assert {f["value"] for f in gpu_steps.races("cpu")} == {"left out: compute-sanitizer is not installed"}


def test_tests_are_figures(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_left_out(): pytest.skip('no')\n"
        "def test_broken(missing): pass\n"
    )
    command = [sys.executable, gpu_steps.__file__, "tests", str(tmp_path / "test_some.py"), "-n", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    found = by_name(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name": '))
    assert [found[f"tests {outcome}"]["value"] for outcome in ("passed", "failed", "skipped")] == [1, 2, 1]
    (bad,) = [figure["value"] for name, figure in found.items() if name.endswith("test_bad")]
    assert bad == "assert 1 == 2"
    assert not found["tests failed"]["reached"]


@pytest.mark.slow
def test_a_run_is_stopped_and_resumed(monkeypatch):
    small = ("--hidden-dims", "8", "8", "--batch-size", "8", "--num-threads", "1", "--max-episode-steps", "20")
    monkeypatch.setattr(
        gpu_steps,
        "_COMMAND",
        ("--activation", "rational", "--num-seeds", "5", "--total-updates", "3000", "--eval-every", "1000", *small),
    )
    found = by_name(gpu_steps.run("cpu"))
    assert [figure["reached"] for figure in found.values() if "reached" in figure] == [True] * 3
    assert 0 < found["it went on from update"]["value"] < 3000
    assert found["seeds of which every evaluation is then the same"]["value"] == 5
