"""`adapeff run`: submit a sweep, run it on this machine, show progress, print the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.local_worker import run_submission
from adapeff.cli.messages import note
from adapeff.cli.options import (
    DataRoot,
    Force,
    Json,
    Methods,
    Models,
    Overrides,
    Seeds,
    SweepFile,
    Tasks,
    WaitForDevice,
    overrides,
)
from adapeff.cli.output import check_plot, print_report, print_view, save_plot
from adapeff.cli.progress import raise_for_failures
from adapeff.cli.report_options import price_of
from adapeff.cli.submission import describe, expand_sweep, note_held, store
from adapeff.service.errors import AdapeffError, JobsFailedError, UnreachableError
from adapeff.service.reporting.pictures import DEFAULT_PICTURE
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database
from adapeff.service.store.tables import FINAL_STATES


def run(
    context: typer.Context,
    sweep: SweepFile,
    given: Overrides = None,
    models: Models = None,
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    data_root: DataRoot = None,
    devices: Annotated[
        str | None, typer.Option(help="Devices as for `worker`; default: those that the jobs request.")
    ] = None,
    wait_for_device: WaitForDevice = False,
    with_queue: Annotated[bool, typer.Option("--with-queue", help="Also run the other jobs in the queue.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Save a picture of quality against training cost to this file.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Submit a sweep, run its jobs on this machine, and print the report. Finished jobs are reused.

    Ctrl-C returns running jobs to the queue; the same command resumes them. Exits with 4 if a job failed.

    Examples:

        adapeff run demo

        adapeff run sst2 --data-root /data --seeds 0,1,2 --plot sst2.png

        adapeff run my.yaml --methods full,houlsby --devices cuda:0
    """
    if plot is not None:
        check_plot(plot)
    invocation = Invocation.of(context, data_root=data_root)
    settings = invocation.settings
    spec, specs = expand_sweep(sweep, overrides(given, models, tasks, methods, seeds), settings)
    with invocation.database() as database:
        submission = store(database, spec, specs, settings, force=force)
        note(describe(spec, specs, submission))
        note_held(database, spec, submission)
        failure: AdapeffError | None = None
        try:
            run_submission(
                invocation, database, submission, devices, with_queue=with_queue, wait_for_device=wait_for_device
            )
        except UnreachableError:
            raise
        except AdapeffError as error:  # still report the finished jobs
            failure = JobsFailedError(str(error)) if _was_tried(database, submission.job_ids) else error
        if failure is not None and not _has_finished(database, submission.job_ids):
            raise failure
        with database.session(read_only=True) as session:
            report = build_report(session, sweep_ids=[submission.sweep_id], options=Options(price=price_of(settings)))
        if as_json:
            print_report(report, "json")
        else:
            print_view(report, "summary", "table")
            note(f"more: adapeff report {spec.name} --view quality, languages, training, inference, ..., full")
        if plot is not None:
            save_plot(report, DEFAULT_PICTURE, plot)
        raise_for_failures(database, submission.job_ids)
        if failure is not None:
            raise failure


def _has_finished(database: Database, job_ids: list[int]) -> bool:
    """Whether any of the jobs has ended."""
    with database.session(read_only=True) as session:
        return any(job.state in FINAL_STATES for job in job_queries.list_jobs(session, ids=job_ids))


def _was_tried(database: Database, job_ids: list[int]) -> bool:
    """Whether any of the unfinished jobs has run; if not, the worker failed to start."""
    with database.session(read_only=True) as session:
        unfinished = [job.id for job in job_queries.list_jobs(session, ids=job_ids, states=("queued", "running"))]
        return any(job_queries.list_runs(session, unfinished).values())
