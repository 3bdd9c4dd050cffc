"""`adapeff export`: every measurement behind a report, and the jobs, curves and environments they belong to."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from adapeff.cli.export_files import replacing, write_csv, write_json, write_parquet
from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.mlflow_export import EXPERIMENT, check_mlflow, copy_runs
from adapeff.cli.options import AllJobs, SweepName, check_exclusive
from adapeff.cli.output import check_folder
from adapeff.cli.run_files import RUN_FILES, check_run_folder, write_run_files
from adapeff.service.errors import SpecError
from adapeff.service.reporting.export import Export, What, open_export
from adapeff.service.reporting.finished_runs import finished_runs
from adapeff.service.reporting.garbage import without_garbage_collection
from adapeff.service.store import sweeps
from adapeff.service.store.archive import write_archive

ExportFormat = Literal["json", "csv", "parquet"]
_FORMATS: dict[str, ExportFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
_ROWS: dict[What, str] = {
    "measurements": "measurements",
    "jobs": "jobs",
    "curves": "points of curves",
    "environments": "environments of runs",
}


def export(
    context: typer.Context,
    sweep: SweepName = None,
    all_jobs: AllJobs = False,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="File format; default: by the suffix of --out, else csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File or folder to write; default: stdout.")] = None,
    what: Annotated[
        Literal["measurements", "jobs", "curves", "environments", "archive", "peft-results", "model-cards"],
        typer.Option(
            "--what",
            help="Measurements, jobs with their specifications and states, curves of (step, value), the environment of "
            "each run, or an archive of all of it for `adapeff import` (a .gz file). As files in a folder: "
            "peft-results, the layout of PEFT's method comparison, for each training run; model-cards for the Hugging "
            "Face Hub, for each run that kept its weights.",
        ),
    ] = "measurements",
    with_predictions: Annotated[
        bool, typer.Option("--with-predictions", help="Include the runs' predictions in an archive.")
    ] = False,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow",
            metavar="URI",
            help="Instead of writing a file, copy finished runs to MLflow: the URI of a tracking server or store, such "
            "as http://localhost:5000 or sqlite:///mlflow.db. Runs that it has are not copied again.",
        ),
    ] = None,
) -> None:
    """Export all measurements of finished jobs, one per row, or what else is stored.

    Examples:

        adapeff export demo --format csv > demo.csv

        adapeff export --all --what jobs --format parquet -o jobs.parquet

        adapeff export demo --what archive --with-predictions -o demo.gz

        adapeff export demo --what peft-results -o results

        adapeff export demo --mlflow sqlite:///mlflow.db
    """
    check_exclusive("a sweep", sweep is not None, "--all", all_jobs)
    if mlflow is not None:
        is_of_files = out is not None or form is not None or what != "measurements" or with_predictions
        check_exclusive("--mlflow", True, "--out, --format, --what and --with-predictions", is_of_files)
        _copy_to_mlflow(context, sweep, all_jobs, mlflow)
        return
    if out is not None:
        check_folder("--out", out)
    if what == "archive":
        _write_archive(context, sweep, all_jobs, form, out, with_predictions=with_predictions)
        return
    if with_predictions:
        raise SpecError(f"--with-predictions is for archives, not for {what}; add --what archive")
    if what == "peft-results" or what == "model-cards":
        _write_run_files(context, sweep, all_jobs, what, form, out)
        return
    chosen = _choose_format(form, out)
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        count = write_export(open_export(session, what, sweep_ids=sweep_ids), chosen, out)
    note(f"exported {count} {_ROWS[what]}{f' to {out}' if out else ''}")


def _write_archive(
    context: typer.Context,
    sweep: str | None,
    all_jobs: bool,
    form: ExportFormat | None,
    out: Path | None,
    *,
    with_predictions: bool,
) -> None:
    """Write an archive for `adapeff import`.

    Raises:
        SpecError: if it has a format, or no file ending in .gz.
    """
    if form is not None or out is None or out.suffix != ".gz":
        raise SpecError("an archive is a .gz file without a --format; add --out FILE.gz")
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        with replacing(out) as file, gzip.open(file, "wt", encoding="utf-8") as stream:
            written = write_archive(
                session, sweep_ids, lambda line: stream.write(f"{line}\n"), with_predictions=with_predictions
            )
    note(f"exported {written.jobs} finished jobs to {out}")
    if written.without_predictions:
        note(
            f"without the predictions of {written.without_predictions} runs, which are not on this host as they were "
            "stored; export on the host that has them"
        )


def _write_run_files(
    context: typer.Context, sweep: str | None, all_jobs: bool, what: str, form: ExportFormat | None, out: Path | None
) -> None:
    """Write a file for each run to a folder.

    Raises:
        SpecError: if there is a format or no folder, or no run has such a file.
    """
    if form is not None:
        raise SpecError(f"{what} have a format of their own; omit --format")
    folder = check_run_folder(what, out)
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        written, without = write_run_files(what, finished_runs(session, sweep_ids), folder)
    note(f"exported {written} {RUN_FILES[what].name} to {folder}")
    if without:
        note(f"without {without} runs that kept no weights; run them again with -s keep_weights=true")


def _copy_to_mlflow(context: typer.Context, sweep: str | None, all_jobs: bool, uri: str) -> None:
    check_mlflow()
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        copied = copy_runs(finished_runs(session, sweep_ids, kinds=("train", "profile")), uri)
    already = f"; {copied.present} were there" if copied.present else ""
    note(f"copied {copied.new} runs to the experiment '{EXPERIMENT}' of MLflow{already}")


def write_export(export: Export, form: ExportFormat, out: Path | None) -> int:
    """Write an export to a file, or text to stdout. Returns the number of rows."""
    with without_garbage_collection():
        return _write(export, form, out)


def _write(export: Export, form: ExportFormat, out: Path | None) -> int:
    write_text = write_json if form == "json" else write_csv
    if out is None:
        return write_text(export, sys.stdout.write)
    with replacing(out) as file:
        if form == "parquet":
            return write_parquet(export, file)
        with file.open("w", encoding="utf-8") as stream:
            return write_text(export, stream.write)


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
