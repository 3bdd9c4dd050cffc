"""How many seeds a difference would need."""

from __future__ import annotations

import math

from scipy import special

from adapeff.service.statistics.differences import Difference

MOST_SEEDS = 20
"""Beyond these many seeds, an estimate from a few is no more than a direction."""


def seeds_to_decide(difference: Difference, margin: float, *, level: float) -> int | None:
    """The number of seeds at which an undecided difference would be decided if it and its spread stay as they are.

    The smallest n at which the difference is significant, |d| >= t(1 - level / 2) SE(n), or within the margin,
    d - t(0.95) SE(n) > -margin. Of S seeds' squared standard error, the seeds' part shrinks with S / n and the test
    examples' part remains; Student's t has df (n - 1) / (S - 1) degrees of freedom. This is a plug-in estimate: the
    true difference may be half or twice the one that was seen, so the number gives a magnitude, not a promise.

    Args:
        margin: of non-inferiority, in the unit of the difference.
        level: of significance, two-sided, after any adjustment for several comparisons.

    Returns:
        `MOST_SEEDS` + 1 if more seeds than those would be needed; None if nothing is known of the variance over seeds.
    """
    total, of_seeds, seeds = difference.standard_error, difference.seed_error, difference.seeds
    if total is None or of_seeds is None or not 2 <= seeds < MOST_SEEDS:
        return None
    remains = max(0.0, total**2 - of_seeds**2)
    for count in range(seeds + 1, MOST_SEEDS + 1):
        error = math.sqrt(of_seeds**2 * seeds / count + remains)
        freedom = difference.degrees_of_freedom * (count - 1) / (seeds - 1)
        is_significant = abs(difference.value) >= float(special.stdtrit(freedom, 1 - level / 2)) * error
        is_within = difference.value - float(special.stdtrit(freedom, 0.95)) * error > -margin
        if is_significant or is_within:
            return count
    return MOST_SEEDS + 1
