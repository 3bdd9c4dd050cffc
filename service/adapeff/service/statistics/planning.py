"""How many seeds a difference would need."""

from __future__ import annotations

import math

from scipy import special

from adapeff.service.statistics.differences import Comparison, Difference

MOST_SEEDS = 20
"""Beyond these many seeds, an estimate from a few is no more than a direction."""


def seeds_to_decide(found: Comparison, margin: float, *, level: float) -> int | None:
    """The number of seeds at which an undecided difference would be decided if it and its spread stay as they are.

    The smallest n at which the test is significant, |d| >= t(1 - level / 2) SE(n), or the difference within the margin,
    d - t(0.95) SE(n) > -margin. Of S seeds' squared standard error, the seeds' part shrinks with S / n and the test
    examples' part remains; Student's t has df (n - 1) / (S - 1) degrees of freedom. This is a plug-in estimate: the
    true difference may be half or twice the one that was seen, so the number gives a magnitude, not a promise.

    Args:
        margin: of non-inferiority, in the unit of the difference.
        level: of significance, two-sided, after any adjustment for several comparisons.

    Returns:
        `MOST_SEEDS` + 1 if more seeds than those would be needed; None if nothing is known of the variance over seeds.
    """
    value, seeds = found.difference.value, found.difference.seeds
    if not 2 <= seeds < MOST_SEEDS:
        return None
    for count in range(seeds + 1, MOST_SEEDS + 1):
        reach = _reach(found.test, count, 1 - level / 2)
        below = _reach(found.difference, count, 0.95)
        if reach is None or below is None:
            return None
        if abs(value) >= reach or value - below > -margin:
            return count
    return MOST_SEEDS + 1


def _reach(difference: Difference, seeds: int, confidence: float) -> float | None:
    """How far the bound of a difference would lie from it with this many seeds."""
    if difference.standard_error is None or difference.seed_error is None:
        return None
    of_seeds = difference.seed_error**2
    remains = max(0.0, difference.standard_error**2 - of_seeds)
    freedom = difference.degrees_of_freedom * (seeds - 1) / (difference.seeds - 1)
    return float(special.stdtrit(freedom, confidence)) * math.sqrt(of_seeds * difference.seeds / seeds + remains)
