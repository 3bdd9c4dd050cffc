"""Format table cells: values with their intervals, ratios and marks."""

from __future__ import annotations

from adapeff.service.measured import Display
from adapeff.service.reporting.columns import Column, MetricView
from adapeff.service.reporting.languages import LanguageCell
from adapeff.service.reporting.numbers import format_value, ratio_text
from adapeff.service.reporting.reruns import Spread
from adapeff.service.reporting.table import Row, Table
from adapeff.service.statistics.summaries import Summary


def format_summary(summary: Summary, unit: Display) -> str:
    """Mean and 95 % interval, or the values if there are fewer than 3; equal values are printed once."""
    if len(set(summary.values)) == 1:
        return format_value(summary.mean, unit)
    if summary.low is None or summary.high is None:
        return " / ".join(format_value(value, unit) for value in summary.values)
    return f"{format_value(summary.mean, unit)} [{format_value(summary.low, unit)}, {format_value(summary.high, unit)}]"


def format_cell(table: Table, row: Row, column: Column) -> str:
    """A figure with its ratio to the reference, or a dash; a score at chance is marked as `format_language` does."""
    cell = row.cells[column.key]
    if cell.summary is None:
        return "–"
    text = format_summary(cell.summary, column.unit)
    if column.key == "quality" and (score := table.languages.get(table.source_language, {}).get(row.method)):
        text += " ~" if score.at_chance else ""
    text += " !" if cell.doubt else ""
    return f"{text} ({ratio_text(cell.ratio)})" if cell.ratio is not None and column.unit != "params" else text


def format_language(cell: LanguageCell, metric: MetricView) -> str:
    """A score, marked with ~ if it is within noise of the trivial baseline."""
    return f"{format_summary(cell.summary, metric.unit)}{' ~' if cell.at_chance else ''}"


def with_unit(column: Column) -> str:
    """A column's heading, with the unit if the values do not show it."""
    return f"{column.heading}, %" if column.unit == "%" else column.heading


def format_percent(summary: Summary) -> str:
    """A score in percent."""
    return format_summary(summary, "%")


def format_spread(spread: Spread | None) -> str:
    """The range over the median in percent."""
    return "–" if spread is None or spread.relative is None else f"{spread.relative * 100:.1f} %"
