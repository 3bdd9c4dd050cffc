"""Print grids: in a terminal, as Markdown, as records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable

from adapeff.cli.render.tables import shown, stdout
from adapeff.cli.render.text import markdown_cell, one_line
from adapeff.service.reporting.arrange import Arrangement
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.grids import Grid
from adapeff.service.reporting.report import Report

MAX_UNWRAPPED = 24
"""Cells of up to this many characters stay on one line."""
LEAST_WRAPPED = 10
"""Columns that wrap are at least this wide: the longest word of a verdict."""
WIDE = 120
"""Terminals of this width have room for two spaces between columns."""
MAX_SHORT = 11
"""The same where the table is wider than the terminal: names fold, figures do not."""


def print_first_screen(report: Report, shape: Arrangement) -> None:
    """The compact grid of every model and task, its sentences, and the notes of all of them."""
    found = first_screens(report.decisions)
    console = stdout()
    for screen, grid in zip(found.screens, shape.apply(screen.grid for screen in found.screens), strict=True):
        notes = found.notes_text(screen)
        console.print(f"\n[bold]{shown(grid.title)}[/]" + (f" [dim]· {notes}[/]" if notes else ""))
        console.print(_drawn(grid))
        for sentence in screen.sentences:
            console.print(shown(sentence))
    if found.notes:
        console.print()
    for number, note in enumerate(found.notes, start=1):
        console.print(f"[{number}] {note}", style="dim", markup=False)


def print_grids(grids: Sequence[Grid]) -> None:
    """Grids with their titles and footnotes."""
    console = stdout()
    for grid in grids:
        console.print(f"\n[bold]{shown(grid.title)}[/]")
        if grid.rows:
            console.print(_drawn(grid))
        for note in grid.notes:
            console.print(f"  {note}", style="dim", markup=False)


def _drawn(grid: Grid) -> RichTable:
    """Two spaces between columns and whole names where there is room; else one space, and names that fold."""
    columns, width = range(len(grid.headings)), stdout().width
    whole = sum(_width(grid, column) for column in columns)
    gap = 1 if width >= min(WIDE, whole + 2 * len(columns)) else 0
    unwrapped = MAX_UNWRAPPED if width >= sum(_least_width(grid, column) + 1 for column in columns) else MAX_SHORT
    table = RichTable(box=SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)
    for number, heading in enumerate(grid.headings):
        table.add_column(
            escape(heading.text),
            justify="left" if is_text(grid, number) else "right",
            overflow="fold",
            no_wrap=heading.key != "verdict" and _longest(grid, number) <= unwrapped,
            min_width=LEAST_WRAPPED if heading.key == "verdict" else None,
        )
    for row in grid.rows:
        table.add_row(*(shown(value.text) for value in row))
    return table


def is_text(grid: Grid, column: int) -> bool:
    """Whether a column holds text only; columns of numbers are aligned to the right."""
    return all(row[column].number is None for row in grid.rows)


def _longest(grid: Grid, column: int) -> int:
    return max((len(row[column].text) for row in grid.rows), default=0)


def _width(grid: Grid, column: int) -> int:
    lines = grid.headings[column].text.split("\n")
    return max(_longest(grid, column), *map(len, lines))


def _least_width(grid: Grid, column: int) -> int:
    is_wrapped = grid.headings[column].key == "verdict" or _longest(grid, column) > MAX_UNWRAPPED
    return min(LEAST_WRAPPED, _width(grid, column)) if is_wrapped else _width(grid, column)


def markdown_grids(grids: Sequence[Grid]) -> str:
    """Grids as Markdown."""
    return "\n".join(line for grid in grids for line in _markdown(grid)) + "\n"


def _markdown(grid: Grid) -> Iterator[str]:
    yield from (f"## {one_line(grid.title)}", "")
    yield "| " + " | ".join(markdown_cell(heading.text.replace("\n", " ")) for heading in grid.headings) + " |"
    yield "| " + " | ".join("---" for _ in grid.headings) + " |"
    for row in grid.rows:
        yield "| " + " | ".join(markdown_cell(value.text) for value in row) + " |"
    yield ""
    yield from (f"- {one_line(note)}" for note in grid.notes)
    yield ""
