"""The driver of the checks, with steps that stand for the real ones; `test_gpu_steps.py` has those."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpu_check
import gpu_steps
import parts
import rational_speed
from tests.short_runs import ROOT

SCRIPT = str(ROOT / "scripts" / "benchmarks" / "gpu_check.sh")


def printing(*figures: dict, then: str = "") -> dict:
    lines = "; ".join(f"print({json.dumps(figure)!r}, flush=True)" for figure in figures)
    return {"command": [sys.executable, "-c", f"import time, os\n{lines}\n{then}"], "limit": 30.0}


def run_check(tmp_path: Path, steps: dict, *extra: str) -> subprocess.Popen:
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    command = ["bash", SCRIPT, str(tmp_path / "output"), "--steps", str(tmp_path / "steps.json"), *extra]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_its_help_names_the_packages_in_the_versions_that_are_tested():
    done = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    wheels = dict(re.findall(r"([\w-]+)==([\w.]+)", done.stdout))
    assert {"tyro", "gymnasium", "mujoco", "mujoco-core"} <= wheels.keys()
    assert wheels == {name: importlib.metadata.version(name) for name in wheels}
    pinned = dict(line.split("==") for line in (ROOT / ".ci" / "constraints.txt").read_text().split())
    assert {name: pinned[name] for name in wheels.keys() & pinned.keys()}.items() <= wheels.items()


def test_a_step_that_fails_or_hangs_costs_no_other_and_the_page_has_them_all(tmp_path):
    speed = parts.figure("iql rational, S = 1, fp32", 3456.0, "/s", at_least=3000)
    slow = parts.figure("the paper's table", 1.5, "h", at_most=1)
    process = run_check(
        tmp_path,
        {
            "fails": printing(parts.figure("tests passed", 3), then="print('Error: a | b'); os._exit(3)"),
            "hangs": {**printing(speed, then="time.sleep(60)"), "limit": 1.5},
            "warns": {**printing(then="print('warning: it cannot be replayed')"), "quiet": True},
            "good": printing(slow),
            "late": {**printing(slow), "limit": 99.0},
        },
        "--seconds",
        "50",
    )
    output = process.communicate()[0]
    assert process.returncode == 1
    assert output.splitlines()[-1].endswith("output/gpu_check.md")
    report = json.loads((tmp_path / "output" / "gpu_check.json").read_text())
    assert report["errors"] == {
        "fails": "failed with exit code 3",
        "hangs": "ended after 1.5 s",
        "warns": "said: warning: it cannot be replayed",
    }
    assert report["left_out"] == ["late"]
    page = (tmp_path / "output" / "gpu_check.md").read_text()
    assert "| iql rational, S = 1, fp32 | >= 3,000 | 3,456.0 /s | reached |" in page
    assert "| the paper's table | <= 1 | 1.500 h | MISSED |" in page
    assert "| iql rational, S = 64, fp32 | >= 35,000 |  | not measured |" in page
    assert "| late |  | left out for lack of time |" in page
    assert re.search(r"\| good \| [\d.]+ \| done \|", page)
    assert "**failed with exit code 3**\n\n```\nError: a | b\n```" in page


def test_steps_that_all_succeed_and_a_choice_of_them(tmp_path):
    steps = {"one": printing(parts.figure("a", 1)), "two": printing(parts.figure("b", 2))}
    process = run_check(tmp_path, steps, "--only", "two")
    process.communicate()
    assert process.returncode == 0
    assert list(json.loads((tmp_path / "output" / "gpu_check.json").read_text())["parts"]) == ["two"]
    process = run_check(tmp_path, steps, "--only", "three")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors == "error: no step 'three': choose from one, two\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_cut_short_counts(number, tmp_path):
    """Also its page. What it has begun ends with it, if it is asked to end."""
    steps = {"a": printing(parts.figure("a", 1.25, "us")), "b": printing(parts.figure("b", 2), then="time.sleep(60)")}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    command = [sys.executable, gpu_check.__file__, str(tmp_path / "output"), "--steps", str(tmp_path / "steps.json")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    page = tmp_path / "output" / "gpu_check.md"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (page.exists() and "| b | 2" in page.read_text()):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    assert process.wait() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[number]
    assert "| a | 1.250 us |" in page.read_text()
    report = json.loads((tmp_path / "output" / "gpu_check.json").read_text())
    assert [figure["value"] for figures in report["parts"].values() for figure in figures] == [1.25, 2]
    assert report["errors"] == {"b": "interrupted"}
    for child in children:
        if number == signal.SIGTERM:
            assert not Path(f"/proc/{child}").exists()
        else:
            os.kill(int(child), signal.SIGKILL)


class TestWhatIsNeeded:
    @pytest.fixture
    def programs(self, monkeypatch):
        """What stands for each command that the check begins, by a word of it."""
        found = {"--machine": "print('device: H200')", "agents/iql.py": "", "pytest": "", "-c": ""}

        def started(*words):
            (program,) = [program for word, program in found.items() if word in words]
            return original("-c", program)

        original = gpu_check._started
        monkeypatch.setattr(gpu_check, "_started", started)
        return found

    def test_is_there(self, programs):
        assert gpu_check.check() == {"device": "H200"}

    @pytest.mark.parametrize(
        ("word", "program", "line"),
        [
            ("--machine", "raise SystemExit('error: there is no CUDA device')", "error: there is no CUDA device"),
            ("agents/iql.py", "import tyroo", "error: an agent does not run: ModuleNotFoundError: No module named"),
            ("agents/iql.py", "raise SystemExit('error: no env')", "error: an agent does not run: no env (scripts/"),
            (
                "pytest",
                "print('E   ModuleNotFoundError: it'); print('1 error'); raise SystemExit(2)",
                "error: the tests cannot be collected: ModuleNotFoundError: it (scripts/benchmarks/gpu_check.sh --help",
            ),
        ],
    )
    def test_is_not(self, word, program, line, programs, tmp_path, capsys):
        programs[word] = program
        assert gpu_check.main([str(tmp_path / "output")]) == 2
        output = capsys.readouterr()
        assert output.err.startswith(line)
        assert output.err.count("\n") == 1
        assert output.out == ""
        assert not (tmp_path / "output").exists()

    def test_hangs(self, programs, monkeypatch):
        monkeypatch.setattr(gpu_check, "_CHECK_SECONDS", 0.5)
        programs["--machine"] = "import time; time.sleep(60)"
        with pytest.raises(SystemExit, match=r"error: not done after 0\.5 s"):
            gpu_check.check()


def test_the_steps_are_there():
    steps = gpu_check.steps()
    for name, part in steps.items():
        _, program, *words = part.command
        assert Path(program).is_file()
        assert 0 < part.least <= part.limit <= 130, name
        if program.endswith("gpu_steps.py"):
            assert words[0] == "tests" or words[0] in gpu_steps.STEPS
        else:
            assert words[1] in rational_speed._PARTS
    begun = {part.command[2] for part in steps.values()}
    assert gpu_steps.STEPS.keys() - begun == {"kernels"}  # which the search for races begins
    kernels, others = gpu_check.kernel_tests(), gpu_check.gpu_tests()
    assert kernels[-1] == "tests/rational/test_gpu.py"
    assert "tests/rational/test_triton_kernels.py" in kernels
    assert "tests/updates/test_captured.py" in others
    assert not set(kernels) & set(others)
    for file in kernels:  # each where kernels run: without a GPU on the CPU, else on the GPU
        text = (ROOT / file).read_text()
        assert "import DEVICE" in text or "    DEVICE,\n" in text, file
        assert "skipif(torch.cuda.is_available()" not in text, file


def test_the_aims_of_bandwidths_are_those_that_are_measured(monkeypatch):
    monkeypatch.setattr(rational_speed, "_device_seconds", lambda calls: dict.fromkeys(calls, 1e-6))
    monkeypatch.setattr(rational_speed, "_verify", lambda *_: None)
    found = {}
    for dtype, aim in ((rational_speed.torch.float32, 0.8), (rational_speed.torch.bfloat16, 0.6)):
        figures = rational_speed._memory(dtype, aim, "cpu", 2**10)
        found |= {figure["name"].replace("2^10", "2^28"): figure for figure in figures}
    aims = {name: limits for name, limits in gpu_check.AIMS.items() if "copy" in name}
    assert len(aims) == 3
    for name, limits in aims.items():
        assert found[name]["aim"] == f">= {limits['at_least']:g}"
