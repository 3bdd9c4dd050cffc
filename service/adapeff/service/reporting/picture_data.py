"""What the pictures of a report show: their points, titles and captions, in the units that are printed.

Each function gives the panels of one picture; no panel means that there is nothing to draw, and `PICTURES` says why.
Profiles have theirs in `picture_data_profiles.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapeff.service.measurements import TRAIN_COMPUTE_S
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import screen_title, short_model
from adapeff.service.reporting.pareto import CostKind, pareto_front
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.runs import RunRecord
from adapeff.service.reporting.several_tasks import SeveralTasks, over_several_tasks
from adapeff.service.reporting.table import Table
from adapeff.service.reporting.verdicts import Kind, margin_words
from adapeff.service.statistics.ranks import CriticalDifference

Points = tuple[tuple[float, float], ...]
"""Pairs of x and y."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """What every panel of a picture has."""

    title: str
    """Task, model, number of seeds, device and precision."""
    caption: str
    """What the marks and intervals are."""


@dataclass(frozen=True)
class ParetoPoint:
    """A method by its cost and quality."""

    method: str
    cost: Estimate
    quality: Estimate
    is_on_front: bool
    run_id: int
    """The first of its runs."""


@dataclass(frozen=True)
class ParetoPanel(Panel):
    """Quality against the cost of training."""

    cost_label: str
    quality_label: str
    points: tuple[ParetoPoint, ...]
    front: Points
    """The methods that no other beats, by ascending cost."""
    ceiling: float | None


@dataclass(frozen=True)
class Curve:
    """A method's validation scores over a cost."""

    method: str
    mean: Points
    """Over the seeds, at the evaluations that all seeds have."""
    seeds: tuple[Points, ...]


@dataclass(frozen=True)
class CurvesPanel(Panel):
    """Validation score over compute seconds or FLOPs."""

    cost_label: str
    score_label: str
    curves: tuple[Curve, ...]
    targets: tuple[tuple[str, float], ...]
    """Share of the reference's best score, in words, and the score."""


@dataclass(frozen=True)
class ForestRow:
    """The difference of a method to the reference."""

    method: str
    difference: Estimate
    kind: Kind
    verdict: str
    run_id: int


@dataclass(frozen=True)
class ForestPanel(Panel):
    """Differences to the reference, best by evidence first."""

    label: str
    margin: float
    rows: tuple[ForestRow, ...]


@dataclass(frozen=True)
class LanguageScore:
    """A score in one language."""

    score: float
    gap: float | None
    """Score minus that in the source language, negative if lower; None in the source language or without its score."""
    is_at_chance: bool


@dataclass(frozen=True)
class LanguagesPanel(Panel):
    """Scores of methods by language, the source language first."""

    methods: tuple[str, ...]
    languages: tuple[str, ...]
    scores: Mapping[tuple[str, str], LanguageScore]
    """(method, language) -> score; what was not tested is missing."""
    label: str


@dataclass(frozen=True)
class RanksPanel(Panel):
    """A critical-difference diagram."""

    ranking: CriticalDifference


def methods_of(report: Report) -> tuple[str, ...]:
    """Every method of a report by name, also those that were only profiled."""
    names = {line.method for decision in report.decisions for line in decision.lines}
    return tuple(sorted(names | {row.label for profile in report.profiles for row in profile.training}))


def pareto_panels(report: Report) -> list[ParetoPanel]:
    """A panel for each model and task with a method that has a score and a cost."""
    return [panel for decision in report.decisions if (panel := _pareto(decision)).points]


def _pareto(decision: Decision) -> ParetoPanel:
    table, found = decision.table, pareto_front(decision)
    points = tuple(
        ParetoPoint(
            point.line.method,
            Estimate(point.cost.value, point.cost.low, point.cost.high),
            _shown(table, point.line.quality.mean, point.line.quality.low, point.line.quality.high),
            point.is_on_front,
            _first_run(point.line),
        )
        for point in found.points
        if point.line.quality
    )
    return ParetoPanel(
        screen_title(table),
        _pareto_caption(decision, found.kind, found.left_out),
        {
            "paired": f"time of a training step, x {table.reference} (paired)",
            "flops": "training FLOPs",
            "seconds": "training compute time of separate runs, s (unpaired)",
        }[found.kind],
        _score_label(table),
        points,
        tuple(sorted((point.cost.value, point.quality.value) for point in points if point.is_on_front)),
        None if table.score_ceiling is None else table.metric.shown(table.score_ceiling),
    )


def _pareto_caption(decision: Decision, kind: CostKind, left_out: Sequence[str]) -> str:
    parts = ["Bars: 95 % intervals of the means (3 or more seeds)."]
    if kind == "paired" and decision.pairing is not None:
        parts.append(f"Times: profile job {decision.pairing.profile.job_id}, {decision.pairing.step_shape} tokens.")
    elif kind == "flops":
        parts.append("No paired times.")
    if left_out:
        parts.append(f"Without score or cost: {', '.join(left_out)}.")
    return " ".join([*parts, "Dashed: methods that no other beats in both, by means."])


def curves_panels(report: Report) -> list[CurvesPanel]:
    """Two panels for each model and task with validation curves: over compute seconds and over FLOPs."""
    return [panel for decision in report.decisions for panel in _curves(decision, report.runs)]


def _curves(decision: Decision, runs: Mapping[int, RunRecord]) -> Iterator[CurvesPanel]:
    table = decision.table
    share = {cell.target: cell.score for cells in table.targets.values() for cell in cells}
    targets = tuple((f"{target:.0%}", table.metric.shown(score)) for target, score in sorted(share.items()))
    dotted = f" Dotted: shares of {table.reference}'s best." if targets else ""
    doubts = any(line.row.cells[TRAIN_COMPUTE_S.name].doubt for line in decision.lines)
    for cost, label, caption in (
        ("train_compute_s", "training compute, s", f"Separate runs, unpaired{', some disturbed' if doubts else ''}."),
        ("train_flops", "training FLOPs", "Counted."),
    ):
        curves = tuple(curve for line in decision.lines if (curve := _curve(line, table, cost, runs)).mean)
        if curves:
            yield CurvesPanel(
                screen_title(table),
                f"Thick: mean over the seeds. {caption}{dotted}",
                label,
                f"validation {table.metric.name}{_unit(table)}",
                curves,
                targets,
            )


def _curve(line: Line, table: Table, cost: str, runs: Mapping[int, RunRecord]) -> Curve:
    of_seeds = [_by_step(runs[run_id], table, cost) for run_id in line.row.run_ids if run_id in runs]
    shared = sorted(set.intersection(*(set(points) for points in of_seeds))) if of_seeds else []
    mean = tuple(
        (_mean([points[step][0] for points in of_seeds]), _mean([points[step][1] for points in of_seeds]))
        for step in shared
    )
    return Curve(line.method, mean, tuple(tuple(points.values()) for points in of_seeds if points))


def _by_step(run: RunRecord, table: Table, cost: str) -> dict[float, tuple[float, float]]:
    """Step -> the cost up to it and the score as printed."""
    spent = {point[0]: float(point[1]) for point in run.curves.get(cost, ())}
    scores = run.curves.get(f"validation_{table.metric.name}", ())
    return {step: (spent[step], table.metric.shown(score)) for step, score in scores if spent.get(step)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def forest_panels(report: Report) -> list[ForestPanel]:
    """A panel for each model and task with a difference to the reference."""
    return [panel for decision in report.decisions if (panel := _forest(decision)).rows]


def _forest(decision: Decision) -> ForestPanel:
    table = decision.table
    rows = tuple(
        ForestRow(
            line.method,
            _shown(table, line.difference.value, line.difference.low, line.difference.high),
            line.verdict.kind,
            line.verdict.text,
            _first_run(line),
        )
        for line in decision.lines
        if line.difference is not None
    )
    unit = "points" if table.metric.unit == "%" else table.metric.name
    return ForestPanel(
        screen_title(table),
        f"Bars: 95 % intervals over seeds and test examples. Verdicts: Holm-adjusted. "
        f"Dashed: margin of {margin_words(table, decision.margin)}.",
        f"difference to {table.reference}, {unit}, right is better",
        table.metric.shown(decision.margin),
        rows,
    )


def languages_panels(report: Report) -> list[LanguagesPanel]:
    """A panel for each model and task that was tested in several languages."""
    return [_languages(decision) for decision in report.decisions if len(decision.table.languages) > 1]


def _languages(decision: Decision) -> LanguagesPanel:
    table = decision.table
    source = table.source_language
    methods = tuple(line.method for line in decision.lines if any(line.method in c for c in table.languages.values()))
    base = table.languages.get(source, {})
    scores = {
        (method, language): LanguageScore(
            table.metric.shown(cells[method].summary.mean),
            table.metric.shown(cells[method].summary.mean - base[method].summary.mean)
            if language != source and method in base
            else None,
            cells[method].at_chance,
        )
        for language, cells in table.languages.items()
        for method in methods
        if method in cells
    }
    return LanguagesPanel(
        screen_title(table),
        f"Means over the seeds; below: difference to {source}. ~: within noise of the {table.metric.baseline}.",
        methods,
        tuple(sorted(table.languages, key=lambda language: language != source)),
        scores,
        f"test {table.metric.name}{_unit(table)}",
    )


def ranks_panels(report: Report) -> list[RanksPanel]:
    """A panel for each model with several tasks that the same methods ran on."""
    return [_ranks(found) for found in over_several_tasks(report)]


def _ranks(found: SeveralTasks) -> RanksPanel:
    ranking = found.ranking
    title = f"{len(found.tasks)} tasks ({', '.join(found.tasks)}) · {short_model(found.model)}"
    friedman = "" if ranking.friedman_p is None else f"Friedman p = {ranking.friedman_p:.2g}. "
    few = ""
    if ranking.tasks < ranking.tasks_needed:
        few = f" {ranking.tasks} tasks are too few to tell any pair apart; that takes {ranking.tasks_needed}."
    return RanksPanel(
        title, f"{friedman}Bars join methods that are not shown to differ (Wilcoxon, Holm).{few}", ranking
    )


def _shown(table: Table, value: float, low: float | None, high: float | None) -> Estimate:
    shown = table.metric.shown
    return Estimate(shown(value), None if low is None else shown(low), None if high is None else shown(high))


def _score_label(table: Table) -> str:
    worse = "" if table.metric.higher_is_better else ", lower is better"
    return f"test {table.metric.name} in {table.source_language}{_unit(table)}{worse}"


def _unit(table: Table) -> str:
    return ", %" if table.metric.unit == "%" else ""


def _first_run(line: Line) -> int:
    return line.row.run_ids[0] if line.row.run_ids else 0
