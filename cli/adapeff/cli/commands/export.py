"""`adapeff export`: every measurement behind a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import AllJobs, SweepName, check_exclusive
from adapeff.cli.output import check_folder, csv_text
from adapeff.service.errors import ConfigError, SpecError
from adapeff.service.reporting.export import measurement_rows
from adapeff.service.store import sweeps

ExportFormat = Literal["json", "csv", "parquet"]
_FORMATS: dict[str, ExportFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


def export(
    context: typer.Context,
    sweep: SweepName = None,
    all_jobs: AllJobs = False,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="File format; default: by the suffix of --out, else csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")] = None,
) -> None:
    """Export all measurements of finished jobs, one per row.

    Examples:

        adapeff export demo --format csv > demo.csv

        adapeff export --all --format parquet -o all.parquet
    """
    check_exclusive("a sweep", sweep is not None, "--all", all_jobs)
    chosen = _choose_format(form, out)
    if out is not None:
        check_folder("--out", out)
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        rows = list(measurement_rows(session, sweep_ids=sweep_ids))
    if chosen == "parquet" and out is not None:
        _write_parquet(rows, out)
    else:
        text = json.dumps(rows, indent=1) + "\n" if chosen == "json" else csv_text(rows)
        if out is None:
            sys.stdout.write(text)
        else:
            out.write_text(text, encoding="utf-8")
    note(f"exported {len(rows)} measurements{f' to {out}' if out else ''}")


def _choose_format(form: ExportFormat | None, out: Path | None) -> ExportFormat:
    """Choose the format by --format or by the suffix of --out.

    Raises:
        SpecError: if the two contradict each other, or the suffix is unknown and there is no --format.
    """
    if out is None:
        if form == "parquet":
            raise SpecError("parquet is a binary format and needs a file; add --out FILE.parquet")
        return form or "csv"
    if out.is_char_device() or out.is_fifo():
        return form or "csv"
    by_suffix = _FORMATS.get(out.suffix.lower())
    if by_suffix is None and form is None:
        raise SpecError(f"--out is '{out.name}'; expected a suffix of {', '.join(_FORMATS)}, or the format as --format")
    if by_suffix is not None and form is not None and form != by_suffix:
        raise SpecError(f"--out is '{out.name}', but --format is {form}; omit --format, or rename the file")
    return form or by_suffix or "csv"


def _write_parquet(rows: list[dict[str, Any]], out: Path) -> None:
    try:  # pyarrow is an optional dependency
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError("parquet needs pyarrow; run pip install 'adapeff[parquet]'") from error
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
