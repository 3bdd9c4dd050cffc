"""The same job run more than once: whether the scores are equal, and how much the costs differ."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapeff.service.reporting.columns import Column
from adapeff.service.reporting.runs import Result


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
    """A job that ran several times under like conditions."""

    method: str
    """As its plug-in is written."""
    seed: int
    runs: int
    scores: int
    """How many scores each run has: every metric, split, language and inference variant."""
    unequal_scores: int
    """How many of them are not equal to the last bit in all runs."""
    spreads: dict[str, Spread]
    """By the key of a column."""


def find_reruns(results: Sequence[Result], columns: Sequence[Column]) -> tuple[Rerun, ...]:
    """The jobs among results of one model and task that ran more than once."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in _with_repeats(results):
        same_job = result.spec.model_copy(update={"repeat": 0}).job_hash
        groups.setdefault((same_job, result.run.likeness), []).append(result)
    return tuple(_rerun(group, columns) for group in groups.values() if len(group) > 1)


def _with_repeats(results: Sequence[Result]) -> list[Result]:
    """Those whose training ran more than once; hashing a whole specification is worth it for these alone."""
    counts = Counter(result.run.train_hash for result in results)
    return [result for result in results if counts[result.run.train_hash] > 1]


def _rerun(group: Sequence[Result], columns: Sequence[Column]) -> Rerun:
    first, *others = (result.run.readings.scores() for result in group)
    spreads = {}
    for column in columns:
        values = [column.read(result).value for result in group]
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
