"""Numbers as people read them."""

from __future__ import annotations

from adapeff.service.reporting.columns import Column
from adapeff.service.reporting.report import LanguageCell, Row, Table
from adapeff.service.reporting.reruns import Spread
from adapeff.service.reporting.statistics import Summary

_LARGE = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9))


def format_value(value: float, unit: str) -> str:
    """One number in its unit: shares as percent, bytes in KiB to GiB (2^10 steps), seconds as ms below one."""
    if unit == "%":
        return f"{value * 100:.1f}"
    if unit == "params":
        return f"{value:,.0f}"
    if unit == "B":
        for step, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= step:
                return f"{value / step:.1f} {name}"
        return f"{value:.0f} B"
    if unit == "FLOPs":
        letter, scale = next(((x, at) for x, at in _LARGE if value >= at), ("", 1.0))
        return f"{value / scale:.2f} {letter}".strip()
    if unit == "s":
        if value < 0.01:
            return f"{value * 1000:.2f} ms"
        if value < 1:
            return f"{value * 1000:.1f} ms"
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:.3g}"


def format_summary(summary: Summary, unit: str) -> str:
    """Mean and 95 % interval, or the values themselves for fewer than 3; equal values are printed once."""
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
    if column.key == "quality" and (scored := table.languages.get(table.source_language, {}).get(row.method)):
        text += " ~" if scored.at_chance else ""
    text += " !" if cell.doubt else ""
    return f"{text} ({cell.ratio:.2f}x)" if cell.ratio is not None and column.unit != "params" else text


def format_language(cell: LanguageCell) -> str:
    """A score, marked with ~ where it is within noise of the best constant answer."""
    return f"{format_summary(cell.summary, '%')}{' ~' if cell.at_chance else ''}"


def format_percent(summary: Summary) -> str:
    """A score in percent."""
    return format_summary(summary, "%")


def format_spread(spread: Spread | None) -> str:
    """The range over the median in percent."""
    return "–" if spread is None or spread.relative is None else f"{spread.relative * 100:.1f} %"
