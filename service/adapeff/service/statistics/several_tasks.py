"""One method's scores summed up over several tasks (Agarwal et al. 2021, "Deep reinforcement learning at the edge of
the statistical precipice").

The intervals are about new seeds on these tasks, not about other tasks. The paper resamples all n seeds of a task and
takes percentiles, which are too short for the few seeds of a sweep. Here n - 1 seeds are drawn per task, which keeps
the variance of a stratified mean (McCarthy & Snowden 1985, "The bootstrap and finite population sampling"), and the
interval is Student's with the standard error of these draws. `benchmarks/statistics.py` measures how often it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy import special

_RESAMPLES = 1000


@dataclass(frozen=True)
class OverTasks:
    """A figure over several tasks with its 95 % interval over the seeds.

    `low` and `high` are None if a task has one seed, or if the seeds leave no doubt that could be measured.
    """

    value: float
    low: float | None
    high: float | None
    tasks: int


def interquartile_mean(scores: Sequence[Sequence[float]]) -> OverTasks:
    """The mean of the middle half of all runs, each task weighing the same.

    Runs at the quartiles count in part. With equally many seeds per task, and a multiple of four runs, it is the mean
    trimmed by a quarter on each side.

    Args:
        scores: for each task, one score per seed.

    Raises:
        ValueError: if there is no task, or one without scores.
    """
    tasks = _arrays(scores)
    value = float(_middle_half(tasks)[0])
    freedom = sum(task.size - 1 for task in tasks)
    if any(task.size < 2 for task in tasks):
        return OverTasks(value, None, None, len(tasks))
    draw = numpy.random.default_rng(0)
    redrawn = [task[0][_seeds(draw, task.size)] for task in tasks]
    return _with_interval(value, _middle_half(redrawn), freedom, len(tasks))


def probability_of_improvement(scores: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> OverTasks:
    """The mean over the tasks of the share of pairs of runs in which the method scores higher; ties count half.

    Args:
        scores: for each task, one score per seed.
        reference: for each of the same tasks, one score per seed; seeds are not paired.

    Raises:
        ValueError: if there is no task, one without scores, or the numbers of tasks differ.
    """
    ours, theirs = _arrays(scores), _arrays(reference)
    if len(ours) != len(theirs):
        raise ValueError(f"scores of {len(ours)} and {len(theirs)} tasks; expected the same tasks")
    wins = [(1 + numpy.sign(one.T - other)) / 2 for one, other in zip(ours, theirs, strict=True)]
    value = float(numpy.mean([of_task.mean() for of_task in wins]))
    if any(task.size < 2 for task in (*ours, *theirs)):
        return OverTasks(value, None, None, len(wins))
    draw = numpy.random.default_rng(0)
    redrawn = [
        of_task[_seeds(draw, len(of_task))[:, :, None], _seeds(draw, of_task.shape[1])[:, None, :]].mean(axis=(1, 2))
        for of_task in wins
    ]
    freedom = sum(min(of_task.shape) - 1 for of_task in wins)
    found = _with_interval(value, numpy.mean(redrawn, axis=0), freedom, len(wins))
    if found.low is None or found.high is None:
        return found
    return OverTasks(value, max(0.0, found.low), min(1.0, found.high), len(wins))


def _arrays(scores: Sequence[Sequence[float]]) -> list[numpy.ndarray]:
    if not scores or any(not len(task) for task in scores):
        raise ValueError(f"{len(scores)} tasks, {[len(task) for task in scores]} scores; each task needs a score")
    return [numpy.asarray(task, dtype=float)[None] for task in scores]


def _seeds(draw: numpy.random.Generator, seeds: int) -> numpy.ndarray:
    """Resamples x (seeds - 1) positions."""
    return draw.integers(seeds, size=(_RESAMPLES, seeds - 1))


def _middle_half(tasks: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """The interquartile mean of each row; tasks of rows x seeds."""
    values = numpy.concatenate(tasks, axis=1)
    weights = numpy.concatenate([numpy.full(task.shape[1], 1 / task.shape[1] / len(tasks)) for task in tasks])
    order = values.argsort(axis=1)
    weight = weights[order]
    above = weight.cumsum(axis=1)
    inside = (numpy.minimum(above, 0.75) - numpy.maximum(above - weight, 0.25)).clip(min=0)
    mean: numpy.ndarray = (inside * numpy.take_along_axis(values, order, axis=1)).sum(axis=1) / inside.sum(axis=1)
    return mean


def _with_interval(value: float, redrawn: numpy.ndarray, freedom: int, tasks: int) -> OverTasks:
    error = float(redrawn.std())
    if error < 1e-12 * max(1.0, abs(value)):
        return OverTasks(value, None, None, tasks)
    half = float(special.stdtrit(freedom, 0.975)) * error
    return OverTasks(value, value - half, value + half, tasks)
