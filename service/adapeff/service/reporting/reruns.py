"""The same job done more than once: whether the scores are equal, and how far the costs lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from adapeff.service.reporting.columns import Column, figure
from adapeff.service.reporting.runs import Result, likeness


@dataclass(frozen=True)
class Spread:
    """Values of one figure, first run to last."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def relative(self) -> float | None:
        """The range over the median; None where the median is 0 and the values are not."""
        extent = max(self.values) - min(self.values)
        if self.median:
            return extent / abs(self.median)
        return None if extent else 0.0


@dataclass(frozen=True)
class Rerun:
    """A job that was done several times under like conditions."""

    method: str
    """As its plug-in is written."""
    seed: int
    runs: int
    scores: int
    """How many scores each run has: every metric, split, language and way of serving."""
    unequal_scores: int
    """How many of them are not equal to the last bit in all runs."""
    spreads: dict[str, Spread]
    """By the key of a column."""


def find_reruns(found: Sequence[Result], columns: Sequence[Column], metric: str, source: str) -> tuple[Rerun, ...]:
    """What was done more than once among results of one model and task.

    Args:
        metric: as in `choose_columns`.
        source: as in `choose_columns`.
    """
    groups: dict[str, list[Result]] = {}
    for result in found:
        same = result.spec.model_copy(update={"repeat": 0}).job_hash
        groups.setdefault(f"{same} {likeness(result)!r}", []).append(result)
    return tuple(_rerun(group, columns, metric, source) for group in groups.values() if len(group) > 1)


def _rerun(group: Sequence[Result], columns: Sequence[Column], metric: str, source: str) -> Rerun:
    first, *others = (
        {(m.name, m.split, m.language, m.variant): m.value for m in result.measurements if m.split} for result in group
    )
    spreads = {}
    for column in columns:
        values = [figure(result, column.key, metric, source)[0] for result in group]
        present = tuple(value for value in values if value is not None)
        if present and len(present) == len(values):
            spreads[column.key] = Spread(present)
    return Rerun(
        method=str(group[0].spec.method),
        seed=group[0].spec.seed,
        runs=len(group),
        scores=len(first),
        unequal_scores=sum(any(other.get(key) != value for other in others) for key, value in first.items()),
        spreads=spreads,
    )
