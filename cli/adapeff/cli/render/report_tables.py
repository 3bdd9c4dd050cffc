"""Print the complete tables of a report on stdout: every figure, with notes."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table as RichTable

from adapeff.cli.render.markdown import describe, overview_grids, rerun_grids, target_grids
from adapeff.cli.render.tables import print_table, shown, stdout
from adapeff.cli.render.units import format_cell, format_language, with_unit
from adapeff.service.reporting.languages import LanguageCell
from adapeff.service.reporting.notes import table_notes
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.table import Table

MAX_METHODS_AS_COLUMNS = 5


def print_report_tables(report: Report) -> None:
    """Print the report's tables with their notes; a few methods are columns, which fit a terminal, many are rows."""
    console = stdout()
    for table in report.tables:
        console.print(f"\n[bold]{shown(table.title)}[/]")
        console.print(shown(describe(table)), style="dim", soft_wrap=False)
        if len(table.rows) <= MAX_METHODS_AS_COLUMNS:
            console.print(_figures(table))
        else:
            console.print(_figures_by_row(table))
            if len(table.languages) > 1:
                console.print(_languages_by_row(table))
        for title, headings, rows in (*target_grids(table), *rerun_grids(table)):
            print_table(title.replace("`", ""), headings, rows)
        for note in table_notes(table):
            console.print(f"  {shown(note.replace('**', '').replace('`', ''))}", style="dim")
    for overview in report.overviews:
        for title, headings, rows in overview_grids(overview):
            console.print()
            print_table(title, headings, rows)


def _figures_by_row(table: Table) -> RichTable:
    drawn = RichTable()
    drawn.add_column("", overflow="fold")
    for heading in ("rate", "n", *map(with_unit, table.columns)):
        drawn.add_column(escape(heading), justify="right", overflow="fold")
    for row in table.rows:
        cells = [format_cell(table, row, column) for column in table.columns]
        drawn.add_row(shown(row.method), f"{row.learning_rate:g}", str(len(row.seeds)), *cells)
    return drawn


def _languages_by_row(table: Table) -> RichTable:
    drawn = RichTable(title=f"{table.metric.name} by language", title_justify="left")
    drawn.add_column("", overflow="fold")
    for language, cells in table.languages.items():
        drawn.add_column(f"{language} ({_baseline(table, cells)})", justify="right")
    for row in table.rows:
        scores = [cells.get(row.method) for cells in table.languages.values()]
        drawn.add_row(
            shown(row.method), *("–" if cell is None else format_language(cell, table.metric) for cell in scores)
        )
    return drawn


def _figures(table: Table) -> RichTable:
    drawn = RichTable()
    drawn.add_column("")
    for row in table.rows:
        drawn.add_column(shown(row.method), justify="right")
    drawn.add_row("learning rate", *(f"{row.learning_rate:g}" for row in table.rows))
    drawn.add_row(
        "n (seeds)", *(f"{len(row.seeds)} ({','.join(map(str, row.seeds))})" for row in table.rows), end_section=True
    )
    for column in table.columns:
        drawn.add_row(
            with_unit(column),
            *(format_cell(table, row, column) for row in table.rows),
        )
    if len(table.languages) > 1:
        drawn.add_section()
        for language, cells in table.languages.items():
            drawn.add_row(
                f"{table.metric.name} {language} ({_baseline(table, cells)})",
                *(
                    format_language(cells[row.method], table.metric) if row.method in cells else "–"
                    for row in table.rows
                ),
            )
    return drawn


def _baseline(table: Table, cells: Mapping[str, LanguageCell]) -> str:
    """The trivial baseline of a language, the same for all methods."""
    baseline = next(iter(cells.values())).baseline
    return f"{table.metric.baseline} {format_value(baseline, table.metric.unit)}"
