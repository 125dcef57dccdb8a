import json
import re
import subprocess
import sys

import numpy as np
import pandas
import pytest

import rlrat
from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.read import filter_runs, read_runs
from scripts import compare
from tests.short_runs import ROOT


def test_real_runs_are_compared_in_the_terminal_and_in_files(run_agent, tmp_path, capfd):
    run_agent("--num-seeds", 3, "--run-name", "a")
    run_agent("--num-seeds", 3, "--run-name", "a", "--activation", "silu")
    run_agent("--run-name", "b")
    compare.main(compare.Arguments((tmp_path / "runs",), all=True, output=tmp_path / "report"))
    out = capfd.readouterr().out
    runs = filter_runs(read_runs([tmp_path / "runs"]), ["variant=relu+a"])
    finals = [json.loads((run.path / "summary.json").read_text())["final_score"] for run in runs]
    line = next(line for line in out.splitlines() if "| relu+a " in line)
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:5] == ["iql on rlrat/hopper/mixed-v0", "relu+a", "3", "score"]
    assert cells[5].startswith(f"{np.mean(finals):.1f}")
    assert "relu+b against relu+a at the end: nothing can be concluded from 1 and 3 seeds" in out
    assert "fewer than 3 seeds of relu+b (1) are judged" in out
    assert (tmp_path / "report" / "summary.md").read_text() == out
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "results.md", "results.csv", "results.tex", "curves_updates.svg", "curves.csv"} <= written


@pytest.fixture
def log(tmp_path) -> str:
    """A file of ten episodes with Hopper's shapes, which names no environment."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(0.0, 1.0, (21, 11)),
            "actions": random.uniform(-1.0, 1.0, (20, 3)),
            "rewards": random.normal(1.0, 1.0, 20),
            "terminations": np.arange(20) == 19,
            "truncations": np.zeros(20, bool),
        }
        for _ in range(10)
    ]
    rlrat.Dataset.from_episodes(episodes, id="log").save(tmp_path / "log.npz")
    return str(tmp_path / "log.npz")


def test_real_runs_without_an_environment_are_judged_by_their_summaries_values(run_agent, tmp_path, capfd, log):
    run_agent("--dataset", log, "--fqe-updates", "5", "--eval-every", "20", "--num-seeds", "2")
    (task,) = build_report(read_runs([tmp_path / "runs"])).tasks
    (group,) = task.groups
    summaries = [json.loads((run.path / "summary.json").read_text()) for run in group.runs]
    np.testing.assert_allclose(group.finals, [summary["final_value"] for summary in summaries], rtol=1e-6)
    assert task.data_value == pytest.approx(summaries[0]["offline"]["data_value"])
    for name in ("losses/actor", "agreement"):
        assert [run.offline[name] for run in group.runs] == [summary["offline"][name] for summary in summaries]
    compare.main(compare.Arguments((tmp_path / "runs",)))
    assert f"| estimated value (FQE) | {group.finals.mean():.{task.digits}f} " in capfd.readouterr().out


def test_what_one_run_has_learned_is_drawn(run_agent, tmp_path, capfd):
    run_agent("--activation", "rational", "--eval-every", 10)
    (folder,) = tmp_path.glob("runs/*/*/rational+*/seed0")
    compare.main(compare.Arguments((folder,), output=tmp_path / "rational"))
    assert "There is one label, so there is nothing to compare it with" in capfd.readouterr().out
    figures = sorted((tmp_path / "rational").glob("learned_rational_iql-on-rlrat-hopper-mixed-v0.*"))
    assert [path.suffix for path in figures] == [".pdf", ".png", ".svg"]
    assert figures[1].read_bytes().startswith(b"\x89PNG")
    assert "policy.mean.hidden.1" in (tmp_path / "rational" / "report.html").read_text()


def test_others_results_and_every_choice(run_agent, tmp_path, capfd):
    run_agent("--num-seeds", 2)
    table = tmp_path / "published.csv"
    rows = [f"iql,rlrat/hopper/mixed-v0,gelu,{seed},{update},1.5\n" for seed in range(3) for update in (0, 20, 40)]
    table.write_text("agent,dataset,activation,seed,update,score\n" + "".join(rows))
    arguments = compare.Arguments(
        (tmp_path / "runs",), (str(table),), by=("activation",), filter=("seed=0", "seed=1"), reference="gelu", until=20
    )
    compare.main(arguments)
    out = capfd.readouterr().out
    assert "to stay above a share of gelu's" in out
    assert "judged at update 20, which --until says; others go on to 40" in out
    assert "some runs are imported" in out
    assert out.index("| gelu ") < out.index("| relu ")


def test_metrics_are_drawn_where_they_are_asked_for(run_agent, tmp_path, capfd):
    run_agent("--num-seeds", 2)
    run_agent("--activation", "rational")
    compare.main(compare.Arguments((tmp_path / "runs",), metric=("losses/q", "rational/*/outside")))
    out = capfd.readouterr().out
    (row,) = re.findall(r"\| relu +\| losses/q +\| (\d) +\| 40 +\| (\S+)", out)
    tables = [pandas.read_csv(path) for path in tmp_path.glob("runs/*/iql/relu*/seed*/metrics.csv")]
    assert (row[0], float(row[1])) == ("2", pytest.approx(np.mean([t["losses/q"].iloc[-1] for t in tables]), rel=1e-3))
    layers = "rational/q.hidden.0.activation/outside, rational/q.hidden.1.activation/outside"
    assert f"2 of 3 runs have no {layers}, " in out  # among what to mind
    compare.main(compare.Arguments((tmp_path / "runs",), metric=("losses/*",), output=tmp_path / "report"))
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "metrics.md",
        "metrics.tex",
        "metric_curves.csv",
        "metric_losses-actor.png",
        "metric_losses-q.pdf",
    } <= written
    curves = pandas.read_csv(tmp_path / "report" / "metric_curves.csv")
    assert list(curves)[4:] == ["update", "losses/q", "losses/v", "losses/actor"]
    assert len(curves) == 3 * 4
    ours = curves[(curves["activation"] == "relu+batch_size=16,hidden_dims=16x16") & (curves["seed"] == 1)]
    theirs = pandas.read_csv(next(tmp_path.glob("runs/*/iql/relu*/seed1/metrics.csv")))
    np.testing.assert_allclose(ours["losses/v"], theirs["losses/v"], rtol=1e-8)
    assert 'value="metric:losses/actor"' in (tmp_path / "report" / "report.html").read_text()


def test_what_is_not_asked_for_or_not_learned_is_not_drawn(run_agent, tmp_path, capfd):
    run_agent()
    compare.main(compare.Arguments((tmp_path / "runs",), output=tmp_path / "report"))
    out = capfd.readouterr().out
    assert "losses" not in out
    assert "There is one label, so there is nothing to compare it with" in out
    assert not list((tmp_path / "report").glob("metric*"))
    assert not list((tmp_path / "report").glob("learned_*"))
    assert "policy.mean.hidden.1" not in (tmp_path / "report" / "report.html").read_text()


def test_an_unknown_metric_exits_with_two_and_names_the_nearest(run_agent, tmp_path):
    run_agent()
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), str(tmp_path / "runs"), "--metric", "loss/q"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: no run has a metric 'loss/q'; the nearest are losses/q, \S+, \S+\n", done.stderr)


def write_curves(path, labels: str, datasets: int, higher: float = 50.0) -> str:
    """A table of three seeds each, in which the last label is higher on the last dataset."""
    rows = [
        f"iql,data{d},{label},{seed},{update},{seed + higher * (label == labels[-1]) * (d == datasets - 1)}\n"
        for d in range(datasets)
        for label in labels
        for seed in range(3)
        for update in range(3)
    ]
    path.write_text("agent,dataset,activation,seed,update,score\n" + "".join(rows))
    return str(path)


def test_of_many_comparisons_the_winners_are_printed_and_a_matrix_for_each_task(tmp_path, capfd):
    table = write_curves(tmp_path / "results.csv", "abcd", 3)
    compare.main(compare.Arguments(imports=(table,)))
    text = capfd.readouterr().out.partition("## What may be concluded\n\n")[2]
    lines = text.splitlines()
    assert lines[0] == "6 of 36 comparisons have a winner; 30 are not told apart; --all prints the sentence of each."
    assert lines[2].startswith("- iql on data2: d ends higher than a: 51.0 against 1.0")
    assert sum(line.startswith("- iql on data2: d ") for line in lines) == 6
    assert [line.split(" |")[0] for line in lines if line.startswith("| iql on")] == [
        *("| iql on data2", "| iql on data0", "| iql on data1")  # first where labels are told apart
    ]
    assert "| 4 d          | ++  | ++  | ++  |     | 6    | 0      | 0              |" in lines
    assert "are not told apart at the end" not in text
    compare.main(compare.Arguments(imports=(table,), all=True))
    assert capfd.readouterr().out.count("are not told apart at the end") == 15


def test_what_is_printed_fits_a_screen_however_many_labels(tmp_path, capfd):
    table = write_curves(tmp_path / "results.csv", "abcdefghijklmnopqr", 4)
    compare.main(compare.Arguments(imports=(table,)))
    out = capfd.readouterr().out
    assert len(out.splitlines()) <= 50
    assert "Not shown: Results (72 lines)" in out
    assert "2 more labels of iql on data3: --all prints all" in out
    assert "3 more tasks, 0 with a winner: --all prints all" in out


def test_what_is_left_out_is_among_what_to_mind(tmp_path, capfd):
    for place in range(22):
        (tmp_path / "runs" / f"{place:02}").mkdir(parents=True)
        (tmp_path / "runs" / f"{place:02}" / "evaluations.csv").touch()
    (tmp_path / "runs" / "seed0").mkdir()
    (tmp_path / "runs" / "seed0" / "config.json").write_text("{}")
    (tmp_path / "runs" / "seed0" / "evaluations.csv").write_text("update,return_mean\n0,1.0\n")
    first = f"- {tmp_path}/runs/00 has no config.json that can be read: it is left out"
    compare.main(compare.Arguments((tmp_path / "runs",)))
    lines = capfd.readouterr().out.partition("## What to mind\n\n")[2].splitlines()
    assert lines[-1] == f"{first} (21 more like it)"
    compare.main(compare.Arguments((tmp_path / "runs",), all=True))
    lines = capfd.readouterr().out.partition("## What to mind\n\n")[2].splitlines()
    assert lines[-22:] == [first.replace("/00 ", f"/{place:02} ") for place in range(22)]


def test_without_matplotlib_only_figures_are_refused(tmp_path, monkeypatch, capfd):
    (tmp_path / "results.csv").write_text("agent,dataset,activation,seed,update,score\niql,data,relu,0,0,1\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "rlrat.reports.plots", raising=False)
    compare.main(compare.Arguments(imports=(str(tmp_path / "results.csv"),)))
    assert "| relu " in capfd.readouterr().out
    with pytest.raises(InputError, match=r"matplotlib is not installed, which figures need: pip install -e '\.\[rep"):
        compare.main(compare.Arguments(imports=(str(tmp_path / "results.csv"),), output=tmp_path / "report"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no run is given: give run folders"),
        ({"imports": ("x.csv",), "until": 0}, "--until is 0, but must be at least 1"),
        ({"imports": ("x.csv",)}, "--import has x.csv, but there is no such file"),
        ({"imports": ("x.csv",), "output": "curves.png"}, "--output is curves.png: give a folder"),
        ({"runs": ("nowhere",)}, "nowhere does not exist: give run folders"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {"runs": tuple(map(compare.Path, arguments.get("runs", ())))}
    paths |= {"output": compare.Path(arguments["output"])} if "output" in arguments else {}
    with pytest.raises(InputError, match=message):
        compare.main(compare.Arguments(**{**arguments, **paths}))


def test_an_output_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "report", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"give a folder|cannot make the folder"):
            compare.main(compare.Arguments(imports=("x.csv",), output=path))


def test_a_mistake_exits_with_two_and_no_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no evaluated run below {tmp_path}: give folders that hold config.json and evaluations.csv\n"
    )


def test_a_misspelled_option_is_one_line():
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), "runs", "--outpt", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--outpt" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_needs_neither_scipy_nor_torch():
    script = f"""
import runpy, sys
sys.argv = ["compare.py", "--help"]
try:
    runpy.run_path({str(ROOT / "scripts" / "compare.py")!r}, run_name="__main__")
except SystemExit:
    assert not {{"scipy", "torch"}} & {{*sys.modules}}
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "--metric" in said
