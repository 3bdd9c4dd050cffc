"""Scores by example: jackknife pseudo-values, whose mean is the score of all examples.

The pseudo-value of an example is E x theta - (E - 1) x theta without it, for E examples with the score theta (Efron &
Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11). For a share of correct answers they are 0 and 1; for
scores such as F1 they make a paired comparison by example possible. Their mean differs from the score by the
jackknife's estimate of bias, which is of order 1/E; it is removed, so that the means are the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy

GROUPS = 200
"""Groups left out one at a time for scores that have to be computed from all answers."""


def pseudo_values(counts: numpy.ndarray, score: Callable[[Sequence[float]], float]) -> numpy.ndarray:
    """The pseudo-values of a score that is a function of sums.

    Args:
        counts: examples x numbers.
        score: the score from the sums of the numbers.

    Returns:
        One value per example.
    """
    count, total = len(counts), counts.sum(axis=0)
    whole = score(total.tolist())
    if count == 1:
        return numpy.array([whole])
    kinds, kind_of = numpy.unique(counts, axis=0, return_inverse=True)  # equal examples have equal values
    without = numpy.array([score((total - kind).tolist()) for kind in kinds])
    return _centred((count * whole - (count - 1) * without)[kind_of.reshape(-1)], whole)


def pseudo_values_of(
    gold: Sequence[Any],
    predicted: Sequence[Any],
    compute: Callable[[Sequence[Any], Sequence[Any]], float],
    *,
    groups: int = GROUPS,
) -> numpy.ndarray:
    """The pseudo-values of any score, by leaving out one group of examples at a time.

    Groups are consecutive, so that those of two sets of answers to the same examples are pairs.

    Returns:
        One value per group; per example if there are at most `groups` examples.
    """
    whole, count = compute(gold, predicted), len(gold)
    bounds = numpy.linspace(0, count, min(groups, count) + 1).astype(int)
    if len(bounds) == 2:
        return numpy.array([whole])
    without = [
        compute([*gold[:start], *gold[end:]], [*predicted[:start], *predicted[end:]]) for start, end in pairwise(bounds)
    ]
    parts = len(without)
    return _centred(parts * whole - (parts - 1) * numpy.array(without), whole)


def _centred(values: numpy.ndarray, mean: float) -> numpy.ndarray:
    moved: numpy.ndarray = values + (mean - values.mean())
    return moved
