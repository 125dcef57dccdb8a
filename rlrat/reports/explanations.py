"""Explain how each number of a report was computed, in words that stand beside it."""

from rlrat.reports.report import MEASURES, SUCCESS, VALUE, Report

_VALUE = (
    "Of a run without an environment: what fitted Q evaluation on the data gives as the discounted value of its policy "
    "at initial states, in the environment's rewards. It is an estimate, and wrong where a policy does what the data "
    "does not show. It is on another scale than what rollouts give, and never beside it. The dotted line, and "
    "data_value in the table, is the data's own: what its episodes give, discounted alike."
)
_SUCCESS = (
    "Share of an evaluation's episodes in which the environment says at any step that the task is done; in "
    "FrankaKitchen the mean share of its tasks that are."
)
_BEST = (
    "The evaluation that a run kept as its best has the highest mean of its episodes, in part by luck. Four fifths of "
    "every evaluation's episodes choose one, the fifth that is left values it, as new episodes would; the difference, "
    "averaged over the fifths, over ways to divide, and over runs, says by how much. It is a little too large, as four "
    "fifths are fewer episodes. Nothing is judged by the best evaluations."
)


def explanations(report: Report) -> dict[str, str]:
    """Return the explanations, by the name that tables and axes give a number."""
    reference, measures = report.reference, {task.measure for task in report.tasks}
    groups = [group for task in report.tasks for group in task.groups]
    starts = sorted({task.start for task in report.tasks if task.start is not None})
    start = f"update {' or '.join(f'{start:,}' for start in starts) or 0}"
    found = {
        **(
            {
                "score": "100 (return - random) / (expert - random), with the references named in each run's "
                "config.json; where the reference is success, 100 x the success rate."
            }
            if measures != {VALUE}
            else {}
        ),
        **({MEASURES[SUCCESS]: _SUCCESS} if any(SUCCESS in group.curves for group in groups) else {}),
        **({MEASURES[VALUE]: _VALUE} if VALUE in measures else {}),
        **({"too high by": _BEST} if any(group.best for group in groups) else {}),
        "final": (
            "Mean of a run's last five evaluations at or before the update at which its task is judged (where runs "
            "were not all evaluated at the same updates, of those that all have). That of the untrained policy, at "
            "update 0, never counts; where there are fewer than five others, it is of these, and tables, notes and "
            "conclusions say of how many. Tables give the mean over seeds and "
            "the population standard deviation over seeds, as arXiv 2602.12390 does; (7 of 10) says that three seeds "
            "have diverged, failed or not come so far, and are not in it."
        ),
        "area": (
            f"Area under a run's curve from {start} to where its task is judged, by trapezoids, divided by its length: "
            "the mean height of the curve. It begins at the last first evaluation of the task's runs; a run that "
            "begins after a tenth of training, when others do not, has none."
        ),
        "reach": (
            f"When the mean of the last three evaluations came to stay at or above 50, 75, 90 and 95% of {reference}'s "
            "final value: median over seeds. A seed that never did, or diverged, counts as later than all others; "
            "where that is half of them or more, the median is not reached. Each bootstrap sample draws the seeds of "
            f"both the label and {reference}. Estimated values have none: they begin near the data's own, not at 0."
        ),
        "seconds": (
            "Training time of the process that trained the run, evaluations that it waited for left out; compared only "
            "where all runs had as many runs in a process, threads, precision, compilation and device."
        ),
        "comparisons": (
            "A t-test between two labels on one task, on final values and on areas, whose p is the largest that any "
            "ratio of the labels' spreads gives (Welch's, made cautious for few seeds and unequal numbers); corrected "
            "for all pairs, tasks and both quantities of the report together (Holm's over pairs, Simes's for the two "
            "quantities of a pair); a winner has a corrected p below 0.05. It takes three seeds of each, "
            "none of which diverged (a mean of the others leaves failures out) or is there twice, and "
            "runs of the task that were evaluated at the same updates, or at enough of the same. "
            "The interval of a difference is the test's, so wide that 95% hold for all of the report's (Bonferroni); "
            "the correction is sharper, so that a winner's may just reach 0."
        ),
        "marks": (
            "Bold: the best mean, where it was tested; where it was not, nothing is. Dagger: not told apart from the "
            "best by the corrected test, which is not to say equal to it. Neither: below the best by that test, or not "
            "tested."
        ),
        "band": "95% percentile bootstrap interval of the mean over seeds at each point. Descriptive.",
        "aggregates": (
            "Over all tasks with the seeds of each drawn anew (stratified percentile bootstrap, 2,000 samples). IQM: "
            "mean of the middle half of all runs. Median and mean: of the tasks' means. Optimality gap: what runs lack "
            "to a score of 100, on average; less is better. Where seeds are left out of a task, it weighs no less."
        ),
        "profile": "Share of runs whose final value is above a threshold, mean over tasks.",
        "improvement": (
            "Probability that a run of the first label ends above one of the second, ties counting half; mean over "
            "tasks. Its interval is descriptive."
        ),
    }
    if report.metrics:
        found["metrics"] = (
            "Means of what an agent's updates returned since the point before, a point every --log-every updates, as "
            "metrics.csv and TensorBoard have them; curves are means over the seeds that have the metric, with "
            "the same band. Where a seed's mean is not finite, it is left out there. Seconds are interpolated between "
            "evaluations. No test is of a metric."
        )
    return found
