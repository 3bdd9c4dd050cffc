"""One table of a report: the results for one model and task under the same conditions, a row per method.

Figures are compared with the reference's; those of a tuned method with the reference tuned the same way, if any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapeff.service.measurements import DISTURBANCE, STORED_BYTES
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.columns import (
    Cell,
    Column,
    MetricView,
    Price,
    choose_columns,
    find_doubts,
    find_variants,
    metric_view,
    summarise_columns,
    variant_label,
)
from adapeff.service.reporting.convergence import TargetCell, TimeFactors, time_factors, to_targets
from adapeff.service.reporting.languages import LanguageCell, language_cell
from adapeff.service.reporting.reruns import Rerun, find_reruns
from adapeff.service.reporting.row_keys import (
    ByRow,
    RowKey,
    find_reference,
    reference_first,
    reference_names,
    row_key,
    row_names,
)
from adapeff.service.reporting.runs import ALIKE, Result, comparable_settings, model_and_task
from adapeff.service.reporting.titles import find_task, full_title, revision_of, task_name, title_ending
from adapeff.service.reporting.variation import varying_keys

REFERENCE = "full"


@dataclass(frozen=True)
class Row:
    """A method's figures."""

    method: str
    learning_rate: float
    learning_rate_source: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    plugin: PluginReference
    """The method's name and parameters."""
    repeats: tuple[int, ...] = (0,)
    """For each seed, the number of the repeat shown."""
    run_ids: tuple[int, ...] = ()
    """For each seed, its run."""
    job_ids: tuple[int, ...] = ()
    """For each seed, its job."""
    variant: str = ""
    """The label of the inference variant; '' for the model as trained."""
    reference: str = ""
    """The row it is compared with: the reference tuned the same way, or the untuned one; '' if there is none."""


@dataclass(frozen=True)
class Table:
    """The results for one model and task under the same conditions."""

    model: str
    task: str
    members: tuple[str, ...]
    """The tasks of a mixture; empty for a single task."""
    title: str
    short_title: str
    """The task's name, and what tells the table from others of the task."""
    metric: MetricView
    settings: dict[str, Any]
    environment: dict[str, Any]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    languages: dict[str, dict[str, LanguageCell]]
    """Language -> method -> score on the test split."""
    score_ceiling: float | None
    licence: str
    non_commercial: bool
    has_reference: bool
    reference: str
    """The method that the others are compared with; whether there is one says `has_reference`."""
    targets: dict[str, tuple[TargetCell, ...]]
    """Method -> when it reached each share of the reference's best validation score; empty without a reference."""
    time_factors: dict[str, TimeFactors]
    """Method -> what its time to 95 % of the reference's best score consists of, next to the reference's."""
    disturbed: dict[str, str]
    """Row -> what disturbed its times."""
    side_by_side: int
    """The number of runs that overlapped in time with another run on the same host."""
    runs: int
    break_even_tasks: dict[str, int] = field(default_factory=dict)
    """Method -> the number of tasks from which its stored weights are larger than one more full model."""
    searches: tuple[str, ...] = ()
    """The different learning-rate searches among its runs."""
    varied: dict[str, Any] = field(default_factory=dict)
    """This table's values of the settings in which the report's tables differ."""
    revisions: tuple[str, ...] = ()
    """The versions and revisions of adapeff that measured its runs."""
    sweeps: tuple[str, ...] = ()
    """Names of the sweeps its runs belong to."""
    untested: str = ""
    """Why some languages of the task were not tested."""
    reruns: tuple[Rerun, ...] = ()
    """Jobs that ran more than once, and how much their figures differ."""
    differs: tuple[str, ...] = ()
    """Conditions that differ among its runs (mixed), or between it and other tables of its model and task."""

    @property
    def source_language(self) -> str:
        """The language the methods were trained in."""
        return self.metric.source_language


@dataclass(frozen=True)
class Context:
    """The parts of the report that its tables need."""

    side_by_side: Container[int]
    """Ids of runs that shared their host with another."""
    price: Price | None
    varied: Sequence[str]
    """Settings in which the report's jobs differ."""
    differences: Mapping[tuple[str, str], tuple[str, ...]]
    sweep_names: Mapping[int, Sequence[str]]
    """Job -> the sweeps it belongs to."""
    reference: str = REFERENCE
    metric: str = ""
    """The metric to compare by; '' for the headline metric of each task."""


def build_table(group: Sequence[Result], repeats: Sequence[Result], context: Context) -> Table:
    """Build the table of comparable runs.

    Args:
        group: the runs of the table.
        repeats: the same runs and all their repeats.
    """
    first = group[0].spec
    task, ending = find_task(first), title_ending(group[0], context.varied)
    recorded = dict(group[0].run.resolved)  # the task as it was when it ran; older runs recorded less
    metric = metric_view(
        context.metric or str(recorded.get("metric") or (task.metric if task else "accuracy")),
        str(recorded.get("source_language") or (task.source_language if task else "en")),
        {} if context.metric else recorded,
    )
    measured_columns = choose_columns(group, metric)
    columns = (*measured_columns, *((context.price.column(),) if context.price else ()))
    varied_here = varying_keys(result.run.settings for result in group)
    by_row: ByRow = {}
    for result in group:  # ids ascend, so the newest repeat of a seed is kept
        by_row.setdefault(row_key(result, varied_here), {})[result.spec.seed] = result
    names = row_names(by_row)
    reference = find_reference(by_row, context.reference)

    def cells_of(results: Sequence[Result]) -> dict[str, Cell]:
        cells = summarise_columns(results, columns)
        doubts = {"": "", **find_doubts(results, context.side_by_side)}
        return {column.key: replace(cells[column.key], doubt=doubts[column.time_of]) for column in columns}

    rows = tuple(_rows(by_row, names, context.reference, reference, cells_of, metric, columns))
    targets = _targets(by_row, names, context.reference, metric) if reference else {}
    return Table(
        model=str(first.model),
        task=task_name(first),
        members=tuple(str(member.task) for member in first.members),
        title=f"{full_title(first)}{ending}",
        short_title=f"{task_name(first)}{ending}",
        metric=metric,
        settings=comparable_settings(first),
        environment={key: group[0].run.environment.get(key) for key in ALIKE},
        revisions=tuple(dict.fromkeys(revision_of(result.run.environment) for result in group)),
        columns=columns,
        rows=rows,
        languages=_languages(by_row, names, context.reference, metric),
        score_ceiling=task.ceiling() if task else None,
        licence=str(recorded.get("licence") or (task.licence if task else "")),
        non_commercial=bool(recorded.get("non_commercial", task.non_commercial if task else False)),
        has_reference=reference is not None,
        reference=context.reference,
        targets=targets,
        time_factors=time_factors(targets, context.reference),
        disturbed=_disturbed(by_row, names),
        side_by_side=sum(result.run.run_id in context.side_by_side for result in group),
        runs=len(group),
        break_even_tasks=_break_even_tasks(rows, context.reference),
        searches=tuple(sorted({tuning.words for r in group if (tuning := r.spec.training.tuning) is not None})),
        varied={key: value for key, value in group[0].run.settings.items() if key in context.varied},
        sweeps=tuple(sorted({name for result in group for name in context.sweep_names[result.run.job_id]})),
        untested=str(recorded.get("untested", "")),
        reruns=find_reruns([r for r in repeats if row_key(r, varied_here) in names], measured_columns),
        differs=context.differences[model_and_task(group[0])],
    )


def _rows(
    by_row: ByRow,
    names: Mapping[RowKey, str],
    reference_name: str,
    reference: Sequence[Result] | None,
    cells_of: Callable[[Sequence[Result]], dict[str, Cell]],
    metric: MetricView,
    columns: Sequence[Column],
) -> Iterator[Row]:
    """A row per method, the reference first, each followed by its inference variants."""
    tuned_references = {
        key.tuning: list(seeds.values()) for key, seeds in by_row.items() if key.method == reference_name and key.tuning
    }
    reference_cells = {
        tuning: cells_of(results) for tuning, results in {"": reference or [], **tuned_references}.items() if results
    }
    compared = reference_names(by_row, names, reference_name, reference)
    for key, seeds in reference_first(by_row, reference_name):
        results = list(seeds.values())
        compared_with = reference_cells.get(key.tuning, reference_cells.get("", {}))
        row = Row(
            method=names[key],
            learning_rate=key.learning_rate,
            learning_rate_source=results[0].spec.learning_rate_source,
            seeds=tuple(sorted(seeds)),
            cells=_with_ratios(cells_of(results), compared_with, columns),
            plugin=results[0].spec.method,
            repeats=tuple(seeds[seed].spec.repeat for seed in sorted(seeds)),
            run_ids=tuple(seeds[seed].run.run_id for seed in sorted(seeds)),
            job_ids=tuple(seeds[seed].run.job_id for seed in sorted(seeds)),
            reference=compared.get(key.tuning, compared.get("", "")),
        )
        yield row
        for variant in find_variants(results, metric.name):
            cells = cells_of([result.as_variant(variant) for result in results])
            label = variant_label(variant)
            name = f"{row.method} ({label})"
            yield replace(row, method=name, cells=_with_ratios(cells, compared_with, columns), variant=label)


def _with_ratios(
    cells: Mapping[str, Cell], reference: Mapping[str, Cell], columns: Sequence[Column]
) -> dict[str, Cell]:
    return {
        column.key: _with_ratio(cells[column.key], reference.get(column.key), is_time=bool(column.time_of))
        for column in columns
    }


def _with_ratio(cell: Cell, reference: Cell | None, *, is_time: bool) -> Cell:
    """A cell with its ratio to the reference's; times have none, because those of separate runs are not paired."""
    if is_time or cell.summary is None or reference is None or reference.summary is None:
        return cell
    if reference.summary.mean <= 0:
        return cell
    return replace(cell, ratio=cell.summary.mean / reference.summary.mean)


def _break_even_tasks(rows: Sequence[Row], reference: str) -> dict[str, int]:
    """The number of tasks from which a method's stored weights are larger than one more full model."""
    whole = next((row.cells[STORED_BYTES.name].summary for row in rows if row.method == reference), None)
    return {
        row.method: math.ceil(whole.mean / stored.mean)
        for row in rows
        if whole is not None
        and row.method != reference
        and (stored := row.cells[STORED_BYTES.name].summary) is not None
    }


def _targets(
    by_row: ByRow, names: Mapping[RowKey, str], reference: str, metric: MetricView
) -> dict[str, tuple[TargetCell, ...]]:
    curves = {names[key]: [result.run.curves for result in seeds.values()] for key, seeds in by_row.items()}
    return to_targets(curves, reference=reference, metric=metric.name, higher_is_better=metric.higher_is_better)


def _disturbed(by_row: ByRow, names: Mapping[RowKey, str]) -> dict[str, str]:
    disturbed = {}
    for row, seeds in by_row.items():
        problems = {
            f"{key.phase}: {reading.reason}": None
            for result in seeds.values()
            for key, reading in result.run.readings.named(DISTURBANCE.name)
            if reading.value
        }
        if problems:
            disturbed[names[row]] = "; ".join(problems)
    return disturbed


def _languages(
    by_row: ByRow, names: Mapping[RowKey, str], reference: str, metric: MetricView
) -> dict[str, dict[str, LanguageCell]]:
    languages: dict[str, dict[str, LanguageCell]] = {}
    for key, seeds in reference_first(by_row, reference):
        ordered = sorted(seeds.values(), key=lambda result: result.spec.seed)
        variants = find_variants(ordered, metric.name)
        for language in ordered[0].spec.measuring.test_languages or ():
            for variant in ("", *variants):
                cell = language_cell(ordered, metric, language, variant)
                if cell is not None:
                    name = f"{names[key]} ({variant_label(variant)})" if variant else names[key]
                    languages.setdefault(language, {})[name] = cell
    return languages
