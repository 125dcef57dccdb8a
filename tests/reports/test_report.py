from dataclasses import replace

import numpy as np
import pytest

from rlrat.reports.build import build_report
from rlrat.reports.read import read_runs
from rlrat.reports.report import named_seeds
from tests.reports.run_folders import RISING, write_run, write_seeds


@pytest.fixture
def group(tmp_path):
    """Five judged runs, one that diverged, one that failed, and one that has not come so far."""
    write_seeds(tmp_path)
    write_run(tmp_path, RISING[:7], 5, status="diverged")
    write_run(tmp_path, RISING[:1], 6, status="failed")
    write_run(tmp_path, RISING[:4], 7, status=None)
    (found,) = build_report(read_runs([tmp_path])).tasks[0].groups
    return found


def test_every_run_of_a_group_is_counted_once(group):
    assert (len(group.runs), len(group.judged)) == (8, 5)
    assert (group.diverged, group.failed, group.unfinished) == (1, 1, 1)
    assert group.timed
    assert not replace(group, runs=(replace(group.runs[0], train_seconds=np.full(10, np.nan)),)).timed


def test_of_how_many_evaluations_final_values_are(group):
    for counts, text in (([], None), ([5, 5], None), ([3, 3], "3"), ([4, 2, 5], "2 to 5")):
        assert replace(group, final_counts=np.array(counts, int)).few_finals == text


def test_areas_that_are_not_known_are_no_values(group):
    late = replace(group, areas=np.array([1.0, np.nan, 2.0, 3.0, 4.0]))
    assert late.values("area").tolist() == [1, 2, 3, 4]
    assert late.values("final") is group.finals


def test_what_stands_in_the_way_of_a_test_is_said_in_this_order(group):
    assert group.obstacle("final") == "1 of 8 of relu diverged"
    sound = replace(group, runs=group.judged)
    assert sound.obstacle("final") is sound.obstacle("area") is None
    late = replace(sound, areas=np.array([1.0, np.nan, 2.0, 3.0, 4.0]))
    assert late.obstacle("area") == "1 of 5 of relu begin too late for an area"
    assert late.obstacle("final") is None
    uneven = replace(late, incomparable="runs were evaluated at other updates than others")
    assert uneven.obstacle("area") == "runs were evaluated at other updates than others"
    twice = replace(uneven, judged=(*group.judged, group.judged[3], group.judged[1]))
    assert twice.repeated == (1, 3)
    assert twice.obstacle("final") == "relu has seeds 1, 3 more than once"


def test_a_task_knows_its_groups_by_label(group, tmp_path):
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert task.group("relu").label == "relu"
    assert task.group("silu") is None


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((3,), "seed 3"), ((0, 1), "seeds 0, 1"), (tuple(range(7)), "seeds 0, 1, 2, 3, 4 and 2 more")],
)
def test_seeds_are_named_the_first_five(seeds, text):
    assert named_seeds(seeds) == text
