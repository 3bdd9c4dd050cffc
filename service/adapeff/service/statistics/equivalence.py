"""Non-inferiority: whether a method is at most a margin worse than the reference."""

from __future__ import annotations

from adapeff.service.statistics.differences import Difference


def is_non_inferior(difference: Difference, margin: float) -> bool | None:
    """Whether the one-sided 95 % lower bound of the difference lies above minus the margin; None without a bound.

    The rule of non-inferiority trials (Piaggio et al. 2012, CONSORT extension for non-inferiority and equivalence).
    """
    bound = difference.lower_bound()
    return None if bound is None else bound > -margin
