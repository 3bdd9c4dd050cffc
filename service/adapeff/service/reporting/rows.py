"""A report in long form, one dictionary per figure, for `--format json` and `csv`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapeff.service.reporting.decision import Line
from adapeff.service.reporting.numbers import stored_unit
from adapeff.service.reporting.overview import overview_rows
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.reruns import Rerun
from adapeff.service.reporting.table import Row, Table
from adapeff.service.specs.job import canonical_json
from adapeff.service.statistics.summaries import Summary

_EMPTY: dict[str, Any] = {
    "model": "",
    "task": "",
    "device": None,
    "sweep": "",
    "method": "",
    "method_name": "",
    "method_parameters": "",
    "repeats": "",
    "learning_rate": None,
    "learning_rate_source": "",
    "figure": "",
    "language": "",
    "unit": "1",
    "n": 0,
    "mean": None,
    "low": None,
    "high": None,
    "values": [],
    "ratio_to_reference": None,
    "at_chance": None,
    "reason": "",
    "doubt": "",
}


def report_rows(report: Report) -> list[dict[str, Any]]:
    """Every figure of the tables, their reruns and the averages."""
    rows: list[dict[str, Any]] = []
    varied = dict.fromkeys((key for table in report.tables for key in table.varied), None)
    empty = {**_EMPTY, **varied}
    for decision in report.decisions:
        about = {**empty, **_about(decision.table)}
        rows += [
            {**about, **_common(decision.table, line.row), **fact} for line in decision.lines for fact in _facts(line)
        ]
        rows += [{**about, "figure": "finding", "reason": sentence} for sentence in decision.sentences]
    for table in report.tables:
        for row in table.rows:
            rows += [{**empty, **_common(table, row), **figure} for figure in _figures(table, row)]
        for rerun in table.reruns:
            rows += [{**empty, **_about(table), **figure} for figure in _rerun(rerun)]
    for average in overview_rows(report.overviews):
        summary = average.pop("summary")
        rows.append({**empty, **average, "figure": "average", **_flat(summary)})
    return rows


def _about(table: Table) -> dict[str, Any]:
    return {
        "model": table.model,
        "task": table.task,
        "device": table.environment.get("device_name"),
        "sweep": ", ".join(table.sweeps),
        **{
            key: canonical_json(value) if isinstance(value, dict | list) else value
            for key, value in table.varied.items()
        },
    }


def _common(table: Table, row: Row) -> dict[str, Any]:
    return {
        **_about(table),
        "method": row.method,
        "method_name": row.plugin.name,
        "method_parameters": canonical_json(row.plugin.parameters),
        "repeats": " ".join(map(str, row.repeats)),
        "learning_rate": row.learning_rate,
        "learning_rate_source": row.learning_rate_source,
    }


def _figures(table: Table, row: Row) -> Iterator[dict[str, Any]]:
    for column in table.columns:
        cell = row.cells[column.key]
        source_cell = table.languages.get(table.source_language, {}).get(row.method)
        quality = {"language": table.source_language, "at_chance": source_cell.at_chance if source_cell else None}
        yield {
            "figure": column.key,
            "unit": stored_unit(column.unit),
            **_flat(cell.summary),
            "ratio_to_reference": cell.ratio,
            "reason": cell.reason,
            "doubt": cell.doubt,
            **(quality if column.key == "quality" else {}),
        }
    if row.method in table.break_even_tasks:
        yield {"figure": "break_even_tasks", "n": len(row.seeds), "mean": table.break_even_tasks[row.method]}
    for language, methods in table.languages.items():
        if language != table.source_language and row.method in methods:
            score = methods[row.method]
            yield {"figure": "quality", "language": language, **_flat(score.summary), "at_chance": score.at_chance}


def _facts(line: Line) -> Iterator[dict[str, Any]]:
    """The findings of the first screen on one method."""
    yield {"figure": "verdict", "reason": line.verdict.text, "doubt": line.verdict.kind}
    if line.seeds_needed is not None:
        yield {"figure": "seeds_needed", "mean": line.seeds_needed}
    found = line.difference
    if found is not None:
        interval = {"low": found.low, "high": found.high}
        yield {"figure": "difference", "n": found.seeds, "mean": found.value, **interval, "reason": found.basis}
        yield {"figure": "difference_examples", "n": found.seeds, "mean": found.examples}
        yield {"figure": "difference_p_holm", "n": found.seeds, "mean": line.p}
    for name, cost in line.costs.items():
        if cost.basis == "paired":
            interval = {"low": cost.low, "high": cost.high}
            yield {"figure": f"{name}_ratio_paired", "mean": cost.ratio, **interval, "reason": cost.shape}


def _rerun(rerun: Rerun) -> Iterator[dict[str, Any]]:
    about = {"method": rerun.method, "n": rerun.runs}
    reason = f"{rerun.unequal_scores} of {rerun.scores} scores are not equal to the last bit (seed {rerun.seed})"
    yield {**about, "figure": "rerun_unequal_scores", "mean": rerun.unequal_scores, "reason": reason}
    for key, spread in rerun.spreads.items():
        yield {
            **about,
            "figure": f"rerun_spread_{key}",
            "mean": spread.relative,
            "values": list(spread.values),
            "reason": f"range over median (seed {rerun.seed})",
        }


def _flat(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {}
    return {
        "n": summary.n,
        "mean": summary.mean,
        "low": summary.low,
        "high": summary.high,
        "values": list(summary.values),
    }
