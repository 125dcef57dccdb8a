"""Best evaluations are too high by what selection gives them: against the truth, and as reports say it."""

import json

import numpy as np
import pytest

from rlrat.reports.best import read_best, selection_optimism
from rlrat.reports.build import build_report
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import HEADER, SUCCESS_REFERENCE, line, write_episodes, write_offline, write_run


@pytest.mark.parametrize(("evaluations", "episodes", "spread"), [(30, 20, 0.0), (10, 10, 0.5), (30, 3, 0.2)])
def test_the_estimate_is_what_is_lost_on_new_episodes_and_a_little_more(evaluations, episodes, spread):
    """Policies whose true means scatter by `spread`, episodes by 1."""
    generator = np.random.default_rng(0)
    lost, estimated = [], []
    for seed in range(100):
        truth = generator.normal(0.0, spread, evaluations)
        returns = truth[:, None] + generator.normal(0.0, 1.0, (evaluations, episodes))
        best = returns.mean(1).argmax()
        lost.append(returns.mean(1)[best] - truth[best])
        estimated.append(selection_optimism(returns, seed))
    error = np.std(estimated) / np.sqrt(100)
    least = 1 / np.sqrt(1 - 1 / min(5, episodes))  # the noise of fewer episodes
    assert np.mean(lost) - 3 * error < np.mean(estimated) < least**2 * np.mean(lost) + 3 * error


def test_where_one_evaluation_is_far_above_nothing_was_chosen_by_luck():
    returns = np.arange(4.0)[:, None] * 100 + np.arange(5.0)
    assert selection_optimism(returns) == pytest.approx(0.0)


def test_a_single_episode_says_nothing():
    assert np.isnan(selection_optimism(np.ones((4, 1))))


def kept(folder, **best):
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "best": best}))
    return folder


def test_the_report_says_by_how_much_in_its_measure(tmp_path):
    generator = np.random.default_rng(3)
    expected = []
    for seed in range(3):
        returns = 1000.0 + generator.normal(0.0, 200.0, (6, 10))
        returns[0] = 5000.0  # the untrained policy's are no choice
        update = 10 * int(returns[1:].mean(1).argmax() + 1)
        folder = write_run(tmp_path, (returns.mean(1) / 20).tolist(), seed)
        write_episodes(kept(folder, by="score", value=returns.mean(1).max() / 20, update=update), returns.tolist())
        expected.append((returns[1:].mean(1).max() / 20, selection_optimism(returns[1:]) / 20))
    report = build_report(read_runs([tmp_path]))
    (best,) = report.tasks[0].groups[0].best
    assert (best.by, best.runs, best.valued) == ("score", 3, 3)
    assert (best.value, best.optimism) == pytest.approx(np.mean(expected, axis=0))
    assert best.final == pytest.approx(report.tasks[0].groups[0].finals.mean())
    note = (
        "iql on rlrat/hopper/mixed-v0: 3 runs of relu kept the checkpoint with the best score: choosing by the "
        "evaluated returns makes what was chosen look too good, here by about "
        f"{best.optimism:.1f} (score, mean over 3 runs); what is judged is the final value"
    )
    assert note in report.notes
    (row,) = make_tables(report)["best"].rows
    assert [cell.text for cell in row[1:5]] == ["relu", "score", "score", "3"]
    assert [cell.value for cell in row[5:]] == pytest.approx([best.value, best.final, best.optimism, 3])
    assert "too high by" in report.explanations


def test_what_was_chosen_otherwise_needs_no_such_note(tmp_path):
    kept(write_run(tmp_path / "runs", [0.0, 1.0, 2.0, 1.0], 0), by="fqe", value=63.0, update=20)
    report = build_report(read_runs([tmp_path]))
    assert not any("too good" in note for note in report.notes)
    (row,) = make_tables(report)["best"].rows
    assert [cell.text for cell in row[2:]] == ["fqe", "score", "1", "2.0", "1.3", "-", "-"]


def test_estimates_that_were_chosen_by_themselves_are_not_shown(tmp_path):
    kept(write_offline(tmp_path, [0.0, 50.0, 41.0]), by="fqe", value=50.0, update=10)
    kept(write_offline(tmp_path, [0.0, 50.0, 41.0], 1), by="heldout", value=1.0, update=20)
    (best,) = build_report(read_runs([tmp_path])).tasks[0].groups[0].best
    assert (best.by, best.runs, best.value) == ("heldout", 1, 41.0)
    assert np.isnan(best.optimism)


def test_runs_without_a_best_have_no_such_table(tmp_path):
    write_run(tmp_path, [0.0, 1.0])
    report = build_report(read_runs([tmp_path]))
    assert "best" not in make_tables(report)
    assert "too high by" not in report.explanations


@pytest.mark.parametrize("episodes", [None, "", "update,episode\n10,0\n", "update,episode,return\nx\n10,0,nan\n"])
def test_without_episodes_it_is_said_that_it_is_not_known(tmp_path, episodes):
    folder = kept(write_run(tmp_path, [0.0, 1.0, 2.0]), by="return", value=40.0, update=20)
    if episodes is not None:
        (folder / "episodes.csv").write_text(episodes)
    report = build_report(read_runs([tmp_path]))
    assert any("by how much is not known, as no evaluation has several episodes" in note for note in report.notes)


def test_damaged_lines_and_other_targets_are_left_out(tmp_path, capfd):
    folder = write_run(tmp_path, [])
    rows = [line(u, u, "", target) for u in (0, 10) for target in ("36", "18")]
    (folder / "evaluations.csv").write_text(HEADER + "".join(rows))
    head = "update,target_return,episode,reset_seed,return,length\n"
    whole = [f"{u},36,{e},0,{100 * u + e},9\n" for u in (10, 20) for e in range(4)]
    others = [f"{u},18,{e},0,{7 * e},9\n" for u in (10, 20) for e in range(4)]
    (folder / "episodes.csv").write_text(head + whole[0] + "10,36\n" + "".join(whole[1:] + others) + "30,36,0,0,9")
    best = read_best(folder, {"by": "return", "update": 20})
    assert best.optimism == pytest.approx(0.0)
    assert f"{folder / 'episodes.csv'}: left out as damaged: line 3, 19" in capfd.readouterr().err


@pytest.mark.parametrize("said", [3, [], {}, {"by": 1, "update": 10}, {"by": "return", "update": -1}, {"by": "fqe"}])
def test_a_best_of_the_wrong_shape_is_left_out(tmp_path, capfd, said):
    assert read_best(tmp_path, said) is None
    assert f"{tmp_path} has a summary whose best names no choice and no update" in capfd.readouterr().err


def test_a_checkpoint_that_was_chosen_by_success_is_too_high_in_success(tmp_path):
    generator = np.random.default_rng(3)
    expected = []
    for seed in range(3):
        successes = (generator.uniform(size=(6, 10)) < 0.5).astype(float)
        rates = successes.mean(1)
        update = 10 * int(rates[1:].argmax() + 1)
        settings = {"reference": SUCCESS_REFERENCE, "successes": rates.tolist()}
        folder = write_run(tmp_path, (100 * rates).tolist(), seed, **settings)
        write_run_episodes = [
            f"{10 * place},,{episode},{episode},-5.0,100,{value}\n"
            for place, evaluation in enumerate(successes)
            for episode, value in enumerate(evaluation)
        ]
        header = "update,target_return,episode,reset_seed,return,length,success\n"
        (folder / "episodes.csv").write_text(header + "".join(write_run_episodes))
        kept(folder, by="score", value=100 * rates.max(), update=update)
        expected.append(selection_optimism(successes[1:]))
    records = read_runs([tmp_path])
    for measure, factor in (("score", 100), ("success", 1), ("return", np.nan)):
        (best,) = build_report(records, measure=measure).tasks[0].groups[0].best
        assert best.optimism == pytest.approx(factor * np.mean(expected), nan_ok=True)
        assert best.valued == (3 if np.isfinite(factor) else 0)
    for run in tmp_path.rglob("summary.json"):
        run.write_text(run.read_text().replace('"score"', '"return"'))  # all of them -5
    (best,) = build_report(read_runs([tmp_path]), measure="return").tasks[0].groups[0].best
    assert best.optimism == 0
    (best,) = build_report(read_runs([tmp_path]), measure="score").tasks[0].groups[0].best
    assert np.isnan(best.optimism)
