"""Summaries over seeds: n, mean and a 95 % interval, or only the values if there are too few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

MIN_FOR_INTERVAL = 3

_Z_95 = float(special.ndtri(0.975))


@dataclass(frozen=True)
class Summary:
    """A summary of several values of one quantity; `low` and `high` are None for fewer than 3 values."""

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)


def summarise(values: Sequence[float]) -> Summary:
    """Compute n, the mean and Student's 95 % interval of the mean.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("no values to summarise")
    n = len(values)
    mean = math.fsum(values) / n
    mean = min(max(mean, min(values)), max(values))  # rounding must not put a mean outside its values
    if n < MIN_FOR_INTERVAL:
        return Summary(tuple(values), mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_t_95(n - 1) * deviation / math.sqrt(n)
    return Summary(tuple(values), mean, mean - half, mean + half)


def student_t_95(degrees_of_freedom: float) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(special.stdtrit(degrees_of_freedom, 0.975))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A distribution-free 95 % interval of the median: order statistics, ranks by the normal approximation.

    Ranks n/2 -+ 1.96 sqrt(n)/2 (any text on non-parametric statistics, e.g. Conover 1999, section 3.2); for fewer than
    6 values there is no such interval, and the extremes are returned.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("no values to compute an interval of")
    ordered, n = sorted(values), len(values)
    reach = _Z_95 * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach)
    return ordered[max(0, low - 1)], ordered[min(n - 1, high)]


def within_noise(score: float, baseline: float, examples: int) -> bool:
    """Whether an accuracy exceeds a baseline by no more than the 95 % binomial half-width."""
    return score - baseline <= _Z_95 * math.sqrt(max(baseline * (1 - baseline), 0.0) / examples)
