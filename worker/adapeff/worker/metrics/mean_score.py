"""The headline of a mixture of tasks: the mean of its tasks' own headline scores."""

from __future__ import annotations

from statistics import fmean

from adapeff.service.plugins.contracts import Metric

MEAN_SCORE = Metric(
    "mean_score",
    "mean over the tasks of a mixture of the headline score of each",
    True,
    None,
    None,
    (),
    of_answers=lambda _, scores: fmean(scores),
)
"""What it is given as answers are the scores of the tasks."""
