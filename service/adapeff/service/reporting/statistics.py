"""Summaries over seeds: n, mean and a 95 % interval, or only the values if there are too few."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MIN_FOR_INTERVAL = 3

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any table, e.g. NIST/SEMATECH e-Handbook,
# section 1.3.6.7.2); beyond, the Cornish-Fisher expansion about the normal quantile is good to 1e-4.
_T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z_95 = 1.959964
_RESAMPLES = 2000


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


def student_t_95(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    if degrees_of_freedom <= len(_T_95):
        return _T_95[degrees_of_freedom - 1]
    z, df = _Z_95, degrees_of_freedom
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


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


@dataclass(frozen=True)
class Ratio:
    """A paired ratio of two interleaved measurements, with its 95 % interval."""

    ratio: float
    low: float
    high: float
    blocks: int


def paired_ratio(of: Sequence[float], to: Sequence[float], *, seed: int = 0) -> Ratio:
    """The median over blocks of the ratio within a block, with its 95 % percentile-bootstrap interval over blocks.

    Args:
        of: one value per block.
        to: one value per block, measured within the same block.

    Raises:
        ValueError: if the blocks do not match, or there are none.
    """
    if len(of) != len(to) or not of:
        raise ValueError(f"{len(of)} and {len(to)} blocks; a paired ratio needs the same blocks, at least one")
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    low, high = medians[round(0.025 * _RESAMPLES)], medians[round(0.975 * _RESAMPLES) - 1]
    middle = statistics.median(ratios)
    return Ratio(middle, min(low, middle), max(high, middle), len(ratios))


def within_noise(score: float, baseline: float, examples: int) -> bool:
    """Whether an accuracy exceeds a baseline by no more than the 95 % binomial half-width."""
    return score - baseline <= _Z_95 * math.sqrt(max(baseline * (1 - baseline), 0.0) / examples)
