import os

import pytest

from rlrat.sweeps import commands, local
from rlrat.sweeps.estimate import Probe
from rlrat.sweeps.local import GPU, LocalLauncher, find_gpus, fitting


def test_gpus_are_found_and_filled_by_memory(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-aa, 80000'\necho '1, GPU-bb, 24000'\necho '2, GPU-cc, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpus() == [GPU("GPU-aa", 80000 * 2**20), GPU("GPU-bb", 24000 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-aa,7")
    assert find_gpus() == [GPU("1", 24000 * 2**20), GPU("GPU-aa", 80000 * 2**20)]
    gpu = find_gpus()[0]
    assert fitting(gpu, 400 * 2**20) == 21
    assert fitting(gpu, 2**60) == 1
    two = [GPU("0", 0), GPU("1", 0)]
    monkeypatch.setattr(local, "usable_cores", lambda: 5)
    assert LocalLauncher(None, 1, two, per_gpu=2).room() == 4
    assert "2 GPUs" in LocalLauncher(None, 1, two, per_gpu=2).describe()
    assert LocalLauncher(None, 1, two, per_gpu=50).room() == 5  # each process needs a CPU, too
    assert LocalLauncher(None, 8, two, per_gpu=50).room() == 2
    assert LocalLauncher(7, 1, two).room() == 7
    assert LocalLauncher(None, 2, []).room() == 2


@pytest.mark.parametrize(("gpu_memory", "room"), [(2**30, 4), (None, 8)])
def test_a_probe_decides_how_many_processes_share_a_gpu(sweeper, monkeypatch, gpu_memory, room):
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(commands, "find_gpus", lambda: [GPU("0", 4 * 2**30), GPU("1", 5 * 2**30)])
    found = Probe("", 1.0, 1.0, 1.0, memory=0, gpu_memory=gpu_memory)
    monkeypatch.setattr(commands, "probe", lambda *_: {"toy": found})
    assert sweeper("--dry-run") == 0
    assert f"{room} processes at a time" in sweeper.said
