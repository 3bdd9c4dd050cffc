"""Averages over the tables of a report: per task over its target languages, per language over the tasks that have it.

Different metrics (accuracy, F1) are averaged without rescaling, as in benchmarks such as XTREME; the tables list them.
Metrics that are not shares, such as errors, are excluded. Only complete methods count: those that ran on every task of
the group with the same seeds, so that no average hides a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapeff.service.specs.job import canonical_json
from adapeff.service.statistics.summaries import Summary, summarise

if TYPE_CHECKING:
    from adapeff.service.reporting.table import Table


@dataclass(frozen=True)
class Averages:
    """One method's averages, each summarised over the seeds."""

    by_task: Mapping[str, Summary]
    """Over the target languages; over the source language if a task has no other."""
    by_language: Mapping[str, Summary]
    overall: Summary
    """Over the tasks, equally weighted."""


@dataclass(frozen=True)
class Overview:
    """The averages of the methods that ran on all of several tasks, with one model under the same conditions."""

    model: str
    tasks: tuple[str, ...]
    tasks_of_language: Mapping[str, int]
    methods: Mapping[str, Averages]
    settings: Mapping[str, Any]
    """The settings the runs share, except `max_length`."""
    left_out: tuple[str, ...]
    """Methods without a result for every task, language and seed."""


def build_overviews(tables: Sequence[Table]) -> tuple[Overview, ...]:
    """Build an overview for each group of two or more tasks with the same settings whose metric is a share."""
    groups: dict[str, list[Table]] = {}
    for table in (table for table in tables if table.metric.unit == "%" and not table.members):
        groups.setdefault(shared_conditions(table), []).append(table)
    overviews = (
        _overview(group) for group in groups.values() if len({table.task for table in group}) == len(group) > 1
    )
    return tuple(overview for overview in overviews if overview.methods)


def shared_conditions(table: Table) -> str:
    """What tables of different tasks must share to be averaged: model, settings without `max_length`, and hardware."""
    settings = {key: value for key, value in table.settings.items() if key != "max_length"}
    return canonical_json([table.model, settings, {k: str(v) for k, v in table.environment.items()}])


def _overview(tables: Sequence[Table]) -> Overview:
    languages = dict.fromkeys(language for table in tables for language in table.languages)
    tables_of = {language: [table for table in tables if language in table.languages] for language in languages}
    methods: dict[str, Averages] = {}
    for name in (row.method for row in tables[0].rows):
        if not _is_complete(name, tables):
            continue
        by_task = {
            table.task: _mean([_scores(table, name, language) for language in _targets(table)]) for table in tables
        }
        by_language = {
            language: _mean([_scores(table, name, language) for table in some]) for language, some in tables_of.items()
        }
        methods[name] = Averages(
            {task: summarise(values) for task, values in by_task.items()},
            {language: summarise(values) for language, values in by_language.items()},
            summarise(_mean(list(by_task.values()))),
        )
    counts = {language: len(some) for language, some in tables_of.items()}
    settings = {key: value for key, value in tables[0].settings.items() if key != "max_length"}
    every = dict.fromkeys(row.method for table in tables for row in table.rows)
    left_out = tuple(name for name in every if name not in methods)
    return Overview(tables[0].model, tuple(table.task for table in tables), counts, methods, settings, left_out)


def _targets(table: Table) -> list[str]:
    return [language for language in table.languages if language != table.source_language] or list(table.languages)


def _is_complete(method: str, tables: Sequence[Table]) -> bool:
    seeds = set()
    for table in tables:
        row = next((row for row in table.rows if row.method == method), None)
        if row is None or not table.languages or any(method not in cells for cells in table.languages.values()):
            return False
        if any(cells[method].summary.n != len(row.seeds) for cells in table.languages.values()):
            return False
        seeds.add(row.seeds)
    return len(seeds) == 1


def _scores(table: Table, method: str, language: str) -> Sequence[float]:
    return table.languages[language][method].summary.values


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean over rows for each seed."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def overview_rows(overviews: Sequence[Overview]) -> list[dict[str, Any]]:
    """The averages in long form, one dictionary per figure."""
    rows = []
    for overview in overviews:
        for method, averages in overview.methods.items():
            figures = [(task, "", summary) for task, summary in averages.by_task.items()]
            figures += [("", language, summary) for language, summary in averages.by_language.items()]
            figures.append(("", "", averages.overall))
            rows += [
                {"model": overview.model, "method": method, "task": task, "language": language, "summary": summary}
                for task, language, summary in figures
            ]
    return rows
