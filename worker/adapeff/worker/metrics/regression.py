"""Scores of numbers: correlations and the mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapeff.service.plugins.contracts import Counts, Metric

Numbers = Sequence[float]


def _correlation(one: Any, other: Any) -> float:
    """Pearson's correlation; 0 where either is constant, since it is undefined there."""
    import numpy

    first, second = (values - values.mean() for values in (one, other))
    norms = [numpy.linalg.norm(centred) for centred in (first, second)]
    rounding = 1e-13
    if any(norm <= rounding * numpy.linalg.norm(v) for norm, v in zip(norms, (one, other), strict=True)):
        return 0.0
    return float(numpy.clip((first / norms[0]) @ (second / norms[1]), -1, 1))


def _pearson(gold: Numbers, predicted: Numbers) -> float:
    import numpy

    return _correlation(*(numpy.asarray(values, dtype=numpy.float64) for values in (gold, predicted)))


def _ranks(values: Numbers) -> Any:
    """Ranks from 1; equal values share the mean of theirs."""
    import numpy

    _, at, counts = numpy.unique(numpy.asarray(values), return_inverse=True, return_counts=True)
    last = numpy.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[at]


def _spearman(gold: Numbers, predicted: Numbers) -> float:
    return _correlation(_ranks(gold), _ranks(predicted))


def _squared_errors(gold: Numbers, predicted: Numbers) -> Counts:
    return [((a - b) ** 2, 1.0) for a, b in zip(gold, predicted, strict=True)]


def _mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]


_FAMILIES = ("regression",)
REGRESSION_METRICS = (
    Metric(
        "pearson",
        "Pearson's correlation, -1..1; 0 if either side is constant",
        True,
        None,
        None,
        _FAMILIES,
        unit="",
        of_answers=_pearson,
    ),
    Metric(
        "spearman",
        "Spearman's correlation of ranks, -1..1, ties with their mean rank; 0 if either side is constant",
        True,
        None,
        None,
        _FAMILIES,
        unit="",
        of_answers=_spearman,
    ),
    Metric("mse", "mean squared error", False, _squared_errors, _mean, _FAMILIES, unit=""),
)
