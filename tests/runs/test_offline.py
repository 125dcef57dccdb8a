"""Runs without an environment: what is judged, on which episodes, and what is kept."""

import csv
import json
import signal

import numpy as np
import pytest
import torch

import rlrat
from agents import bc, iql
from rlrat.datasets import Units
from rlrat.errors import InputError
from rlrat.runs.arguments import validate
from rlrat.runs.folder import RunFolder
from rlrat.runs.offline import OfflineEvaluator, _agreement, describe, how_judged
from rlrat.runs.run import Run
from tests.short_runs import assert_equal_runs, read_run, wait_for

SMALL = {"hidden_dims": (8,), "batch_size": 16, "total_updates": 20, "num_threads": 1}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A file with 40 episodes of Hopper's shapes, and no environment named."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(2.0, 3.0, (26, 11)),
            "actions": random.uniform(-1, 1, (25, 3)),
            "rewards": random.normal(1.0, 1.0, 25),
            "terminations": np.arange(25) == 24,
            "truncations": np.zeros(25, bool),
        }
        for _ in range(40)
    ]
    path = tmp_path_factory.mktemp("data") / "log.npz"
    rlrat.Dataset.from_episodes(episodes, id="log").save(path)
    return str(path)


@pytest.fixture
def off(log):
    """Options of a run on it, in seconds."""
    return ("--dataset", log, "--fqe-updates", "5")


def of_seed(tmp_path, seed=0) -> RunFolder:
    (folder,) = tmp_path.glob(f"runs/*/*/*/seed{seed}")
    return RunFolder(folder)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")


def numbers(rows, name) -> list[float]:
    return [float(row[name]) for row in rows]


def test_a_run_without_an_environment_is_judged_on_held_out_episodes(run_agent, tmp_path, scalars, off):
    done = run_agent(*off, "--num-seeds", "2")
    first, *_, last = done.stdout.splitlines()
    judged = "policies are judged by fitted Q evaluation and 4 of 40 episodes, held out"
    assert first == f"dataset log names no environment (--env-id): {judged}"
    folder = of_seed(tmp_path, seed=1)
    rows = folder.offline()
    losses = ["losses/q", "losses/v", "losses/actor"]
    assert list(rows[0]) == ["update", "fqe_value", "data_value", "action_error", "agreement", *losses]
    assert numbers(rows, "update") == [0, 20, 40]
    assert np.isfinite([[float(value) for value in row.values()] for row in rows]).all()
    summary = folder.summary()
    assert summary["final_value"] == pytest.approx(np.mean(numbers(rows[1:], "fqe_value")))
    assert (summary["status"], summary["final_return"], summary["best_score"]) == ("finished", None, None)
    assert summary["offline"] == {name: float(value) for name, value in rows[-1].items()}
    assert f"final value {summary['final_value']:.4g}, discounted, by fitted Q evaluation" in last
    for row in folder.evaluations():
        empty = ("target_return", "return_mean", "return_std", "length_mean", "normalized_score")
        assert row["episodes"] == "0"
        assert [row[name] for name in empty] == [""] * 5
    assert not (folder.path / "episodes.csv").exists()
    identity = folder.config()["identity"]
    assert (identity["env_id"], identity["holdout"]) == (None, 0.1)
    assert set(scalars(folder.path)["offline/fqe_value"]) == {0, 20, 40}
    again = run_agent(*off, "--num-seeds", "2")
    assert "is finished: nothing to do" in again.stdout


def test_held_out_episodes_are_never_trained_on(small_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: small_dataset)
    run = Run("iql", iql.Arguments(env_id="none", holdout=0.4, run_dir=tmp_path, **SMALL))
    assert len(run.dataset.episode_starts) == 3
    learner = run.build(iql.IQL)
    drawn = torch.cat([learner.inputs(update)[0].observations[0] for update in range(50)])
    units = Units.of(run.dataset, True, 1e-6, "iql")

    def normalized(dataset):
        return torch.from_numpy((dataset.observations - units.observation_mean) / units.observation_std).float()

    ours, whole = normalized(run.dataset), normalized(small_dataset)
    assert distance(drawn, ours).amin(1).max() < 1e-4
    held = distance(whole, ours).amin(1) > 1e-3
    assert held.sum() == len(small_dataset) - len(run.dataset)
    assert distance(drawn, whole[held]).min() > 1e-3


def test_held_out_losses_are_those_of_a_step_that_is_taken_back(small_dataset):
    """Measured in the units of what is trained on, by updates of which nothing is kept."""
    train, held = small_dataset.split(0.4, seed=0)
    arguments = bc.Arguments(**SMALL, fqe_updates=0)
    learner = bc.BC(arguments, train, [0, 1], "cpu")
    evaluator = OfflineEvaluator(
        arguments, [0, 1], small_dataset, held, lambda d: bc.BC(arguments, d, [0, 1], "cpu"), learner
    )
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    found = evaluator.evaluate(learner, lambda: False)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert list(found) == ["action_error", "losses/actor"]
    beside = bc.BC(arguments, held, [0, 1], "cpu")
    beside.load_state_dict(before)
    batches = -(-len(held) // arguments.batch_size)
    expected = []
    for number in range(batches):
        batch = beside.inputs(number)[0]
        with torch.no_grad():
            expected.append(-learner.policy.log_prob(batch.observations, batch.actions).mean(1))
    torch.testing.assert_close(torch.from_numpy(found["losses/actor"]), torch.stack(expected).mean(0).double())
    observations = np.stack([held.observations] * 2)
    error = np.square(learner.policy(observations) - held.actions).mean((1, 2))
    np.testing.assert_allclose(found["action_error"], error, rtol=1e-5)


def test_agreement_weighs_good_actions_more():
    actions = np.array([[-1.0], [1.0]])
    # Two transitions whose advantages lie one standard deviation to either side of 0: weights e : 1/e.
    share = np.e / (np.e + 1 / np.e)
    for policy, errors in ((-1.0, [0.0, 4.0]), (1.0, [4.0, 0.0])):
        found = _agreement(np.array([errors]), actions, np.array([[-1.0, 1.0]]))
        weighted = (1 - share) * (policy + 1) ** 2 + share * (policy - 1) ** 2
        assert found == pytest.approx(1 - weighted / (4 * share * (1 - share)))
    assert _agreement(np.zeros((1, 2)), actions, np.ones((1, 2))) == 1.0  # no advantage differs


def test_a_stopped_run_goes_on_to_the_same_end(run_agent, start_agent, tmp_path, off):
    often = ("--total-updates", "240", "--eval-every", "60", "--checkpoint-every", "60")
    more = (*off, *often, "--num-seeds", "2", "--run-name", "x")
    whole = tmp_path / "whole"
    whole.mkdir()
    run_agent(*more, "--run-dir", str(whole / "runs"))
    for update in (0, 120):
        process = start_agent(*more)
        place = tmp_path / "runs/log/iql/relu+x/seed1/evaluations.csv"
        assert wait_for(place, f"\n{update},", process), "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL if update else signal.SIGTERM)
        process.wait()
    done = run_agent(*more)
    assert "lost" not in done.stderr  # of lines: it has no episodes
    for seed in (0, 1):
        ours, theirs = of_seed(tmp_path, seed), of_seed(whole, seed)
        assert ours.offline() == theirs.offline()
        assert_equal_runs(read_offline(ours), read_offline(theirs))


def read_offline(folder: RunFolder) -> dict:
    (folder.path / "episodes.csv").touch()  # such a run has none
    return read_run(folder.path)


def test_a_lost_line_is_missing_in_the_summary(run_agent, start_agent, tmp_path, off):
    often = ("--total-updates", "400", "--eval-every", "50", "--checkpoint-every", "100")
    more = (*off, *often, "--activation", "gelu", "--run-name", "x")
    process = start_agent(*more)
    place = tmp_path / "runs/log/iql/gelu+x/seed0/evaluations.csv"
    assert wait_for(place, "\n200,", process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    offline = place.with_name("offline.csv")
    lines = offline.read_text().splitlines(keepends=True)
    offline.write_text("".join(line for line in lines if not line.startswith("50,")))
    done = run_agent(*more)
    assert "the evaluations at update 50 are missing, and its values are without them" in done.stderr.replace("\n", " ")
    summary = json.loads(place.with_name("summary.json").read_text())
    assert summary["missing_evaluations"] == [50]
    assert [int(row["update"]) for row in of_seed(tmp_path).offline()] == [0, *range(100, 401, 50)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--keep-best", "return"),
            "--keep-best is return, but without an environment there is none: give fqe or",
        ),
        (
            ("--keep-best", "score"),
            "--keep-best is score, but without an environment there is none: give fqe or",
        ),
        (
            ("--keep-best", "heldout", "--holdout", "0"),
            "--keep-best is heldout, but no episodes are held out: give",
        ),
        (("--keep-best", "fqe", "--fqe-updates", "0"), "there is no fitted Q evaluation: --fqe-updates is 0"),
        (
            ("--max-episode-steps", "5"),
            "--max-episode-steps limits rollouts, but there is no environment: leave",
        ),
        (("--env-kwargs", "a=1"), "--env-kwargs sets a, but there is no environment: give its --env-id"),
        (("--discount", "1"), "--discount is 1, fitted Q evaluation needs one below 1: give --fqe-updates 0"),
        (("--holdout", "1"), "--holdout is 1.0, but must be at least 0 and below 1"),
        (("--discount", "0.9", "0.99"), "--discount has several values, fitted Q evaluation takes one: give --fqe-upd"),
    ],
)
def test_what_cannot_be_without_an_environment_is_one_line(run_agent, tmp_path, more, said, off):
    done = run_agent(*off, *more, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["decision_transformer"])
def test_a_decision_transformer_has_held_out_losses_alone(run_agent, tmp_path, off):
    small = ("--context-length", "4", "--embedding-size", "8", "--num-layers", "1", "--batch-size", "4")
    done = run_agent(*off, *small)
    assert "update 40: losses/actor " in done.stdout
    assert "policies are judged by 4 of 40 episodes, held out" in done.stdout
    rows = of_seed(tmp_path).offline()
    assert list(rows[0]) == ["update", "losses/actor"]
    assert of_seed(tmp_path).summary()["final_value"] is None
    refused = run_agent(*off, *small, "--keep-best", "fqe", "--overwrite", check=False)
    assert "there is no fitted Q evaluation: a policy with memory has none" in refused.stderr


@pytest.mark.parametrize("by", ["fqe", "heldout"])
def test_the_best_policy_is_kept(run_agent, tmp_path, by, off):
    run_agent(*off, "--keep-best", by, "--eval-at", "10", "30", "--num-seeds", "2")
    for seed in (0, 1):
        folder = of_seed(tmp_path, seed)
        rows = folder.offline()[1:]
        column, best = ("fqe_value", max) if by == "fqe" else ("losses/actor", min)
        wanted = best(rows, key=lambda row: float(row[column]))
        kept = folder.summary()["best"]
        assert (kept["by"], kept["update"], kept["file"]) == (by, int(wanted["update"]), "checkpoint.best.pt")
        assert kept["value"] == pytest.approx(float(wanted[column]))
        state = torch.load(folder.path / "checkpoint.best.pt", weights_only=True)
        assert state["update"] == kept["update"]
        policy = rlrat.load_policy(folder.path, which="best")
        loaded = {f"policy.{name}": value[0] for name, value in policy.state_dict().items()}
        assert all(torch.equal(value, state["state"][name]) for name, value in loaded.items())


def test_the_best_policy_by_its_returns_is_kept_and_played(run_agent, tmp_path):
    run_agent("--keep-best", "score", "--eval-at", "10", "30")
    folder = of_seed(tmp_path)
    rows = [row for row in folder.evaluations() if row["update"] != "0"]
    best = max(rows, key=lambda row: float(row["normalized_score"]))
    kept = folder.summary()["best"]
    assert (kept["by"], kept["update"]) == ("score", int(best["update"]))
    assert kept["value"] == pytest.approx(float(best["normalized_score"]))
    assert folder.summary()["best_score"] == kept["value"]
    with (folder.path / "episodes.csv").open() as file:
        seeds = {row["reset_seed"] for row in csv.DictReader(file)}
    policy = rlrat.load_policy(folder.path, which="best")
    played = rlrat.evaluate(policy, "Hopper-v5", len(seeds), seed=0)
    assert played.return_mean[0] == pytest.approx(float(best["return_mean"]))
    with pytest.raises(InputError, match="which is 'newest', but must be last or best"):
        rlrat.load_policy(folder.path, which="newest")


def test_a_run_without_a_kept_policy_says_so(run_agent, tmp_path):
    run_agent()
    with pytest.raises(InputError, match=r"seed0 has no checkpoint.best.pt: train with --keep-best, or take the last"):
        rlrat.load_policy(of_seed(tmp_path).path, which="best")


def test_a_score_needs_references(small_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: small_dataset)
    monkeypatch.setattr("rlrat.runs.run.applicable_reference", lambda *_: None)
    with pytest.raises(InputError, match="--keep-best is score, but Hopper-v5 has no reference scores with this data"):
        Run("iql", iql.Arguments(keep_best="score", run_dir=tmp_path, **SMALL))


def test_a_seed_whose_policy_is_not_finite_is_frozen(run_agent, tmp_path, monkeypatch, off):
    real = OfflineEvaluator.evaluate

    def spoil(self, learner, stopped):
        found = real(self, learner, stopped)
        next(self._policy.parameters())[1].fill_(torch.nan)
        return found

    monkeypatch.setattr(OfflineEvaluator, "evaluate", spoil)
    done = run_agent(*off, "--num-seeds", "2")
    assert "seed 1 diverged: " in done.stderr
    assert of_seed(tmp_path, 0).summary()["status"] == "finished"
    summary = of_seed(tmp_path, 1).summary()
    assert (summary["status"], summary["final_value"]) == ("diverged", None)


def test_with_an_environment_held_out_episodes_are_judged_without_values(run_agent, tmp_path):
    run_agent("--holdout", "0.02", "--batch-size", "256", "--eval-every", "40", "--hidden-dims", "8")
    folder = of_seed(tmp_path)
    assert [list(row) for row in folder.offline()] == [
        ["update", "action_error", "losses/q", "losses/v", "losses/actor"]
    ] * 2
    assert folder.summary()["final_return"] is not None
    assert "final_value" not in folder.summary()


def test_how_runs_are_judged_is_said_in_words(small_dataset):
    arguments = iql.Arguments(fqe_updates=0)
    assert how_judged(arguments, small_dataset, None, remembers=False) == (
        "dataset test/hopper names no environment (--env-id): policies are not judged"
    )
    assert describe({"fqe_value": 12.347, "agreement": 0.5, "losses/q": 1.0}) == "value 12.35, agreement 0.5"
    assert describe({}) == "not judged"
    validate(arguments)
