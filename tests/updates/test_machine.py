"""Devices, and memory that stays with the process."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlrat.errors import InputError
from rlrat.updates.machine import (
    available_memory,
    find_device,
    limited_groups,
    most_resident_memory,
    proc_bytes,
    set_precision,
    usable_cores,
    useful_threads,
)


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match=r"--device abacus cannot be used: .*; give auto, cpu or cuda:<number>"):
        find_device("abacus")


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert usable_cores() == 64


@pytest.mark.parametrize(
    ("groups", "files", "cores", "limits"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n"}, 8, []),
        (
            "0::/job/step\n",
            {
                "job/step/cpu.max": "250000 100000\n",
                "job/step/cpu.stat": "usage_usec 4000000\nuser_usec 1\n",
                "job/cpu.max": "400000 100000\n",
                "job/cpu.stat": "usage_usec 9000000\n",
            },
            3,
            [(2.5, 4.0), (4.0, 9.0)],
        ),
        (
            "4:cpu,cpuacct:/docker/abc\n0::/\n",  # an older container sees its own group at the top
            {
                "cpu/cpu.cfs_quota_us": "50000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "cpu/cpuacct.usage": "7000000000\n",
            },
            1,
            [(0.5, 7.0)],
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8, []),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2, [(2.0, 0.0)]),
    ],
)
def test_control_groups_limit_cores(groups, files, cores, limits, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = machine(tmp_path, groups, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert limited_groups(root) == limits
    assert usable_cores(root) == cores
    (root / "proc/self/cgroup").write_text("damaged\n")
    assert usable_cores(root) == 8


def test_a_run_sets_its_precision(run_agent):
    before = torch.get_float32_matmul_precision()
    try:
        run_agent("--precision", "bf16", "--run-name", "x")
        assert torch.get_float32_matmul_precision() == "medium"
        result = run_agent("--run-name", "x", check=False)  # another run, for its results differ
        assert result.returncode == 2
        assert "precision is 'bf16' there and 'fp32' here" in result.stderr
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_precision_that_a_gpu_would_not_compute_in_is_refused(run_agent, monkeypatch, tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"  # where this is bf16 one day, a GPU can have it
        for name, expected in (("fp32", "highest"), ("tf32", "high")):
            set_precision(name, torch.device("cuda:1"))
            assert torch.get_float32_matmul_precision() == expected
        monkeypatch.setattr("rlrat.runs.run.find_device", lambda _: torch.device("cuda:1"))
        result = run_agent("--precision", "bf16", check=False)
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.returncode == 2
    said = "error: --precision bf16 is for CPUs: PyTorch's products on cuda:1 would be in tf32, give tf32\n"
    assert result.stderr == said
    assert not (tmp_path / "runs").exists()


def test_threads_are_as_many_as_an_update_keeps_busy():
    layer = torch.nn.Linear(100, 100, bias=False)  # 6 MFLOP for 100 rows
    assert [useful_threads(layer, torch.empty(1, rows, 100)) for rows in (1, 1000, 1700, 10_000)] == [1, 1, 2, 12]
    assert useful_threads(layer, torch.empty(1, 100, 100, 100)) == 12  # windows of a sequence
    assert useful_threads(layer.requires_grad_(False), torch.empty(1, 10_000, 100)) == 1  # such as a target network


def test_a_small_run_takes_few_threads_and_says_so(run_agent, tmp_path):
    torch.set_num_threads(2)  # run_agent sets it back
    result = run_agent("--num-threads", "None")
    assert "1 of 2 CPU threads: updates are small (--num-threads)" in result.stdout
    assert torch.get_num_threads() == 2
    config = json.loads(next((tmp_path / "runs").rglob("config.json")).read_text())
    assert config["arguments"]["num_threads"] == 1


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_met_again_without_page_faults():
    code = (
        "import resource, torch\n"
        "from rlrat.updates.machine import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        torch.ones(2**23)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults()\n"
        "plain = faults()\n"
        "keep_freed_memory()\n"
        "faults()\n"
        "print(plain, faults())\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    plain, kept = map(int, output.split())
    assert kept < 100 < plain


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root with 20 GiB available, the process in these control groups."""
    files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {20 * 2**20} kB\n", "proc/self/cgroup": groups, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GIBIBYTE = 2**30


def test_available_memory_without_a_limit(tmp_path):
    root = machine(tmp_path, "0::/user\n", {"sys/fs/cgroup/user/memory.max": "max\n"})
    assert available_memory(root=root) == 20 * GIBIBYTE


def test_the_limits_of_control_groups_count_with_those_above(tmp_path):
    group = "sys/fs/cgroup/job/step"
    files = {
        f"{group}/memory.max": f"{16 * GIBIBYTE}\n",
        f"{group}/memory.current": f"{7 * GIBIBYTE}\n",
        f"{group}/memory.stat": f"anon 1\ninactive_file {2 * GIBIBYTE}\n",
    }
    root = machine(tmp_path, "3:cpu:/a\n0::/job/step\n", files)
    assert available_memory(root=root) == 11 * GIBIBYTE
    above = "sys/fs/cgroup/job"
    files = {
        f"{above}/memory.max": f"{8 * GIBIBYTE}\n",
        f"{above}/memory.current": f"{8 * GIBIBYTE}\n",
        f"{above}/memory.stat": f"inactive_file {GIBIBYTE}\n",
    }
    assert available_memory(root=machine(tmp_path, "0::/job/step\n", files)) == GIBIBYTE


def test_an_older_container_sees_its_own_group_at_the_top(tmp_path):
    group = "sys/fs/cgroup/memory"
    files = {
        f"{group}/memory.limit_in_bytes": f"{6 * GIBIBYTE}\n",
        f"{group}/memory.usage_in_bytes": f"{5 * GIBIBYTE}\n",
        f"{group}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIBIBYTE}\n",
    }
    assert available_memory(root=machine(tmp_path, "4:memory:/docker/abc\n0::/\n", files)) == 2 * GIBIBYTE


def test_a_system_that_does_not_say(tmp_path):
    root = machine(tmp_path / "old", "0::/\n", {"proc/meminfo": "MemTotal: 1 kB\n"})
    assert available_memory(root=root) is None
    assert available_memory(root=tmp_path) is None
    assert available_memory() is None or available_memory() > 0


def test_the_most_that_was_resident_has_what_was_given_back(monkeypatch):
    block = torch.ones(2**25)
    with_block = proc_bytes(Path("/proc/self/status"), "VmRSS")
    assert with_block > block.nbytes
    del block
    most = most_resident_memory()
    assert with_block - 2**20 < most < with_block + 2**34  # each thread counts its last pages late
    monkeypatch.setitem(sys.modules, "resource", None)
    assert most_resident_memory() == 0
