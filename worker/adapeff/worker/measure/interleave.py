"""Measure several things by turns in one process, so that what disturbs the machine disturbs them alike.

Speeds of one machine drift by more than methods differ; what stands beside each other within a block does not. Each
block gives every candidate one turn, in an order drawn anew; ratios are taken within blocks.
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
"""A turn of so many repetitions or more is preceded by one that is not kept: the caches are the last candidate's."""
MAX_REPETITIONS = 1000

Take = Callable[[int], list[_T]]
"""Does a thing so many times and gives a sample of each."""


def interleave(
    candidates: Mapping[str, Take[_T]],
    *,
    blocks: int,
    turn_seconds: float,
    seed: int,
    repetitions: int | None = None,
    progress: Callable[[int, float], None] = lambda block, eta: None,
) -> dict[str, list[list[_T]]]:
    """Samples of each candidate: per block one list.

    Args:
        turn_seconds: least time of a turn; the repetitions that fill it are fixed after the warm-up.
        repetitions: how many fill a turn, if that is known; there is no warm-up then.
        progress: is told the blocks done and the seconds still expected.
    """
    counts = {name: repetitions or _repetitions(take, turn_seconds) for name, take in candidates.items()}
    found: dict[str, list[list[_T]]] = {name: [] for name in candidates}
    draw = random.Random(seed)
    order = list(candidates)
    began = time.perf_counter()
    for block in range(1, blocks + 1):
        draw.shuffle(order)
        for name in order:
            if counts[name] >= SETTLE_FROM:
                candidates[name](1)
            found[name].append(candidates[name](counts[name]))
        progress(block, (time.perf_counter() - began) / block * (blocks - block))
    return found


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
