"""Where the time of a run goes."""

import json


def test_a_profiled_run_says_where_its_time_went(run_agent, tmp_path):
    output = run_agent("--profile", "--total-updates", 60, "--eval-every", 30, "--run-name", "x").stdout
    for part in ("sampling", "update", "evaluation", "checkpoints", "logging", "everything else"):
        assert part in output
    shares = [float(line.split("%")[0].split()[-1]) for line in output.splitlines() if line.count("%") == 1]
    assert abs(sum(shares) - 100) < 1
    (trace,) = tmp_path.glob("runs/*/*/*/seed0/trace.json")
    assert str(trace) in output.replace("\n", "")
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::_fused_adam_") == 60  # three networks, twenty updates
    assert "nothing to do" in run_agent("--total-updates", 60, "--eval-every", 30, "--run-name", "x").stdout


def test_a_short_run_has_a_table_and_a_trace_of_what_there_was(run_agent, tmp_path):
    output = run_agent("--profile", "--total-updates", 10, "--eval-every", 10, "--run-name", "y").stdout
    assert "sampling" in output
    assert not list(tmp_path.glob("runs/*/*/*/seed0/trace.json"))
