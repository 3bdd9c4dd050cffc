"""Which examples are held out of train, and how one file of everything is dealt out, the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from adapeff.service.errors import DataError
from adapeff.service.plugins.contracts import Split

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 1000


def held_out(name: str, groups: Sequence[Any], *, column: str | None, seed: str) -> set[int]:
    """A tenth of the training examples, at most 1,000; whole groups where there are groups.

    Args:
        name: the data set's.
        groups: what each example must stay together with; None if there are no groups.
        column: the column of the groups.

    Raises:
        DataError: if there is nothing to hold out.
    """
    size = len(groups)
    if size < 2:
        raise DataError(f"'{name}' has {size} training example, none can be held out for selection; add some")
    wanted = max(1, min(HELD_OUT_MOST, round(HELD_OUT_SHARE * size)))
    draw = random.Random(seed)
    if groups[0] is None:
        return set(draw.sample(range(size), wanted))
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        raise DataError(
            f"'{name}' has no two different values of '{column}', so nothing can be held out for "
            "selection; add a validation file, or name another column as group"
        )
    order = list(members)
    draw.shuffle(order)
    chosen: set[int] = set()
    for group in order[:-1]:
        if len(chosen) >= wanted:
            break
        chosen |= set(members[group])
    return chosen


def dealt_out(
    examples: Sequence[tuple[Any, Any]], shares: Mapping[Split, float], dealt_by: Callable[[Any], Hashable]
) -> dict[str, set[int]]:
    """Split -> the examples of one file that serve as it.

    Whole groups are dealt out, those of each label separately, to whichever split is furthest behind its share.

    Args:
        examples: each with the group it must stay together with, or None.
        shares: of validation and test; the rest is train.
        dealt_by: gives an example's label.
    """
    groups: dict[Any, list[int]] = {}
    for index, (_, group) in enumerate(examples):
        groups.setdefault(index if group is None else ("group", group), []).append(index)
    by_label: dict[Any, list[list[int]]] = {}
    for members in groups.values():
        by_label.setdefault(dealt_by(examples[members[0]][0]), []).append(members)
    wanted = {"train": 1 - sum(shares.values()), **shares}
    draw = random.Random("split")
    dealt: dict[str, set[int]] = {name: set() for name in wanted}
    for label in sorted(by_label, key=str):
        of_label = by_label[label]
        draw.shuffle(of_label)
        had = dict.fromkeys(wanted, 0)
        for number, members in enumerate(of_label, start=1):
            behind = max(wanted, key=lambda name: wanted[name] * number - had[name])
            had[behind] += 1
            dealt[behind].update(members)
    return dealt
