"""The index of a large report: a line for each of its tables, from the runs' stored summaries alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.plugins.plugin_reference import is_task_file, parse_plugin
from adapeff.service.reporting.columns import MetricView, metric_view
from adapeff.service.reporting.garbage import without_garbage_collection
from adapeff.service.reporting.titles import file_stem
from adapeff.service.store import job_queries
from adapeff.service.store.conditions import by_readable_name, likeness_of
from adapeff.service.store.tables import RunConditions, StoredSummary

REFERENCE = "full"
_AT_ONCE = 5000
"""Summaries read at a time."""
_RowKey = tuple[str, str, float, str, str]
"""Label, method, learning rate, search for it, and hash of the settings: what tells a table's rows apart."""
_Rows = dict[_RowKey, dict[int, float | None]]
"""Row -> seed -> quality."""


@dataclass(frozen=True)
class IndexLine:
    """One table of the report in short: a model and a task under the same conditions."""

    model: str
    task: str
    differs: Mapping[str, Any]
    """The conditions in which the lines of this model and task differ, with this line's values; None where unset."""
    metric: MetricView
    methods: int
    """The number of the table's rows, without inference variants."""
    runs: int
    seeds: int
    best_method: str
    """The method with the best mean quality; '' if none was measured."""
    best_quality: float | None
    """Its mean over seeds, as stored (a share for metrics in percent)."""
    reference_quality: float | None
    """The same of full fine-tuning; None without it, or with several learning rates of it."""


@dataclass(frozen=True)
class Index:
    """The lines in the order of the report's tables."""

    lines: tuple[IndexLine, ...]


@dataclass
class _Table:
    """The runs of one table."""

    recorded: Mapping[str, Any]
    """Their conditions, as one of them recorded them."""
    runs: int = 0
    rows: _Rows = field(default_factory=dict)


def build_index(session: Session, *, sweep_ids: Sequence[int] | None = None) -> Index:
    """Build the index of the finished jobs of some submissions, or of all jobs.

    Of a job's repeats the newest counts, as in the full report.
    """
    with without_garbage_collection():
        tables = _load_tables(session, sweep_ids)
    same_cell: dict[tuple[str, str], list[_Table]] = {}
    for table in tables:
        same_cell.setdefault(_cell(table), []).append(table)
    varied = {cell: _varied(of_cell) for cell, of_cell in same_cell.items()}
    return Index(tuple(_line(table, varied[_cell(table)]) for table in _without_extensions(tables)))


def _load_tables(session: Session, sweep_ids: Sequence[int] | None) -> list[_Table]:
    """Group the summaries by the conditions that count today, in the order of the first job of each."""
    summary = StoredSummary.__table__.c
    wanted = select(
        *(summary.conditions_id, summary.label, summary.method, summary.learning_rate, summary.tuning),
        *(summary.settings, summary.seed, summary.quality),
    ).order_by(summary.job_id)
    stored = select(RunConditions.id, RunConditions.values)
    if sweep_ids is not None:
        of_sweeps = summary.job_id.in_(job_queries.ids_of_sweeps(session, sweep_ids))
        wanted = wanted.where(of_sweeps)
        stored = stored.where(RunConditions.id.in_(select(summary.conditions_id).where(of_sweeps)))
    alike: dict[str, _Table] = {}
    by_conditions = {
        conditions_id: alike.setdefault(likeness_of(recorded), _Table(recorded))
        for conditions_id, recorded in session.execute(stored)
    }
    tables: list[_Table] = []
    rows = session.connection().execute(wanted.execution_options(yield_per=_AT_ONCE))  # plain tuples, not objects
    for conditions_id, label, method, rate, tuning, settings, seed, quality in rows:
        table = by_conditions[conditions_id]
        if not table.runs:
            tables.append(table)
        table.runs += 1
        table.rows.setdefault((label, method, rate, tuning, settings), {})[seed] = quality
    return tables


def _without_extensions(tables: Sequence[_Table]) -> list[_Table]:
    """The tables but those of extensions, and of mixtures made for them, which the view `extend` shows."""
    references = {id(table): parse_plugin(str(table.recorded["task"])) for table in tables if _has_members(table)}
    mixtures: list[set[str]] = []
    bases: list[set[str]] = []
    for reference in references.values():
        tasks, added = (list(reference.parameters.get(key, ())) for key in ("tasks", "add"))
        (bases if added else mixtures).append(set(tasks[: len(tasks) - len(added)]))

    def is_shown(table: _Table) -> bool:
        reference = references.get(id(table))
        if reference is None:
            return True
        own = set(reference.parameters.get("tasks", ()))
        is_part_of_another = any(own < other for other in mixtures)
        return reference.name != "extension" and not (own in bases and is_part_of_another)

    return [table for table in tables if is_shown(table)]


def _has_members(table: _Table) -> bool:
    return str(table.recorded["task"]).startswith(("mixture[", "extension["))


def _cell(table: _Table) -> tuple[str, str]:
    return table.recorded["model"], table.recorded["task"]


def _varied(tables: Iterable[_Table]) -> list[str]:
    """The conditions in which tables of one model and task differ."""
    conditions = [by_readable_name(table.recorded) for table in tables]
    keys = dict.fromkeys(key for of_table in conditions for key in of_table)
    return [key for key in keys if len({repr(of_table.get(key)) for of_table in conditions}) > 1]


def _line(table: _Table, varied: Sequence[str]) -> IndexLine:
    recorded = table.recorded
    conditions = by_readable_name(recorded)
    metric = metric_view(recorded["metric"], recorded["source_language"], recorded["resolved"])
    means = {key: mean for key, seeds in table.rows.items() if (mean := _mean(seeds.values())) is not None}
    sign = 1 if metric.higher_is_better else -1
    best = max(means, key=lambda key: sign * means[key], default=None)
    reference = _find_reference(table.rows)
    return IndexLine(
        model=recorded["model_name"],
        task=_task_name(recorded),
        differs={key: conditions.get(key) for key in varied},
        metric=metric,
        methods=len(table.rows),
        runs=table.runs,
        seeds=len({seed for seeds in table.rows.values() for seed in seeds}),
        best_method="" if best is None else _name(best, table.rows),
        best_quality=None if best is None else means[best],
        reference_quality=None if reference is None else means.get(reference),
    )


def _task_name(recorded: Mapping[str, Any]) -> str:
    task = str(recorded["task"])
    return str(recorded.get("task_title") or (file_stem(task) if is_task_file(task) else task))


def _mean(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def _find_reference(rows: _Rows) -> _RowKey | None:
    """The reference's row, untuned if there is one; None if there is none, or several."""
    candidates = [key for key in rows if key[1] == REFERENCE]
    chosen = [key for key in candidates if not key[3]] or candidates
    return chosen[0] if len(chosen) == 1 else None


def _name(row: _RowKey, rows: _Rows) -> str:
    """A row's label, with the learning rate if there are several for its method."""
    label, method, rate, tuning, settings = row
    several = sum(key[1] == method and not key[3] and key[4] == settings for key in rows) > 1
    return f"{label} lr {rate:g}" if several and not tuning else label
