"""Print reports and profiles in the requested format, and save plots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape

from adapeff.cli.messages import note
from adapeff.cli.render.grids import markdown_grids, print_first_screen, print_grids
from adapeff.cli.render.latex import latex_grids
from adapeff.cli.render.markdown import report_markdown
from adapeff.cli.render.pictures.catalog import save_picture
from adapeff.cli.render.profiles import profile_grids, profile_title
from adapeff.cli.render.report_tables import print_report_tables
from adapeff.cli.render.tables import print_table, stdout
from adapeff.cli.render.text import spreadsheet_cell
from adapeff.service.errors import ConfigError, SpecError, suggest
from adapeff.service.reporting.arrange import AS_BUILT, Arrangement
from adapeff.service.reporting.first_screen import first_screens
from adapeff.service.reporting.grids import Grid, grid_documents, grid_rows
from adapeff.service.reporting.notes import profile_notes
from adapeff.service.reporting.pictures import DEFAULT_PICTURE, PICTURES
from adapeff.service.reporting.profiles import ProfileTable, profile_rows
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.reporting.views import VIEWS, build_view

ReportFormat = Literal["table", "markdown", "latex", "json", "csv"]
PageFormat = Literal["table", "markdown", "latex", "json", "csv", "html"]
ALL_PICTURES = "all"
_PLOT_SUFFIXES = (".png", ".pdf", ".svg")


def print_report(report: Report, form: ReportFormat) -> None:
    """Print a report to stdout, and the number of jobs it does not include to stderr."""
    if form == "json":
        print(json.dumps([*report_rows(report), *profile_rows(report.profiles)], indent=1))
    elif form == "csv":
        print(csv_text([{**row, "values": " ".join(map(str, row["values"]))} for row in report_rows(report)]), end="")
    elif form == "markdown":
        print(report_markdown(report), end="")
    elif form == "latex":
        print(latex_grids([grid for view in VIEWS for grid in build_view(report, view)]), end="")
    else:
        print_report_tables(report)
        print_profiles(report.profiles)
    _note_what_is_missing(report)


def print_view(report: Report, view: str, form: ReportFormat, shape: Arrangement = AS_BUILT) -> None:
    """Print a view of a report to stdout, and the number of jobs it does not include to stderr."""
    if view == "summary" and form == "table" and not shape.group_by:
        print_first_screen(report, shape)
        if not report.tables:
            print_profiles(report.profiles)
    elif view == "summary" and shape.group_by:
        print_grids_as(shape.apply(screen.noted_grid() for screen in first_screens(report.decisions).screens), form)
    else:
        grids = build_view(report, view)
        print_grids_as(shape.apply(grids), form)
        if not grids and VIEWS[view].needs and report.tables:
            note(f"--view {view} has nothing to show: it needs {VIEWS[view].needs}")
    _note_what_is_missing(report)


def print_grids_as(grids: Sequence[Grid], form: ReportFormat) -> None:
    """Print grids to stdout."""
    if form == "json":
        print(json.dumps(grid_documents(grids), indent=1))
    elif form == "csv":
        print(csv_text(grid_rows(grids)), end="")
    elif form == "markdown":
        print(markdown_grids(grids), end="")
    elif form == "latex":
        print(latex_grids(grids), end="")
    else:
        print_grids(grids)


def write_page(page: str, out: Path | None) -> None:
    """Write an HTML page to a file, or to stdout.

    Raises:
        SpecError: if the file cannot be written.
    """
    if out is None:
        print(page, end="")
        return
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"--out is '{out}', which cannot be written: {error.strerror}; choose another file") from error
    note(f"saved {out}")


def _note_what_is_missing(report: Report) -> None:
    if report.unfinished:
        states = ", ".join(f"{count} {state}" for state, count in sorted(report.unfinished.items()))
        note(f"not in the report{' (counted without --where)' if report.is_selection else ''}: {states}")
    if report.apart:
        runs = "1 run" if report.apart == 1 else f"{report.apart} runs"
        note(f"{runs} of extensions, or made for them: --view extend")
    if report.selects_nothing:
        note("no finished run meets the conditions of --where")
    elif not report.tables and not report.profiles and not report.apart:
        note("no job has finished yet; see `adapeff status`")


def print_profiles(tables: Sequence[ProfileTable], *, as_json: bool = False) -> None:
    """Print profiles as tables, or every figure of them as JSON."""
    if as_json:
        print(json.dumps(list(profile_rows(tuple(tables))), indent=1))
        return
    for table in tables:
        stdout().print(f"\n[bold]{escape(profile_title(table))}[/]")
        for title, headings, rows in profile_grids(table):
            print_table(title, headings, rows)
        for footnote in profile_notes(table):
            stdout().print(f"  {escape(footnote)}", style="dim")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV with a heading, with cells escaped so that no spreadsheet reads them as formulas."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: spreadsheet_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def check_folder(flag: str, path: Path) -> None:
    """Refuse a file whose folder does not exist, before any work.

    Raises:
        SpecError: naming the flag and the folder.
    """
    if not path.parent.is_dir():
        raise SpecError(f"{flag} is '{path}', but the folder {path.parent} does not exist; create it or choose another")


def check_plot(path: Path, name: str = DEFAULT_PICTURE) -> None:
    """Refuse a picture that is unknown, or that cannot be drawn or saved, before any work.

    Raises:
        SpecError: if the picture or its folder does not exist, or the suffix is not a supported image format.
        ConfigError: if matplotlib is not installed.
    """
    names = (*PICTURES, ALL_PICTURES)
    if name not in names:
        raise SpecError(f"there is no picture '{name}'; {suggest(name, names)}")
    check_folder("--plot", path)
    is_folder_of_all = name == ALL_PICTURES and path.is_dir()
    if path.suffix.lower() not in _PLOT_SUFFIXES and not is_folder_of_all:
        folder = ", or a folder that exists" if name == ALL_PICTURES else ""
        raise SpecError(f"--plot is '{path}'; expected a file name ending in .png, .svg or .pdf{folder}")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib, which is not installed; run pip install 'adapeff[plot]'")


def save_plot(report: Report, name: str, path: Path) -> None:
    """Save a picture of the report; `all` saves each that has content.

    All go to a folder as SVG, or beside each other with their names before the file's.

    Raises:
        SpecError: if there is nothing to draw.
    """
    if name != ALL_PICTURES:
        save_picture(report, name, path)
        note(f"saved {path}")
        return
    for each in PICTURES:
        file = path / f"{each}.svg" if path.is_dir() else path.with_name(f"{each}-{path.name}")
        try:
            save_picture(report, each, file)
            note(f"saved {file}")
        except SpecError as error:
            note(str(error))
