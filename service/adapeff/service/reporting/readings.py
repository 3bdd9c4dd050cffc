"""The measurements of many runs, compact and quick to look up.

Runs of one kind measure the same things, so the keys and the way to each of them are shared; a run itself holds only
its values. Without that, a report over thousands of runs would spend its time and memory on millions of objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.orm import Session

from adapeff.service.measured import Key
from adapeff.service.store import results

Where = tuple[tuple[str, str | int], ...]
"""Dimensions with the values they must have; whatever is not named may have any value."""


class Reading(NamedTuple):
    """A figure of one run, or None with the reason why there is none."""

    value: float | None
    reason: str = ""


class Layout:
    """What some runs measured, in the order they stored it."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self._by_name: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            self._by_name.setdefault(key.name, []).append(position)
        self._known: dict[tuple[str, str, Where], int | None] = {}

    def named(self, name: str) -> Sequence[int]:
        """The positions of the measurements with that name."""
        return self._by_name.get(name, ())

    def find(self, name: str, variant: str, where: Where) -> int | None:
        """The position of the first measurement with that name, variant and dimensions."""
        asked = (name, variant, where)
        if asked not in self._known:
            self._known[asked] = next(
                (
                    position
                    for position in self.named(name)
                    if self.keys[position].variant == variant
                    and all(getattr(self.keys[position], dimension) == value for dimension, value in where)
                ),
                None,
            )
        return self._known[asked]


@dataclass(frozen=True)
class Readings:
    """The measurements of one run."""

    layout: Layout
    values: tuple[float | None, ...]
    reasons: tuple[str, ...]

    def find(self, name: str, variant: str, where: Where) -> Reading | None:
        """The first measurement with that name, variant and dimensions."""
        position = self.layout.find(name, variant, where)
        return None if position is None else Reading(self.values[position], self.reasons[position])

    def named(self, name: str) -> Iterator[tuple[Key, Reading]]:
        """The measurements with that name."""
        for position in self.layout.named(name):
            yield self.layout.keys[position], Reading(self.values[position], self.reasons[position])

    def scores(self) -> dict[Key, float | None]:
        """Everything that was measured on a split of the data."""
        return {key: value for key, value in zip(self.layout.keys, self.values, strict=True) if key.split}


def load_readings(session: Session, run_ids: Sequence[int], names: Iterable[str]) -> dict[int, Readings]:
    """The measurements of each run with one of these names, and everything measured on a split of the data."""
    gathered: dict[int, tuple[list[Key], list[float | None], list[str]]] = {run_id: ([], [], []) for run_id in run_ids}
    for run_id, key, value, _, reason in results.measurement_rows(session, run_ids, names, with_scores=True):
        keys, values, reasons = gathered[run_id]
        keys.append(key)
        values.append(value)
        reasons.append(reason)
    layouts: dict[tuple[int, ...], Layout] = {}  # keys are shared between runs, so their ids tell layouts apart
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    readings = {}
    for run_id, (keys, values, reasons) in gathered.items():
        identity = tuple(map(id, keys))
        if identity not in layouts:
            layouts[identity] = Layout(tuple(keys))
        layout = layouts[identity]
        readings[run_id] = Readings(layout, tuple(values), shared.setdefault(tuple(reasons), tuple(reasons)))
    return readings
