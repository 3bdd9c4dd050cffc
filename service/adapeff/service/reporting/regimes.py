"""What limits a shape on a device: starting the kernels, or computing.

Where the host starts kernels more slowly than the device finishes them, a larger batch takes no longer. So the growth
of the reference's forward pass from one measured batch to the next, at equal length, tells the regimes apart: its
exponent is 0 in the first and 1 in the second.
"""

from __future__ import annotations

import math
from typing import Literal

from adapeff.service.reporting.profiles import ProfileTable

Regime = Literal["launch-bound", "compute-bound", "between", "unknown"]
LAUNCH_BOUND = 0.1
"""The largest exponent of launch-bound shapes: 32 times the batch in less than 1.42 times the time."""
COMPUTE_BOUND = 0.5
"""The smallest exponent of compute-bound shapes: 32 times the batch in more than 5.7 times the time."""


def regime_of(profile: ProfileTable, shape: str) -> Regime:
    """The regime at a shape, by the step from the next smaller batch, or for the smallest to the next larger one.

    Args:
        shape: batch x tokens, such as 32x64; unknown if the profile has no latency of it and one more batch.
    """
    if "x" not in shape:
        return "unknown"
    batch, length = map(int, shape.split("x"))
    times = _reference_times(profile, length)
    if batch not in times or len(times) < 2:
        return "unknown"
    batches = sorted(times)
    larger = max(1, batches.index(batch))
    low, high = batches[larger - 1], batches[larger]
    exponent = math.log(times[high] / times[low]) / math.log(high / low)
    if exponent <= LAUNCH_BOUND:
        return "launch-bound"
    return "compute-bound" if exponent >= COMPUTE_BOUND else "between"


def _reference_times(profile: ProfileTable, length: int) -> dict[int, float]:
    """Batch -> the reference's median seconds of a forward pass at a length."""
    row = next((row for row in profile.latency if row.label == profile.reference), None)
    times = {}
    for column, figure in row.figures.items() if row else ():
        if column.endswith(f"x{length}") and figure.value:
            times[int(column.split("x")[0])] = figure.value
    return times
