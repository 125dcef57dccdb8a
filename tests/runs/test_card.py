"""The model card: what the folder says, in honest words, with front matter that the hub's own library reads."""

import json

import pytest
from huggingface_hub import ModelCard

from rlrat.errors import InputError
from rlrat.runs.card import card, write_card
from tests.runs.exporting.policies import make_policy, save_run

REFERENCE = {"name": "v5-2026.11", "random": 10.0, "expert": 1010.0}
DATASET = {
    **{"id": "rlrat/hopper/mixed-v0", "fingerprint": "f64c", "transitions": 96655, "episodes": 547},
    **{"return_mean": 488.6, "return_worst": 80.3, "return_best": 1238.1},
}


def finish(run, **summary) -> None:
    content = {"status": "finished", "final_return": None, "final_score": None, **summary}
    (run / "summary.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path):
    """Two seeds of a finished run, and a third of other settings."""
    folder = tmp_path / "runs" / "rlrat-hopper-mixed-v0" / "iql" / "rational"
    for seed, value in enumerate((100.0, 300.0, 900.0)):
        path = save_run(folder / f"seed{seed}", make_policy(), seed=seed, dataset=DATASET, reference=REFERENCE)
        finish(path, final_return=value, final_score=value / 10)
    config = json.loads((path / "config.json").read_text())
    config["identity"]["total_updates"] = 80
    (path / "config.json").write_text(json.dumps(config))
    return folder / "seed1"


@pytest.fixture
def offline(tmp_path):
    """A finished run without an environment."""
    run = save_run(tmp_path / "my_log" / "iql" / "rational" / "seed0", make_policy())
    config = json.loads((run / "config.json").read_text())
    config["identity"] |= {"env_id": None, "holdout": 0.1, "dataset": "my_log"}
    (run / "config.json").write_text(json.dumps(config))
    found = {"update": 40, "fqe_value": 12.0, "data_value": 9.5, "action_error": 0.25, "agreement": 0.5}
    finish(run, final_value=11.5, offline=found)
    return run


def test_the_hub_reads_its_front_matter(run):
    data = ModelCard(card(run)).data  # raises what it cannot read
    assert data.library_name == "rlrat"
    assert data.datasets == ["rlrat-hopper-mixed-v0"]
    assert {"reinforcement-learning", "offline-reinforcement-learning", "iql", "rational", "Hopper-v5"} == {*data.tags}
    assert data.model_name == "iql-rational-seed1"
    found = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "mean_reward": 300.0,
        "normalized_score": 30.0,
    }
    assert found["mean_reward"].task_type == "reinforcement-learning"
    assert found["mean_reward"].dataset_name == "Hopper-v5"


def test_it_has_the_data_the_units_and_the_results_of_all_seeds(run):
    text = card(run)
    assert "- 96,655 transitions, 547 episodes" in text
    assert "- returns of its episodes: 488.60 on average, 80.30 the worst, 1,238.10 the best" in text
    policy = make_policy()
    low = policy.action_offset[0, 2] - policy.action_scale[0, 2]
    assert f"| 2 | {low:.6g} | " in text
    assert f"| 10 | {policy.observation_mean[0, 10]:.6g} | {policy.observation_std[0, 10]:.6g} |" in text
    assert "| `seed0` | finished | 100.00 | 10.00 |\n| `seed1`, this one | finished | 300.00 | 30.00 |\n" in text
    assert "seed2" not in text  # of other settings
    assert "Over 2 seeds: 200.00 +- 141.42 (return, mean and standard deviation between seeds)." in text
    assert "A score is 0 at 10, the return of random actions, and 100 at 1010, an expert's (`v5-2026.11`)." in text
    assert "of 2 episodes each; none was chosen by its result." in text
    assert "policy = rlrat.load_policy('runs/rlrat-hopper-mixed-v0/iql/rational/seed1')" in text
    assert "rlrat export runs/rlrat-hopper-mixed-v0/iql/rational/seed1 --format onnx" in text
    assert str(run.parents[4]) not in text
    assert "| `total_updates` | `40` |" in text
    assert "estimate" not in text


def test_success_rates_stand_beside_returns_and_may_be_the_score(run):
    config = json.loads((run / "config.json").read_text())
    config["reference"] = {"name": "success", "random": 0.0, "expert": 1.0, "measure": "success"}
    (run / "config.json").write_text(json.dumps(config))
    finish(run, final_return=-30.5, final_score=62.5, final_success_rate=0.625)
    text = card(run)
    assert "| seed | status | return | score | success rate |" in text
    assert "| `seed1`, this one | finished | -30.50 | 62.50 | 0.62 |" in text
    assert "A score is 100 x the success rate" in text
    assert "random actions" not in text
    found = {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results}
    assert found == {"mean_reward": -30.5, "normalized_score": 62.5, "success_rate": 0.625}


def test_it_says_how_episodes_were_cut_and_what_was_around_the_environment(run):
    assert "Measured in `Hopper-v5`: a return" in card(run)  # a folder of before
    config = json.loads((run / "config.json").read_text())
    wrappers = [{"name": "ClipReward", "kwargs": {}}, {"name": "a`b"}, 3]
    config["environment"] = {"env_id": "Hopper-v5", "max_episode_steps": 15, "wrappers": wrappers}
    (run / "config.json").write_text(json.dumps(config))
    around = "episodes of at most 15 steps, in the wrappers `ClipReward`, `a'b`, `None`"
    assert f"Measured in `Hopper-v5` ({around}): a return" in card(run)


def test_a_run_without_an_environment_has_no_return(offline):
    text = card(offline)
    data = ModelCard(text).data
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("fqe_value", 11.5)
    assert "estimated" in result.metric_name
    assert "not a return" in result.metric_name
    assert data.datasets == ["my_log"]
    assert "**nothing here is a return**" in text
    assert "| seed | status | estimated value | value of the data | action error | agreement |" in text
    assert "| `seed0`, this one | finished | 11.50 | 9.50 | 0.25 | 0.50 |" in text
    assert "a share of 0.1 of its episodes was held out" in text
    assert "It has not acted anywhere yet" in text
    assert "simulation" not in text


def test_what_was_chosen_is_called_too_high(run):
    best = {"by": "return", "value": 450.0, "update": 20, "file": "checkpoint.best.pt"}
    finish(run, final_return=300.0, best=best)
    text = card(run)
    assert "checkpoint.best.pt holds the policy of update 20, chosen by `return`, where it had 450.00." in text
    assert "too high" in text


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"status": "diverged", "diverged_at": 12}, "**Training diverged** at update 12"),
        ({"status": "failed"}, "**No evaluation of the trained policy worked.**"),
        (None, "Training had not finished when this card was written."),
    ],
)
def test_what_went_wrong_is_said_and_has_no_result(run, summary, said):
    if summary is None:
        (run / "summary.json").unlink()
    else:
        finish(run, **summary)
    text = card(run)
    assert said in text
    assert "model-index" not in text


def test_the_judgement_stands_as_an_estimate(offline):
    judged = {
        **{"run": "/home/somebody/runs", "update": 40, "which": "best", "discount": 0.99, "value": 11.25},
        **{"interval": [10.0, 13.5], "refits": [10.5, 11.0, 12.0], "data_value": 9.0, "outside": 0.07},
        "problems": [],
        "importance": {"effective_sample_size": 12.5, "refused": "it | `is`\nsmall"},
    }
    (offline / "judgement.json").write_text(json.dumps(judged))
    text = card(offline)
    for said in (
        "from data alone: **an estimate, no return**. The value of the best policy, of update 40, at the data's ",
        "initial states is 11.25, in rewards discounted by 0.99, by fitted Q evaluation; the data's own is 9.00.",
    ):
        assert said in text
    assert "Its 95% interval is 10.00 to 13.50, from 3 refits on resampled episodes." in text
    assert "It acts unlike the data in 7% of the states; the data itself does in 5%." in text
    assert "The diagnosis found nothing against it, which proves nothing." in text
    assert "| `effective_sample_size` | 12.5 |\n| `refused` | `it / 'is' small` |" in text
    assert "somebody" not in text
    judged |= {"problems": ["the fit diverges", "it acts elsewhere"], "interval": None}
    (offline / "judgement.json").write_text(json.dumps(judged))
    text = card(offline)
    assert "**It cannot be trusted:**\n\n- `the fit diverges`\n- `it acts elsewhere`\n" in text
    assert "nothing against it" not in text
    assert "interval" not in text
    (offline / "judgement.json").write_text('{"interval": [1], "problems": 3, "importance": []}')
    assert "The value of the newest policy, of update -, at the data's initial states is -" in card(offline)
    (offline / "judgement.json").write_text("{")
    with pytest.raises(InputError, match=r"judgement.json is damaged"):
        card(offline)


def test_a_decision_transformer_is_told_what_to_reach(tmp_path):
    text = card(save_run(tmp_path / "seed0", make_policy(sequence=True)))
    assert "evaluated at 100, 50" in text
    assert "policy.reset()" in text


def test_text_of_a_folder_is_neither_markup_nor_yaml(run):
    config = json.loads((run / "config.json").read_text())
    evil = "x`|\n---\n<script>alert()</script>: [y]"
    config["identity"] |= {"dataset": evil, "agent": evil, "env_id": None, "expectile": evil}
    config |= {"versions": {"rlrat": evil}, "dataset": {"id": evil}}
    (run / "config.json").write_text(json.dumps(config))
    text = card(run)
    assert ModelCard(text).data.library_name == "rlrat"
    body = text.split("\n---\n", 1)[1]
    assert "\n---\n" not in body
    plain = [line for line in body.splitlines() if not line.startswith("```")]
    assert all(line.count("`") % 2 == 0 for line in plain)
    assert "<script>" not in "".join(part for line in plain for part in line.split("`")[::2])


def test_it_is_written_whole_or_not_at_all(run, tmp_path):
    assert write_card(run) == run / "MODEL_CARD.md"
    assert (run / "MODEL_CARD.md").read_text() == card(run)
    other = tmp_path / "new" / "README.md"
    assert write_card(run, str(other)) == other
    assert [path.name for path in other.parent.iterdir()] == ["README.md"]
    for out, said in (
        (tmp_path, r"^--out .* is a folder: name a file in it, such as .*/MODEL_CARD.md$"),
        ("/dev/null/card.md", r"^cannot write /dev/null/card.md: File exists$"),
    ):
        with pytest.raises(InputError, match=said):
            write_card(run, out)


def test_what_is_no_run_folder_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match="there is no run folder"):
        write_card(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file: give the run folder that it is in"):
        write_card(run / "checkpoint.pt")
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json is missing: give a whole run folder$"):
        write_card(run)
