"""What old tasks forget when a model learns a new one: scores after minus scores before, on the same test examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapeff.service.measurements import FORGETTING
from adapeff.service.reporting.members import BySeed, TaskRuns, languages_of, metric_of, scores_of, unit_of
from adapeff.service.reporting.runs import Result


@dataclass(frozen=True)
class Forgetting:
    """How the score of one old task changed in one language, as stored, with its 95 % interval."""

    task: str
    language: str
    is_first: bool
    """Whether it is the task's first tested language, by which reports compare."""
    metric: str
    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class MeanForgetting:
    """The mean of several tasks' changes, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


def mean_of(changes: Sequence[Forgetting]) -> MeanForgetting | None:
    """The mean over tasks; None without any, or if their scores are not all in percent.

    With one seed the changes are independent, because each task has its own test examples. Over several seeds they may
    vary together, so the interval is the widest possible: the mean of theirs.
    """
    if not changes or any(unit_of(each.metric) != "%" for each in changes):
        return None
    count = len(changes)
    value = math.fsum(each.value for each in changes) / count
    halves = [(each.high - each.low) / 2 for each in changes if each.low is not None and each.high is not None]
    if len(halves) < count:
        return MeanForgetting(value, None, None)
    half = math.hypot(*halves) / count if all(each.seeds == 1 for each in changes) else math.fsum(halves) / count
    return MeanForgetting(value, value - half, value + half)


def changes_of(
    runs: TaskRuns, extension: Result, old: int, by_seed: BySeed, bases: BySeed, *, goes_on: bool
) -> tuple[Forgetting, ...]:
    """How the scores of the old tasks changed, in every language.

    Args:
        extension: one of those that make the addition; its first members are the old tasks.
        old: their number.
        bases: the models before the addition, by seed.
        goes_on: whether the runs go on from those models, so that before and after make pairs.
    """
    return tuple(_changes(runs, extension, old, by_seed, bases, goes_on=goes_on))


def _changes(
    runs: TaskRuns, extension: Result, old: int, by_seed: BySeed, bases: BySeed, *, goes_on: bool
) -> Iterator[Forgetting]:
    for number in range(old):
        for position, language in enumerate(languages_of(extension, number)):
            name, metric = str(extension.spec.members[number].task), metric_of(extension, number)
            found = _paired(runs, by_seed, bases, name, metric, language, goes_on=goes_on) or _measured(
                by_seed, name, language
            )
            if found is not None:
                value, low, high = found
                yield Forgetting(name, language, position == 0, metric, value, low, high, len(by_seed))


def _paired(
    runs: TaskRuns, by_seed: BySeed, bases: BySeed, name: str, metric: str, language: str, *, goes_on: bool
) -> tuple[float, float | None, float | None] | None:
    """The change, from the runs before and after."""
    base = next(iter(bases.values()), None)
    if base is None:
        return None
    before = scores_of(runs, bases, metric, language, name if base.spec.members else "")
    after = scores_of(runs, by_seed, metric, language, name)
    found = after.change_from(before) if goes_on else after.minus(before)
    return None if found is None else (found.value, found.low, found.high)


def _measured(by_seed: BySeed, name: str, language: str) -> tuple[float, float | None, float | None] | None:
    """The change as extensions measured it; over several seeds without an interval."""
    measured = [
        [
            result.read(FORGETTING.name, statistic=statistic, split="test", language=language, task=name).value
            for statistic in ("", "low", "high")
        ]
        for result in by_seed.values()
    ]
    values = [value for value, _, _ in measured if value is not None]
    low, high = measured[0][1:] if len(measured) == 1 else (None, None)
    return (math.fsum(values) / len(values), low, high) if values else None
