"""`adapeff report` and `export`: what finished jobs come to, and every number behind it."""

from __future__ import annotations

import csv
import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adapeff.cli import context
from adapeff.cli.options import Json, SweepName
from adapeff.cli.render.text import spreadsheet_cell

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

ReportFormat = Literal["table", "markdown", "json", "csv"]
ExportFormat = Literal["json", "csv", "parquet"]


def report(
    sweep: SweepName = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="Every finished job, whatever its sweep.")] = False,
    form: Annotated[ReportFormat, typer.Option("--format", help="How to print it.")] = "table",
    plot: Annotated[Path | None, typer.Option(help="Save the picture quality against training time here.")] = None,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Compare unlike runs too; the report says what differs."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Sum up finished jobs: per model and task a table of methods and figures, each beside the reference's.

    Examples:

        adapeff report demo

        adapeff report --all --format markdown > report.md

        adapeff report --all --allow-mixed

        adapeff report demo --json | jq '.[] | select(.figure == "quality")'
    """
    from adapeff.service.reporting.report import build_report
    from adapeff.service.store import sweeps

    if plot is not None:
        check_picture(plot)
    _one_of("a sweep", sweep is not None, "--all", all_jobs)
    _one_of("--json", as_json, f"--format {form}", form not in ("table", "json"))
    with context.database() as database, database.session(read_only=True) as session:
        settings = context.settings().values
        built = build_report(
            session,
            sweep_ids=None if all_jobs else sweeps.find_sweep_ids(session, sweep),
            allow_mixed=allow_mixed,
            price_per_device_hour=settings.price_per_device_hour,
            currency=settings.currency,
        )
    print_report(built, "json" if as_json else form)
    if plot is not None:
        save_plot(built, plot)


def _one_of(one: str, has_one: bool, other: str, has_other: bool) -> None:
    if has_one and has_other:
        from adapeff.service.errors import SpecError

        raise SpecError(f"{one} and {other} contradict each other; leave one out")


def print_report(built: Report, form: ReportFormat) -> None:
    """Print a report to stdout."""
    from adapeff.cli.commands.profile import print_profiles
    from adapeff.service.reporting.profiles import profile_rows
    from adapeff.service.reporting.rows import report_rows

    if form == "json":
        print(json.dumps([*report_rows(built), *profile_rows(built.profiles)], indent=1))
    elif form == "csv":
        rows = [{**row, "values": " ".join(map(str, row["values"]))} for row in report_rows(built)]
        print(_csv(rows), end="")
    elif form == "markdown":
        from adapeff.cli.render.markdown import report_markdown

        print(report_markdown(built), end="")
    else:
        from adapeff.cli.render.tables import print_report_tables

        print_report_tables(built)
        print_profiles(built.profiles)
    if built.unfinished:
        states = ", ".join(f"{count} {state}" for state, count in sorted(built.unfinished.items()))
        context.note(f"not in the report: {states}")
    if not built.tables and not built.profiles:
        context.note("no job has finished yet; `adapeff status` shows how they stand")


_PICTURES = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be drawn or written, before any work.

    Raises:
        SpecError: if its folder does not exist, or its ending is no picture's.
        ConfigError: if matplotlib is not installed.
    """
    from adapeff.service.errors import ConfigError, SpecError

    if not path.parent.is_dir():
        raise SpecError(f"the folder {path.parent} of --plot does not exist; make it, or name another")
    if path.suffix.lower() not in _PICTURES:
        raise SpecError(f"'{path}' names no picture; expected an ending .png, .svg or .pdf")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib, which is not installed; run pip install 'adapeff[plot]'")


def save_plot(built: Report, path: Path) -> None:
    """Save the report's picture.

    Raises:
        SpecError: if there is nothing to draw, or the file's ending is no picture's.
    """
    from adapeff.cli.render.plots import plot_report

    plot_report(built, path)
    context.note(f"saved {path}")


def export(
    sweep: SweepName = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="Every finished job, whatever its sweep.")] = False,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="File format; default: what --out ends in, else csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; stdout if none.")] = None,
) -> None:
    """Export every measurement of every run that counts, in long form.

    Examples:

        adapeff export demo --format csv > demo.csv

        adapeff export --all --format parquet -o all.parquet
    """
    from adapeff.service.errors import SpecError
    from adapeff.service.reporting.export import measurement_rows
    from adapeff.service.store import sweeps

    _one_of("a sweep", sweep is not None, "--all", all_jobs)
    _check_ending(form, out)
    form = form or _form_of(out)
    if form == "parquet" and out is None:
        raise SpecError("parquet is a binary format; name a file with --out")
    if out is not None and not out.parent.is_dir():
        raise SpecError(f"the folder {out.parent} of --out does not exist; make it, or name another")
    with context.database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        rows = list(measurement_rows(session, sweep_ids=sweep_ids))
    if form == "parquet" and out is not None:
        _write_parquet(rows, out)
    else:
        text = json.dumps(rows, indent=1) + "\n" if form == "json" else _csv(rows)
        if out is None:
            sys.stdout.write(text)
        else:
            out.write_text(text, encoding="utf-8")
    context.note(f"{len(rows)} measurements{f' in {out}' if out else ''}")


_ENDINGS: dict[str, ExportFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


def _check_ending(form: ExportFormat | None, out: Path | None) -> None:
    """Refuse a file whose name says another format than it would hold, or none of ours."""
    from adapeff.service.errors import SpecError

    if out is None or out.is_char_device() or out.is_fifo():
        return
    said = _ENDINGS.get(out.suffix.lower())
    if said is None and form is None:
        raise SpecError(f"--out is '{out.name}', expected a name in {', '.join(_ENDINGS)}; or say --format")
    if said is not None and form is not None and form != said:
        raise SpecError(f"--out is '{out.name}', but --format is {form}; leave --format out, or rename the file")


def _form_of(out: Path | None) -> ExportFormat:
    """The format that a file's name asks for."""
    return _ENDINGS.get(out.suffix.lower(), "csv") if out is not None else "csv"


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: spreadsheet_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _write_parquet(rows: list[dict[str, Any]], out: Path) -> None:
    from adapeff.service.errors import ConfigError

    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError("parquet needs pyarrow; run pip install 'adapeff[parquet]'") from error
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
