"""Select training examples and group them into batches of similar length, which wastes little on padding."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from adapeff.service.errors import DataError
from adapeff.service.specs.job import AtMost
from adapeff.worker.families.base import Family
from adapeff.worker.families.encoding import Batch, Encoded, collate

_POOL = 50
"""Batches per pool sorted by length: enough to save padding, few enough to keep the order random."""


def subset(examples: Sequence[Any], size: int | AtMost | None, family: Family) -> list[Any]:
    """Select `size` examples for a learning curve, in file order; all for None or if an `at_most` exceeds their number.

    Stratified: each stratum (label or entity types) keeps its share of the data, within one example. Nested: every
    larger subset contains the smaller ones. The draw is the same for every method and seed.

    Raises:
        DataError: if there are fewer examples.
    """
    if isinstance(size, AtMost):
        size = size.at_most if size.at_most < len(examples) else None
    if size is None:
        return list(examples)
    if size > len(examples):
        raise DataError(
            f"train_size is {size}, but there are {len(examples)} training examples; lower it, set it to all, "
            f"or to {{at_most: {size}}}"
        )
    strata: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples):
        strata.setdefault(family.stratum(example), []).append(index)
    draw = random.Random("train_size")
    ranked = []
    for members in strata.values():
        draw.shuffle(members)
        # the n-th member of a stratum of size s ranks at (n + 1/2) / s, which spreads each stratum evenly
        ranked += [((at + 0.5) / len(members), draw.random(), index) for at, index in enumerate(members)]
    return [examples[index] for index in sorted(index for _, _, index in sorted(ranked)[:size])]


def epoch_order(
    data: Encoded, *, batch_size: int, batch_tokens: int | None = None, seed: int, epoch: int
) -> list[list[int]]:
    """Return the batches of one epoch as item indices: every item once, in an order that depends only on the seed.

    The items are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled.

    Args:
        batch_tokens: token budget per batch, padding included; if set, it replaces `batch_size`.
    """
    draw = random.Random(f"{seed} {epoch}")
    order = list(range(len(data)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    pool = _POOL * (batch_size if batch_tokens is None else max(1, batch_tokens * len(data) // max(1, data.tokens)))
    for start in range(0, len(order), pool):
        chosen = sorted(order[start : start + pool], key=data.lengths.__getitem__)
        batches += _cut(chosen, batch_size) if batch_tokens is None else _fill(chosen, data, batch_tokens)
    draw.shuffle(batches)
    return batches


def _cut(chosen: list[int], batch_size: int) -> list[list[int]]:
    return [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]


def _fill(chosen: list[int], data: Encoded, batch_tokens: int) -> list[list[int]]:
    """Fill batches in order of length; an item that alone exceeds the budget gets a separate batch."""
    batches: list[list[int]] = []
    rows = 0
    for index in chosen:
        rows += data.row_counts[index]
        if not batches or rows * data.lengths[index] > batch_tokens:
            batches.append([])
            rows = data.row_counts[index]
        batches[-1].append(index)
    return batches


def training_batches(
    data: Encoded, *, batch_size: int, batch_tokens: int | None = None, seed: int, multiple: int = 1
) -> Iterator[Batch]:
    """Yield batches endlessly, epoch after epoch, padded to a multiple of `multiple` where possible."""
    epoch = 0
    while True:
        for indices in epoch_order(data, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, epoch=epoch):
            yield collate(data, indices, multiple=multiple)
        epoch += 1


def steps_per_epoch(data: Encoded, *, batch_size: int, batch_tokens: int | None = None, seed: int) -> int:
    """Count the batches in the first epoch: ceil(items / batch size), or what the token budget yields."""
    if batch_tokens is None:
        return -(-len(data) // batch_size)
    return len(epoch_order(data, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, epoch=0))
