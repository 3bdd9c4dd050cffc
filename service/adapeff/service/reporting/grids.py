"""Tables as data: terminal, Markdown, LaTeX, HTML, CSV and JSON all print the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adapeff.service.measured import Display
from adapeff.service.reporting.numbers import format_value, ratio_text, stored_unit
from adapeff.service.statistics.summaries import Summary


@dataclass(frozen=True)
class Value:
    """One cell: its text, and the number behind it with its 95 % interval, in the stored unit."""

    text: str
    number: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    """Display unit of the number: `%` means that the number is a share; `x` a ratio."""
    mark: str = ""
    """Why not to rely on it: `disturbed`, `unpaired`, `chance`, or '' if nothing speaks against it."""


@dataclass(frozen=True)
class Heading:
    """A column's heading, and its name in JSON and CSV."""

    text: str
    key: str


@dataclass(frozen=True)
class Grid:
    """A titled table of values with its footnotes."""

    title: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    about: tuple[tuple[str, str], ...] = ()
    """What all its rows share, such as the model and the task, by name."""
    aspect: str = ""
    """What it shows of them, such as `training`; '' for the summary."""


MISSING = Value("–")


def words(text: str) -> Value:
    """A cell of text."""
    return Value(text)


def number(
    value: float | None, display: Display, low: float | None = None, high: float | None = None, mark: str = ""
) -> Value:
    """A cell with a number in its display unit, and its interval if there is one."""
    if value is None:
        return MISSING
    text = format_value(value, display)
    if low is not None and high is not None:
        text += f" [{format_value(low, display)}, {format_value(high, display)}]"
    return Value(_marked(text, mark), value, low, high, display, mark)


def summary(found: Summary | None, display: Display, mark: str = "") -> Value:
    """A cell with a mean and its interval; with the values if there are fewer than 3 that differ."""
    if found is None:
        return MISSING
    cell = number(found.mean, display, found.low, found.high, mark)
    if found.low is not None or len(set(found.values)) == 1:
        return number(found.mean, display, mark=mark) if len(set(found.values)) == 1 else cell
    text = " / ".join(format_value(value, display) for value in found.values)
    return Value(_marked(text, mark), found.mean, None, None, display, mark)


def _marked(text: str, mark: str) -> str:
    sign = {"disturbed": " !", "chance": " ~"}.get(mark, "")
    return f"{text}{sign}"


def ratio(value: float | None, low: float | None = None, high: float | None = None, mark: str = "") -> Value:
    """A cell with a ratio to the reference: `0.62x [0.60, 0.64]`."""
    if value is None:
        return MISSING
    interval = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return Value(f"{ratio_text(value)}{interval}", value, low, high, "x", mark)


def signed(value: float, display: Display, low: float | None = None, high: float | None = None) -> Value:
    """A cell with a difference and its half-width: `-5.7 ± 1.2`."""
    return Value(signed_text(value, display, low, high), value, low, high, display)


def signed_text(value: float, display: Display, low: float | None = None, high: float | None = None) -> str:
    """A difference with its sign and half-width."""
    shown = format_value(abs(value), display)
    sign = "−" if value < 0 else "+"
    text = f"{sign}{shown}" if float_of(shown) else shown
    if low is None or high is None:
        return text
    return f"{text} ± {format_value((high - low) / 2, display)}"


def float_of(text: str) -> float:
    """The number at the start of a formatted value; 1 where it starts with something else."""
    try:
        return float(text.split()[0].replace(",", ""))
    except ValueError:
        return 1.0


def grid_documents(grids: Iterable[Grid]) -> list[dict[str, Any]]:
    """Each grid with its notes, and a record per row: numbers in stored units, intervals where there are any."""
    return [
        {
            "title": grid.title,
            **dict(grid.about),
            "notes": list(grid.notes),
            "rows": [
                {heading.key: _cell(value) for heading, value in zip(grid.headings, row, strict=True)}
                for row in grid.rows
            ],
        }
        for grid in grids
    ]


def _cell(value: Value) -> str | dict[str, Any] | None:
    """A cell as JSON: text, or a number with all that is known of it."""
    if value == MISSING:
        return None
    if value.number is None:
        return value.text
    known = {
        "value": value.number,
        "low": value.low,
        "high": value.high,
        "unit": stored_unit(value.unit),
        "mark": value.mark,
    }
    return {**{key: part for key, part in known.items() if part not in (None, "")}, "text": value.text}


def _record(grid: Grid, row: Sequence[Value]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for heading, value in zip(grid.headings, row, strict=True):
        record[heading.key] = None if value == MISSING else value.text if value.number is None else value.number
        if value.low is not None:
            record[f"{heading.key}_low"], record[f"{heading.key}_high"] = value.low, value.high
        if value.unit:
            record[f"{heading.key}_unit"] = stored_unit(value.unit)
        if value.mark:
            record[f"{heading.key}_mark"] = value.mark
    return record


def grid_rows(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """The records of all rows, with the same keys each, as a CSV file needs them."""
    records = [{"table": grid.title, **dict(grid.about), **_record(grid, row)} for grid in grids for row in grid.rows]
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]
