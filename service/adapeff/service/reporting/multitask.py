"""Mixtures against their tasks alone: quality per task, and what training costs to equal steps and to targets.

The study's multi-task model is `full` on a mixture. Here every method's mixture is compared with the runs of the same
method on each task alone, and with `full` on each task alone, over the seeds that both have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.convergence import Curves, best_score
from adapeff.service.reporting.members import (
    FULL,
    NOTHING,
    BySeed,
    Cost,
    Place,
    Scores,
    TaskRuns,
    cost_of,
    frozen_bytes,
    languages_of,
    metric_of,
    plus,
    scores_of,
    stored_bytes,
)
from adapeff.service.reporting.row_keys import ByRow, row_key, row_names
from adapeff.service.reporting.titles import title_ending
from adapeff.service.reporting.variation import varying_keys
from adapeff.service.statistics.differences import Difference

if TYPE_CHECKING:
    from adapeff.service.reporting.runs import Result

TARGETS = (0.95, 0.98, 0.99)
"""Shares of the best validation score of `full` on each task alone, which every task has to reach."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class MemberQuality:
    """A task of a mixture in one language: its scores in the mixture and alone, as shares."""

    task: str
    metric: str
    language: str
    is_first: bool
    """Whether it is the first tested language of the task, by which reports compare."""
    mixture: Scores
    alone: Scores
    """The same method on the task alone."""
    full: Scores
    """Full fine-tuning on the task alone."""
    to_alone: Difference | None
    to_full: Difference | None


@dataclass(frozen=True)
class ToTarget:
    """What it costs until every task reaches a share of `full`'s best validation score: means over seeds."""

    share: float
    mixture: Cost | None
    """None if no seed gets there."""
    reached: int
    alone: Cost | None
    """The sum over the tasks, each trained alone by the same method; None if any seed never gets there, or was not run.
    """


@dataclass(frozen=True)
class MixtureComparison:
    """One method on a mixture, compared with its tasks alone."""

    model: str
    title: str
    place: Place
    method: str
    """As tables call it, with its learning rate if there are several."""
    plugin: PluginReference
    device: str
    seeds: tuple[int, ...]
    tasks: tuple[MemberQuality, ...]
    """In every tested language, those of one task together."""
    cost: Cost
    alone: Cost | None
    """The sum over the tasks, each trained alone by the same method; None if some were not run."""
    stored: float | None
    """Bytes to keep for all tasks, the weights that the method leaves alone included once."""
    stored_alone: float | None
    """The same of a model or adapter for each task."""
    targets: tuple[ToTarget, ...]


def compare_mixtures(runs: TaskRuns) -> tuple[MixtureComparison, ...]:
    """Compare each mixture of the report with its tasks alone.

    Mixtures that were trained for extensions only are left out.
    """
    places: dict[Place, ByRow] = {}
    for (place, _), by_seed in runs.mixtures.items():
        if not any(map(runs.is_for_extensions, by_seed.values())):
            places.setdefault(place, {})[row_key(_first(by_seed), ())] = dict(by_seed)
    found: list[MixtureComparison] = []
    for place, rows in places.items():
        first = _first(next(iter(rows.values())))
        same = [of_place for (title, _), of_place in places.items() if title == place.title]
        varied = varying_keys(_first(by_seed).run.settings for of_place in same for by_seed in of_place.values())
        title = f"{place.title}{title_ending(first, varied)}"
        names = row_names(rows)
        found += [_compare(runs, place, title, names[key], by_seed) for key, by_seed in rows.items()]
    return tuple(found)


def _first(by_seed: BySeed) -> Result:
    return next(iter(by_seed.values()))


def _compare(runs: TaskRuns, place: Place, title: str, method: str, by_seed: BySeed) -> MixtureComparison:
    first = _first(by_seed)
    spec, members = first.spec, range(len(first.spec.members))
    alone = [runs.of_member(first, number, str(spec.method)) for number in members]
    full = [runs.of_member(first, number, FULL) for number in members]
    stored = [stored_bytes(of_task.values()) for of_task in alone]
    return MixtureComparison(
        model=str(spec.model),
        title=title,
        place=place,
        method=method,
        plugin=spec.method,
        device=f"{first.run.environment.get('device_name')} {first.run.environment.get('precision')}",
        seeds=tuple(sorted(by_seed)),
        tasks=tuple(
            quality for number in members for quality in _qualities(runs, by_seed, number, alone[number], full[number])
        ),
        cost=cost_of(by_seed.values()),
        alone=sum((cost_of(of_task.values()) for of_task in alone), NOTHING) if all(alone) else None,
        stored=plus(stored_bytes(by_seed.values()), frozen_bytes(first)),
        stored_alone=reduce(plus, stored, frozen_bytes(_first(alone[0]))) if all(alone) else None,
        targets=tuple(_to_target(runs, by_seed, alone, full, share) for share in TARGETS) if all(full) else (),
    )


def _qualities(runs: TaskRuns, by_seed: BySeed, number: int, alone: BySeed, full: BySeed) -> Iterator[MemberQuality]:
    first = _first(by_seed)
    name, metric = str(first.spec.members[number].task), metric_of(first, number)
    for position, language in enumerate(languages_of(first, number)):
        mixture = scores_of(runs, by_seed, metric, language, name)
        of_alone, of_full = (scores_of(runs, group, metric, language) for group in (alone, full))
        yield MemberQuality(
            task=name,
            metric=metric,
            language=language,
            is_first=position == 0,
            mixture=mixture,
            alone=of_alone,
            full=of_full,
            to_alone=mixture.minus(of_alone),
            to_full=mixture.minus(of_full),
        )


def _to_target(
    runs: TaskRuns, by_seed: BySeed, alone: Sequence[BySeed], full: Sequence[BySeed], share: float
) -> ToTarget:
    members = _first(by_seed).spec.members
    metrics = [metric_of(_first(by_seed), number) for number in range(len(members))]
    targets = [_target(of_task, metric, share) for of_task, metric in zip(full, metrics, strict=True)]
    reached = []
    for result in by_seed.values():
        curves = [runs.curves.get((result.run.run_id, str(member.task)), {}) for member in members]
        of_job = runs.curves.get((result.run.run_id, ""), {})
        reached.append(_when_all_reach(of_job, curves, metrics, targets))
    by_task = [
        [_when_all_reach(result.run.curves, [result.run.curves], [metric], [target]) for result in of_task.values()]
        for metric, target, of_task in zip(metrics, targets, alone, strict=True)
    ]
    costs = [_mean([cost for cost in of_task if cost is not None]) for of_task in by_task if None not in of_task]
    complete = [cost for cost in costs if cost is not None]
    return ToTarget(
        share=share,
        mixture=_mean([cost for cost in reached if cost is not None]),
        reached=sum(cost is not None for cost in reached),
        alone=sum(complete, NOTHING) if len(complete) == len(alone) else None,
    )


def _target(full: BySeed, metric: str, share: float) -> float:
    """A share of the mean best validation score of `full`; out of reach where it has none, or no positive one."""
    bests = [best for result in full.values() if (best := best_score(result.run.curves, metric)) is not None]
    mean = sum(bests) / len(bests) if bests else 0.0
    return share * mean if mean > 0 else math.inf


def _when_all_reach(
    of_job: Curves, curves: Sequence[Curves], metrics: Sequence[str], targets: Sequence[float]
) -> Cost | None:
    """The cost up to the first validation at which every task is at least as good as its target.

    Args:
        of_job: the curves of what was spent.
        curves: those of each task.
    """
    by_task = [
        _by_step(of_task.get(f"validation_{metric}", ())) for of_task, metric in zip(curves, metrics, strict=True)
    ]
    spent = {name: _by_step(of_job.get(name, ())) for name in ("train_flops", "train_compute_s")}
    for step in sorted(by_task[0]):
        scores = [of_task.get(step, -math.inf) for of_task in by_task]
        if all(score >= target - _ROUNDING for score, target in zip(scores, targets, strict=True)):
            return Cost(step, spent["train_flops"].get(step), spent["train_compute_s"].get(step))
    return None


def _by_step(points: Sequence[Sequence[float]]) -> dict[float, float]:
    return {point[0]: point[1] for point in points}


def _mean(costs: Sequence[Cost]) -> Cost | None:
    if not costs:
        return None
    total = sum(costs, NOTHING)
    parts = (total.steps, total.flops, total.seconds)
    return Cost(*(None if part is None else part / len(costs) for part in parts))
