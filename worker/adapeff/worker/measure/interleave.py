"""Measure several candidates interleaved in one process, so that disturbances affect them equally.

A machine's speed drifts by more than methods differ, but hardly within a block. Each block gives every candidate one
turn, in a newly drawn order; ratios are taken within blocks.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

_T = TypeVar("_T")

WARMUP_TURNS = 2
SETTLE_FROM = 4
"""Turns with at least this many repetitions discard the first: the caches still contain the last candidate's data."""
MAX_REPETITIONS = 1000

Take = Callable[[int], list[_T]]
"""Repeats an action a given number of times and returns one sample per repetition."""


def interleave(
    candidates: Mapping[str, Take[_T]],
    *,
    blocks: int,
    turn_seconds: float,
    seed: int,
    repetitions: int | None = None,
    progress: Callable[[int, float], None] = lambda block, eta: None,
) -> dict[str, list[list[_T]]]:
    """Samples of each candidate, one list per block.

    Args:
        turn_seconds: minimum time of a turn; the repetitions that fill it are fixed after the warm-up.
        repetitions: number per turn, if known; the warm-up is then skipped.
        progress: receives the number of finished blocks and the estimated seconds left.
    """
    counts = {name: repetitions or _repetitions(take, turn_seconds) for name, take in candidates.items()}
    samples: dict[str, list[list[_T]]] = {name: [] for name in candidates}
    shuffler = random.Random(seed)
    order = list(candidates)
    began = time.perf_counter()
    for block in range(1, blocks + 1):
        shuffler.shuffle(order)
        for name in order:
            if counts[name] >= SETTLE_FROM:
                candidates[name](1)
            samples[name].append(candidates[name](counts[name]))
        progress(block, (time.perf_counter() - began) / block * (blocks - block))
    return samples


def _repetitions(take: Take[_T], turn_seconds: float) -> int:
    times = []
    for _ in range(WARMUP_TURNS):
        start = time.perf_counter()
        take(1)
        times.append(time.perf_counter() - start)
    return min(MAX_REPETITIONS, max(1, round(turn_seconds / min(times))))


def per_block(samples: list[list[float]]) -> list[float]:
    """One value per block: the median of its samples."""
    return [statistics.median(block) for block in samples]
