"""Jobs that ran more than once: whether their scores are equal, and how much their costs differ."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapeff.service.reporting.columns import Column
from adapeff.service.reporting.runs import Result


@dataclass(frozen=True)
class Spread:
    """The values of one figure, from the first run to the last."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the values."""
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
    """A job that ran several times under the same conditions."""

    method: str
    """The method with its parameters, such as `lora[rank=8]`."""
    seed: int
    runs: int
    scores: int
    """The number of scores of each run: one per metric, split, language and inference variant."""
    unequal_scores: int
    """The number of scores that are not bit-identical in all runs."""
    spreads: dict[str, Spread]
    """By column key."""


def find_reruns(results: Sequence[Result], columns: Sequence[Column]) -> tuple[Rerun, ...]:
    """The jobs among results of one model and task that ran more than once."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in _with_repeats(results):
        same_job = result.spec.model_copy(update={"repeat": 0}).job_hash
        groups.setdefault((same_job, result.run.likeness), []).append(result)
    return tuple(_rerun(group, columns) for group in groups.values() if len(group) > 1)


def _with_repeats(results: Sequence[Result]) -> list[Result]:
    """The results whose training ran more than once: only for these is it worth hashing the whole specification."""
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
