"""Paired ratios of interleaved measurements."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 2000


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


def quotient_of_ratios(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """The first ratio over the second, with an interval from both intervals (MOVER on the log scale).

    Two ratios to one reference err alike, so for them the interval is rather too wide. Donner & Zou 2012, "Closed-form
    confidence intervals for functions of the normal mean and standard deviation", section 2.

    Args:
        first: the ratio and the limits of its interval, all positive.
        second: likewise.
    """
    (value, low, high), (other, other_low, other_high) = (map(math.log, each) for each in (first, second))
    quotient = value - other
    below, above = math.hypot(value - low, other_high - other), math.hypot(high - value, other - other_low)
    return math.exp(quotient), math.exp(quotient - below), math.exp(quotient + above)
