"""`adapeff run`: submit a sweep, work on it here, show how it goes, print the report."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from adapeff.cli import context
from adapeff.cli.commands.submit import describe, expand_sweep, send, store
from adapeff.cli.options import DataRoot, Force, Json, Methods, Models, Overrides, Seeds, SweepFile, Tasks, overrides

if TYPE_CHECKING:
    from adapeff.service.settings import Settings
    from adapeff.service.store.database import Database
    from adapeff.service.store.sweeps import Submission

STOP_SECONDS = 20


def run(
    sweep: SweepFile,
    given: Overrides = None,
    models: Models = None,
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    data_root: DataRoot = None,
    devices: Annotated[str | None, typer.Option(help="As for `worker`; default: what the jobs ask for.")] = None,
    with_queue: Annotated[
        bool, typer.Option("--with-queue", help="Work off everything else that waits in the queue, too.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Save the picture quality against training time here.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Submit a sweep, run its jobs on this machine, and print the report. Finished jobs are re-used.

    Ctrl-C hands back what runs; the same command goes on later. Exits with 4 if a job failed.

    Examples:

        adapeff run demo

        adapeff run sst2 --data-root /data --seeds 0,1,2 --plot sst2.png

        adapeff run my.yaml --methods full,houlsby --devices cuda:0
    """
    from adapeff.cli.commands.report import check_picture, print_report, save_plot
    from adapeff.cli.progress import raise_for_failures
    from adapeff.service.errors import AdapeffError, JobsFailedError, UnreachableError
    from adapeff.service.reporting.report import build_report

    if plot is not None:
        check_picture(plot)
    context.set_flags(data_root=data_root)
    settings = context.settings().values
    spec, jobs = expand_sweep(sweep, overrides(given, models, tasks, methods, seeds), settings)
    with context.database() as database:
        stored = store(database, spec, jobs, settings, force=force)
        context.note(describe(spec, stored))
        trouble: AdapeffError | None = None
        try:
            work_off(database, settings, stored, devices, with_queue=with_queue)
        except UnreachableError:
            raise
        except AdapeffError as error:  # what has finished is shown all the same
            trouble = JobsFailedError(str(error)) if was_tried(database, stored.job_ids) else error
        if trouble is not None and not has_finished(database, stored.job_ids):
            raise trouble
        with database.session(read_only=True) as session:
            report = build_report(
                session,
                sweep_ids=[stored.sweep_id],
                price_per_device_hour=settings.price_per_device_hour,
                currency=settings.currency,
            )
        print_report(report, "json" if as_json else "table")
        if plot is not None:
            save_plot(report, plot)
        raise_for_failures(database, stored.job_ids)
        if trouble is not None:
            raise trouble


def has_finished(database: Database, job_ids: list[int]) -> bool:
    """Whether any of the jobs has ended, so that there is something to show."""
    from adapeff.service.store import job_queries
    from adapeff.service.store.tables import FINAL_STATES

    with database.session(read_only=True) as session:
        return any(job.state in FINAL_STATES for job in job_queries.list_jobs(session, ids=job_ids))


def was_tried(database: Database, job_ids: list[int]) -> bool:
    """Whether any of the jobs that have not ended has run, so that it is a job that failed and not the start."""
    from adapeff.service.store import job_queries

    with database.session(read_only=True) as session:
        left = [job.id for job in job_queries.list_jobs(session, ids=job_ids, states=("queued", "running"))]
        return any(job_queries.list_runs(session, left).values())


def work_off(
    database: Database,
    settings: Settings,
    stored: Submission,
    devices: str | None,
    *,
    cores: int = 1,
    with_queue: bool = False,
) -> None:
    """Run the jobs of a submission that have not ended on this machine, and wait for them.

    Args:
        devices: as `worker` takes them; None: what the jobs ask for.
        cores: CPU cores a slot needs at least.
        with_queue: serve the queue meanwhile, in which other jobs may wait.
    """
    from adapeff.cli.progress import wait_for

    pending = _pending_devices(database, stored.job_ids)
    if not pending:
        return
    if cores > settings.cores_per_slot:
        context.set_flags(cores_per_slot=cores)
    if with_queue:
        send(database, settings)
    verb = ["daemon"] if with_queue else ["sweep", str(stored.sweep_id)]
    with _workers([_serving(devices, pending)] if devices else _devices_for(pending), verb) as workers:
        try:
            wait_for(database, stored.job_ids, workers=workers)
        except context.Interrupted:
            context.note("stopping: what runs goes back to the queue; the same command goes on with it")
            raise


def _pending_devices(database: Database, job_ids: list[int]) -> set[str]:
    from adapeff.service.lanes import device_of
    from adapeff.service.store import job_queries

    with database.session(read_only=True) as session:
        found = job_queries.list_jobs(session, ids=job_ids, states=("queued", "running"))
        return {device_of(job.lane) for job in found}


def _serving(devices: str, pending: set[str]) -> str:
    """The devices asked for, if a worker on them can run every job that waits."""
    from adapeff.service.errors import ResourceError

    kind = devices.partition(":")[0]
    if kind in ("cpu", "cuda") and (other := pending - {"any", kind}):
        raise ResourceError(
            f"--devices {devices} cannot run jobs whose setting is device: {', '.join(sorted(other))}; "
            "leave --devices out, or override with -s device=any"
        )
    return devices


def _devices_for(asked: Iterable[str]) -> list[str]:
    """One worker per kind of device the jobs ask for; those that take any device go along with either."""
    kinds = sorted(set(asked) - {"any"})
    return kinds or ["auto"]


@contextmanager
def _workers(devices: list[str], verb: list[str]) -> Iterator[list[tuple[subprocess.Popen[bytes], IO[bytes]]]]:
    """Workers of our own, stopped afterwards: what they still run is handed back to the queue."""
    with ExitStack() as stack:
        started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for kind in devices:
            log = stack.enter_context(tempfile.TemporaryFile())
            command = [
                sys.executable,
                "-m",
                "adapeff.worker",
                *verb,
                "--devices",
                kind,
                "--quiet",
                "--stop-with-stdin",
            ]
            # A session of their own: a Ctrl-C in the terminal must reach us alone, so that we stop them in order.
            # Should we be killed, their standard input ends, and they stop by themselves.
            process = subprocess.Popen(
                command, stderr=log, stdin=subprocess.PIPE, start_new_session=True, env=context.child_environment()
            )
            started.append((process, log))
        try:
            yield started
        finally:
            for process, _ in started:
                process.send_signal(signal.SIGTERM)
            for process, _ in started:
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
