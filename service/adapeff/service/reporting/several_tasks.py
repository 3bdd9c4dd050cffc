"""Methods over several tasks of one model: interquartile mean, probability of improvement, ranks, cliques."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, words
from adapeff.service.reporting.overview import shared_conditions
from adapeff.service.statistics.ranks import CriticalDifference, critical_difference
from adapeff.service.statistics.several_tasks import OverTasks, interquartile_mean, probability_of_improvement

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report


@dataclass(frozen=True)
class MethodOverTasks:
    """A method's figures over the tasks; scores are shares."""

    method: str
    interquartile_mean: OverTasks
    improvement: OverTasks | None
    """Probability that a run of it scores higher than one of the reference; None for the reference."""
    rank: float
    """Mean rank, 1 is best."""


@dataclass(frozen=True)
class SeveralTasks:
    """The methods that ran on all tasks of a model, best mean rank first."""

    model: str
    tasks: tuple[str, ...]
    reference: str
    methods: tuple[MethodOverTasks, ...]
    ranking: CriticalDifference


def over_several_tasks(report: Report) -> list[SeveralTasks]:
    """For each model and conditions with two or more tasks whose metric is a share: methods complete on all of them."""
    groups: dict[str, list[Decision]] = {}
    for decision in report.decisions:
        table = decision.table
        if table.metric.unit == "%" and table.metric.higher_is_better and not table.members:
            groups.setdefault(shared_conditions(decision.table), []).append(decision)
    found = (
        _over_tasks(group)
        for group in groups.values()
        if len({decision.table.task for decision in group}) == len(group) > 1
    )
    return [each for each in found if each is not None]


def _over_tasks(decisions: Sequence[Decision]) -> SeveralTasks | None:
    by_task = [{line.method: line for line in decision.lines if line.quality} for decision in decisions]
    methods = [method for method in by_task[0] if all(method in lines for lines in by_task)]
    if len(methods) < 2:
        return None
    table = decisions[0].table
    ranking = critical_difference({method: [_mean(lines[method]) for lines in by_task] for method in methods})
    reference = table.reference if table.reference in methods else ""
    ranks: Mapping[str, float] = dict(zip(ranking.methods, ranking.ranks, strict=True))
    return SeveralTasks(
        table.model,
        tuple(decision.table.task for decision in decisions),
        reference,
        tuple(
            MethodOverTasks(
                method,
                interquartile_mean(_scores(method, by_task)),
                probability_of_improvement(_scores(method, by_task), _scores(reference, by_task))
                if reference and method != reference
                else None,
                ranks[method],
            )
            for method in ranking.methods
        ),
        ranking,
    )


def _mean(line: Line) -> float:
    return line.quality.mean if line.quality else float("nan")


def _scores(method: str, by_task: Sequence[Mapping[str, Line]]) -> list[Sequence[float]]:
    return [quality.values for lines in by_task if (quality := lines[method].quality) is not None]


def tasks_grids(report: Report) -> list[Grid]:
    """A grid for each model."""
    return [_grid(found) for found in over_several_tasks(report)]


def _grid(found: SeveralTasks) -> Grid:
    ranking = found.ranking
    headings = (
        Heading("method", "method"),
        Heading("interquartile mean, %", "interquartile_mean"),
        Heading(f"P(better than {found.reference}), %", "improvement"),
        Heading("mean rank", "rank"),
        Heading("not shown to differ from", "clique"),
    )
    rows = tuple(
        (
            words(each.method),
            _over(each.interquartile_mean),
            _over(each.improvement) if each.improvement else MISSING,
            Value(f"{each.rank:.2f}", each.rank),
            words(", ".join(_alike(each.method, ranking)) or "–"),
        )
        for each in found.methods
    )
    friedman = "" if ranking.friedman_p is None else f"Friedman p = {ranking.friedman_p:.3g}. "
    notes = [
        "Intervals are about new seeds on these tasks, not about other tasks.",
        f"{friedman}Pairs: Wilcoxon signed-rank over the tasks, Holm-adjusted.",
    ]
    if ranking.tasks < ranking.tasks_needed:
        notes.append(
            f"With {ranking.tasks} tasks no pair of {len(ranking.methods)} methods can differ significantly in rank; "
            f"that takes {ranking.tasks_needed}."
        )
    title = f"over {len(found.tasks)} tasks ({', '.join(found.tasks)}) · {short_model(found.model)}"
    return Grid(title, headings, rows, tuple(notes), (("model", found.model),), "over several tasks")


def _over(found: OverTasks) -> Value:
    return number(found.value, "%", found.low, found.high)


def _alike(method: str, ranking: CriticalDifference) -> list[str]:
    together = {other for clique in ranking.cliques if method in clique for other in clique if other != method}
    return [other for other in ranking.methods if other in together]
