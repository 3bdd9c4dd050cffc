"""Several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values in the same order; None stays None and is not counted.

    The i-th smallest of m is multiplied by m - i + 1, and no adjusted value is below that of a smaller one
    (Holm 1979, "A simple sequentially rejective multiple test procedure").
    """
    tested = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, at) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        adjusted[at] = running
    return adjusted
