"""Mixtures against their tasks alone: quality per task, and what training costs to equal steps and to targets.

The study's multi-task model is `full` on a mixture. Here every method's mixture is compared with the runs of the same
method on each task alone, and with `full` on each task alone, over the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapeff.service.reporting.convergence import CURVES, best_score, when_reached
from adapeff.service.reporting.members import (
    FULL,
    NOTHING,
    BySeed,
    Cost,
    Scores,
    TaskRuns,
    cost_of,
    frozen_bytes,
    languages_of,
    metric_of,
    scores_of,
    stored_bytes,
)
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
    """The sum over the tasks, each trained alone by the same method; None if any never gets there or was not run."""


@dataclass(frozen=True)
class MixtureComparison:
    """One method on a mixture, compared with its tasks alone."""

    model: str
    title: str
    method: str
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
    return tuple(
        _compare(runs, title, by_seed)
        for (title, _, _), by_seed in runs.mixtures.items()
        if not any(map(runs.is_for_extensions, by_seed.values()))
    )


def _compare(runs: TaskRuns, title: str, by_seed: BySeed) -> MixtureComparison:
    first = next(iter(by_seed.values()))
    spec, members = first.spec, range(len(first.spec.members))
    alone = [runs.of_member(first, number, str(spec.method)) for number in members]
    full = [runs.of_member(first, number, FULL) for number in members]
    is_complete = all(alone)
    kept = [stored_bytes(of_task.values()) for of_task in alone]
    stored = stored_bytes(by_seed.values())
    return MixtureComparison(
        model=str(spec.model),
        title=title,
        method=str(spec.method),
        device=f"{first.run.environment.get('device_name')} {first.run.environment.get('precision')}",
        seeds=tuple(sorted(by_seed)),
        tasks=tuple(
            quality for number in members for quality in _qualities(runs, by_seed, number, alone[number], full[number])
        ),
        cost=cost_of(by_seed.values()),
        alone=sum((cost_of(of_task.values()) for of_task in alone), NOTHING) if is_complete else None,
        stored=None if stored is None else stored + frozen_bytes(first),
        stored_alone=sum(size or 0.0 for size in kept) + frozen_bytes(next(iter(alone[0].values())))
        if is_complete and None not in kept
        else None,
        targets=tuple(_to_target(runs, by_seed, alone, full, share) for share in TARGETS) if all(full) else (),
    )


def _qualities(runs: TaskRuns, by_seed: BySeed, number: int, alone: BySeed, full: BySeed) -> Iterator[MemberQuality]:
    first = next(iter(by_seed.values()))
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
    first = next(iter(by_seed.values()))
    metrics = [metric_of(first, number) for number in range(len(first.spec.members))]
    targets = []
    for metric, of_task in zip(metrics, full, strict=True):
        bests = [best for result in of_task.values() if (best := best_score(result.run.curves, metric)) is not None]
        targets.append(share * sum(bests) / len(bests) if bests else float("inf"))
    reached = [cost for result in by_seed.values() if (cost := _when_all_reach(runs, result, metrics, targets))]
    costs = []
    for metric, target, of_task in zip(metrics, targets, alone, strict=True):
        found = [when_reached(result.run.curves, metric, target) for result in of_task.values()]
        costs.append(_mean([Cost(each.steps, each.flops, each.compute_s) for each in found if each is not None]))
    complete = [cost for cost in costs if cost is not None]
    return ToTarget(
        share=share,
        mixture=_mean(reached),
        reached=len(reached),
        alone=sum(complete, NOTHING) if len(complete) == len(alone) else None,
    )


def _when_all_reach(runs: TaskRuns, result: Result, metrics: Sequence[str], targets: Sequence[float]) -> Cost | None:
    """The cost up to the first validation at which every task is at least as good as its target."""
    run_id = result.run.run_id
    of_job = runs.curves.get((run_id, ""), {})
    by_task = [
        _by_step(runs.curves.get((run_id, str(member.task)), {}).get(f"validation_{metric}", ()))
        for member, metric in zip(result.spec.members, metrics, strict=True)
    ]
    spent = {name: _by_step(of_job.get(name, ())) for name in CURVES}
    for step in sorted(by_task[0]):
        reach = (scores.get(step, 0.0) >= target - _ROUNDING for scores, target in zip(by_task, targets, strict=True))
        if all(reach):
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
