"""A metric's score by test example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from adapeff.service.plugins.contracts import Metric
from adapeff.service.statistics.pseudo_values import pseudo_values, pseudo_values_of


def score_examples(metric: Metric, gold: Sequence[Any], predicted: Sequence[Any]) -> numpy.ndarray:
    """One number per example, or per group of consecutive examples, whose mean is the score.

    Raises:
        ValueError: if the answers differ in number or are none.
    """
    if metric.counts is None or metric.score is None:
        return pseudo_values_of(gold, predicted, metric.compute)
    counts = numpy.asarray(metric.counts(gold, predicted), dtype=numpy.float64)
    return pseudo_values(counts, metric.score)
