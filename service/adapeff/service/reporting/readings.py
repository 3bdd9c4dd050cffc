"""The measurements of many runs, compact and quick to look up.

Runs of one kind measure the same figures, so they share their keys and the index of them; each run keeps only its
values. Otherwise, a report over thousands of runs would spend its time and memory on millions of objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.orm import Session

from adapeff.service.measured import Key
from adapeff.service.store import results

Where = tuple[tuple[str, str | int], ...]
"""Dimensions with the values they must have; all other dimensions may have any value."""


class Reading(NamedTuple):
    """A figure of one run, or None with the reason why it is missing."""

    value: float | None
    reason: str = ""


class Layout:
    """The keys that a group of runs measured, in the order they were stored, with an index by name."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.members = tuple(dict.fromkeys(key.task for key in keys if key.task))
        self._by_name: dict[tuple[str, str], list[int]] = {}
        for position, key in enumerate(keys):
            self._by_name.setdefault((key.name, key.task), []).append(position)
        self._positions: dict[tuple[str, str, str, Where], int | None] = {}

    def named(self, name: str, task: str = "") -> Sequence[int]:
        """The positions of the measurements with that name."""
        return self._by_name.get((name, task), ())

    def find(self, name: str, variant: str, where: Where, task: str = "") -> int | None:
        """The position of the first measurement with that name, variant and dimensions."""
        query = (name, task, variant, where)
        if query not in self._positions:
            self._positions[query] = next(
                (
                    position
                    for position in self.named(name, task)
                    if self.keys[position].variant == variant
                    and all(getattr(self.keys[position], dimension) == value for dimension, value in where)
                ),
                None,
            )
        return self._positions[query]


@dataclass(frozen=True)
class Readings:
    """The measurements of one run; those of the whole job, unless a member of a mixture is named as `task`."""

    layout: Layout
    values: tuple[float | None, ...]
    reasons: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """The members of a mixture with measurements of their own, in the order they were measured."""
        return self.layout.members

    def find(self, name: str, variant: str, where: Where, task: str = "") -> Reading | None:
        """The first measurement with that name, variant and dimensions."""
        position = self.layout.find(name, variant, where, task)
        return None if position is None else Reading(self.values[position], self.reasons[position])

    def named(self, name: str, task: str = "") -> Iterator[tuple[Key, Reading]]:
        """The measurements with that name."""
        for position in self.layout.named(name, task):
            yield self.layout.keys[position], Reading(self.values[position], self.reasons[position])

    def scores(self) -> dict[Key, float | None]:
        """The measurements of the whole job on a split of the data."""
        measured = zip(self.layout.keys, self.values, strict=True)
        return {key: value for key, value in measured if key.split and not key.task}


def load_readings(session: Session, run_ids: Sequence[int], names: Iterable[str]) -> dict[int, Readings]:
    """Load each run's measurements with one of these names, and all its measurements on a split of the data."""
    gathered: dict[int, tuple[list[Key], list[float | None], list[str]]] = {run_id: ([], [], []) for run_id in run_ids}
    for run_id, key, value, _, reason in results.measurement_rows(session, run_ids, names, with_scores=True):
        keys, values, reasons = gathered[run_id]
        keys.append(key)
        values.append(value)
        reasons.append(reason)
    layouts: dict[tuple[int, ...], Layout] = {}  # keys are shared between runs, so their ids tell layouts apart
    shared_reasons: dict[tuple[str, ...], tuple[str, ...]] = {}
    readings = {}
    for run_id, (keys, values, reasons) in gathered.items():
        identity = tuple(map(id, keys))
        if identity not in layouts:
            layouts[identity] = Layout(tuple(keys))
        layout = layouts[identity]
        reasons_once = shared_reasons.setdefault(tuple(reasons), tuple(reasons))
        readings[run_id] = Readings(layout, tuple(values), reasons_once)
    return readings
