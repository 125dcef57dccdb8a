"""What a run folder is by the design's contract."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from agents.iql import Arguments
from rlrat.rational import VERSIONS
from rlrat.reports import read
from rlrat.runs import schema
from rlrat.runs.arguments import identity
from rlrat.runs.schema import differing, final_evaluations, recalled


def test_files_columns_and_statuses_are_the_contracts():
    assert (schema.CONFIG, schema.SUMMARY) == ("config.json", "summary.json")
    assert (schema.CHECKPOINT, schema.PREVIOUS_CHECKPOINT) == ("checkpoint.pt", "checkpoint.previous.pt")
    assert schema.METRICS == "metrics.csv"
    columns = {name: ",".join(columns) for name, columns in schema.COLUMNS.items()}
    assert (
        columns.items()
        >= {
            "evaluations.csv": (
                "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,"
                "normalized_score,success_rate"
            ),
            "episodes.csv": "update,target_return,episode,reset_seed,return,length,success",
            "activations.csv": "update,layer,part,group,version,numerator,denominator,low,high,counts",
        }.items()
    )
    assert schema.STATUSES == ("finished", "diverged", "failed")
    assert {"finished", "diverged"} == schema.DONE
    assert {"diverged", "failed"} == schema.NO_FINAL
    assert schema.RATIONAL_VERSIONS == VERSIONS


def test_reports_read_columns_that_a_run_writes():
    assert set(read._COLUMNS.values()) < set(schema.COLUMNS[schema.EVALUATIONS])


@pytest.mark.parametrize(
    ("updates", "count"),
    [([], 0), ([0], 0), ([0, 10], 1), ([10, 20], 2), ([0, 1, 2, 3, 4, 5], 5), ([0, 1, 2, 3, 4], 4), (range(100), 5)],
)
def test_the_last_five_evaluations_of_a_trained_policy_make_the_final_value(updates, count):
    assert final_evaluations(updates) == count
    assert final_evaluations(np.array(updates)) == count


@pytest.mark.parametrize("value", [-1, 2**53, 1.0, True, "1", None, [1]])
def test_what_is_no_update(value):
    assert not schema.is_update(value)
    assert schema.is_update(0)
    assert schema.is_update(2**53 - 1)


def test_what_is_outside_an_identity_or_a_name_is_a_setting():
    names = {field.name for field in fields(Arguments)} | {"preset"}  # of the agents that have presets
    assert schema.OUTSIDE_IDENTITY < schema.OUTSIDE_NAME < names
    assert {"seed", "device", "num_threads", "run_dir", "overwrite"} <= schema.OUTSIDE_IDENTITY
    assert not {"dataset", "env_id", "total_updates", "eval_episodes", "precision"} & schema.OUTSIDE_IDENTITY


def test_an_identity_of_before_is_recalled_in_todays_terms():
    ours = {**identity(Arguments(max_episode_steps=5)), "env_id": "Toy-v0", "env_kwargs": {"range": (0.5, math.nan)}}
    theirs = json.loads(json.dumps({**ours, "env_id": "toys:Toy-v0"}))
    assert differing(ours, theirs) == ["env_id"]
    assert differing(ours, recalled(theirs)) == []
    assert differing(ours, recalled({**theirs, "max_episode_steps": None})) == ["max_episode_steps"]
    # From before every agent had a schedule, BC its own.
    before = {name: value for name, value in theirs.items() if name != "schedule"}
    assert recalled({**before, "best_episodes": 1.0, "actor_schedule": "constant"})["actor_schedule"] is None
    assert recalled({**before, "best_episodes": 1.0, "actor_schedule": "cosine"})["actor_schedule"] == "cosine"
    assert recalled({**before, "actor_schedule": "constant"})["actor_schedule"] == "constant"  # of IQL
    assert recalled({**theirs, "best_episodes": 1.0, "actor_schedule": "constant"})["actor_schedule"] == "constant"
    # From before the critics could have dropout.
    before = {name: value for name, value in theirs.items() if name != "dropout"}
    assert recalled({**before, "actor_dropout": 0.0})["actor_dropout"] is None
    assert recalled({**before, "actor_dropout": 0.1})["actor_dropout"] == 0.1
    assert recalled({**theirs, "actor_dropout": 0.0})["actor_dropout"] == 0.0
    # A Decision Transformer's, from before the time limit of an evaluation could be given.
    del theirs["action_bounds"]
    assert recalled({**theirs, "max_episode_steps": 500}).get("max_episode_steps") is None
    assert recalled({**theirs, "max_episode_steps": 500})["embedded_steps"] == 500
    limited = recalled({**theirs, "env_kwargs": {"max_episode_steps": 9, "a": 1}})
    assert (limited["max_episode_steps"], limited["env_kwargs"]) == (9, {"a": 1})
