import os
import subprocess
import sys

import pytest
import torch

import rational_speed
from rlrat.rational import Rational, cpu
from tests.short_runs import ROOT

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("tyro", "gymnasium", "mujoco", "minari", "rich")))
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]  # nor rlrat
"""


@pytest.mark.parametrize("program", ["rational_speed.py", "gpu_check.sh"])
def test_without_a_gpu_one_line_says_so_and_little_need_be_installed(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    script, output = str(ROOT / "scripts" / "benchmarks" / program), str(tmp_path / "output")
    command = ["bash", script, output] if program.endswith(".sh") else [sys.executable, script, "--output", output]
    paths = [str(tmp_path)] if program.endswith(".sh") else [str(tmp_path), str(ROOT)]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment})
    assert done.returncode == 2
    assert done.stderr == "error: there is no CUDA device on this machine, and what is measured here needs one\n"
    assert done.stdout == ""
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(cpu.unavailable is not None, reason=str(cpu.unavailable))
def test_bandwidths_count_each_tensor_once(monkeypatch):
    times = {"copy": 1e-6, "forward": 2e-6, "backward": 2e-6}
    monkeypatch.setattr(rational_speed, "_device_seconds", lambda calls: times)
    found = {f["name"]: f for f in rational_speed._memory(torch.float32, 0.8, "cpu", 2**16)}
    label = "float32, 2^16 elements"
    assert found[f"copy, {label}"]["value"] == pytest.approx(524.288)
    assert (found[f"forward / copy, {label}"]["value"], found[f"forward / copy, {label}"]["reached"]) == (0.5, False)
    assert found[f"backward / copy, {label}"]["value"] == pytest.approx(0.75)


def test_wrong_results_are_not_timed():
    module, x = Rational(), torch.randn(64, 256, requires_grad=True)
    grad, coefficients = torch.randn(64, 256), [p.detach() for p in module.parameters()]
    y, *gradients = rational_speed._pass(module, list(module.parameters()), x, grad)
    rational_speed._verify((y, *gradients), x, grad, *coefficients)
    with pytest.raises(AssertionError):
        rational_speed._verify((y, gradients[0] + 0.01), x, grad, *coefficients)
    with pytest.raises(RuntimeError, match="not finite"):
        rational_speed._verify((y, *gradients[:2], gradients[2] * torch.inf), x, grad, *coefficients)


def test_a_contender_has_as_many_elements_as_fit(monkeypatch):
    def beside(make, dtype, elements):
        if elements > 2**19:
            raise torch.OutOfMemoryError
        return make()

    monkeypatch.setattr(rational_speed, "_beside", beside)
    found = rational_speed._contender("it", lambda: {"theirs": 3.0, "ours": 2.0}, torch.float32, 2**20)
    assert {f["name"]: f["value"] for f in found} == {
        "it, float32, 2^20 elements": "left out: the device has too little memory",
        "it, float32, 2^19 elements": 3e6,
        "it / rlrat, float32, 2^19 elements": 1.5,
    }

    def missing():
        raise ModuleNotFoundError("No module named 'rational'")

    (found,) = rational_speed._contender("it", missing, torch.float32, 2**19)
    assert found["value"] == "left out: No module named 'rational'"
