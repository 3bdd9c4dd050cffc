"""Mix the batches of several tasks: each step takes a batch of one task, in an order that depends only on the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from adapeff.worker.families.encoding import Batch


def member_order(shares: Sequence[float], *, steps: int, seed: int) -> Iterator[int]:
    """Yield the task of each step, endlessly.

    A task is never a whole step ahead of its share, so where the shares of a pass are whole numbers of steps, as under
    proportional sampling, it gets exactly those: each of its batches once. The order within a pass is shuffled.

    Args:
        shares: of the tasks; they sum to 1.
        steps: of a pass.
    """
    due, number = [0.0] * len(shares), 0
    while True:
        number += 1
        order = []
        for _ in range(steps):
            due = [behind + share for behind, share in zip(due, shares, strict=True)]
            order.append(max(range(len(due)), key=due.__getitem__))
            due[order[-1]] -= 1.0
        random.Random(f"{seed} mixture {number}").shuffle(order)
        yield from order


def mixed(streams: Sequence[Iterator[Batch]], order: Iterator[int]) -> Iterator[Batch]:
    """Take the next batch of the task whose turn it is."""
    for member in order:
        yield replace(next(streams[member]), member=member)
