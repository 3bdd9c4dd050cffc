"""`adapeff show`, `logs`, `cancel`, `retry`: inspect and control single jobs."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.job_choice import JobsWhere, OfSweep, choose, only_where
from adapeff.cli.job_views import job_view
from adapeff.cli.messages import note
from adapeff.cli.options import JobId, JobIds, Json
from adapeff.cli.render.tables import print_job
from adapeff.cli.submission import send
from adapeff.service.errors import JobError, suggest
from adapeff.service.store import job_queries, jobs, steering, sweeps
from adapeff.service.store.tables import Run

FOLLOW_SECONDS = 0.3


def show(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show one job: its specification, how its runs ended, and the measurements of the successful one.

    Examples:

        adapeff show 12

        adapeff show 12 --json | jq .measurements
    """
    with Invocation.of(context).database() as database:
        view = job_view(database, job)
    if as_json:
        print(json.dumps(view, indent=1))
        return
    print_job(view)


def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--run", help="A run's number, as in `adapeff show`; default: the last run.")
    ] = None,
) -> None:
    """Print the log of a job's run.

    Examples:

        adapeff logs 12

        adapeff logs 12 -f
    """
    invocation = Invocation.of(context)
    position = 0
    while True:
        run, is_running = _find_run(invocation, job, attempt)
        log = Path(run.folder) / "run.log"
        if not log.is_file() and not (follow and is_running):
            raise JobError(
                f"there is no log of run {run.token} of job {job} at {log}; if it ran on another host, run this "
                "command there, or share ADAPEFF_ARTIFACTS_URL between hosts"
            )
        if log.is_file():
            with log.open("rb") as file:
                file.seek(position)
                text = file.read()
                position += len(text)
            print(text.decode(errors="replace"), end="", flush=True)
        if not follow or not is_running:
            return
        time.sleep(FOLLOW_SECONDS)


def _find_run(invocation: Invocation, job_id: int, attempt: int | None) -> tuple[Run, bool]:
    with invocation.database() as database, database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        runs = job_queries.list_runs(session, [job_id])[job_id]
        chosen = [run for run in runs if attempt is None or run.token == attempt]
        if not chosen:
            if not runs:
                raise JobError(f"job {job_id} has not run yet (it is {job.state}); see `adapeff status`")
            numbers = ", ".join(str(run.token) for run in runs)
            raise JobError(f"job {job_id} has no run {attempt}; expected one of {numbers}")
        return chosen[-1], chosen[-1].outcome == "running"


def cancel(
    context: typer.Context,
    jobs_given: JobIds = None,
    sweep: OfSweep = None,
    where: JobsWhere = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs: queued ones immediately, running ones within seconds.

    Examples:

        adapeff cancel 12 13

        adapeff cancel --sweep demo

        adapeff cancel --sweep demo --where method=full
    """
    with Invocation.of(context).database() as database, database.session() as session:
        choice = choose(session, "cancel", named=jobs_given, sweep=sweep, where=where, states=("queued", "running"))
        done = [(job_id, jobs.request_cancel(session, job_id)) for job_id in choice.named]
        for job_id in choice.ids:
            if job_id not in choice.named:
                with suppress(JobError):  # it has just ended, perhaps with a cancelled job that it needs
                    done.append((job_id, jobs.request_cancel(session, job_id)))
    _print_states(done, as_json=as_json)
    if not done:
        note("nothing to cancel: no job that was selected is queued or running")


def retry(
    context: typer.Context,
    jobs_given: JobIds = None,
    failed: Annotated[bool, typer.Option("--failed", help="Select failed jobs, whatever the cause.")] = False,
    cause: Annotated[
        list[str] | None,
        typer.Option(
            "--cause",
            help=f"Select jobs that failed by this cause, one of {', '.join(jobs.CAUSES)} (a job that it needs ended "
            "otherwise than succeeded), or cancelled ones; repeatable.",
        ),
    ] = None,
    sweep: OfSweep = None,
    where: JobsWhere = None,
    as_json: Json = False,
) -> None:
    """Put failed or cancelled jobs back on the queue, with their failure count reset.

    Examples:

        adapeff retry 12

        adapeff retry --failed

        adapeff retry --sweep demo --cause lost --cause source
    """
    for name in cause or []:
        if name not in (*jobs.CAUSES, steering.CANCELLED):
            raise JobError(f"unknown cause '{name}'; {suggest(name, (*jobs.CAUSES, steering.CANCELLED))}")
    invocation = Invocation.of(context)
    selects = failed or bool(cause) or sweep is not None or bool(where)
    if not jobs_given and not selects:
        raise JobError("no job to retry is given; name job ids, or select jobs with --failed, --cause or --sweep")
    with invocation.database() as database:
        with database.session() as session:
            named = list(dict.fromkeys(jobs_given or []))
            for job_id in named:
                jobs.retry_job(session, job_id)
            queued, left = named, list[str]()
            if selects:
                sweep_ids = sweeps.find_sweep_ids(session, sweep) if sweep is not None else None
                ended = steering.list_ended(session, sweep_ids=sweep_ids, causes=[] if failed else cause or [])
                more, left = steering.retry_where_possible(session, only_where(session, ended, where))
                queued = [*named, *more]
        _print_states([(job_id, "queued") for job_id in queued], as_json=as_json)
        if not queued and not left:
            note("nothing to retry: no job that was selected has failed")
        for reason in left:
            note(reason)
        send(database, invocation.settings)


def _print_states(states: list[tuple[int, str]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"id": job_id, "state": state} for job_id, state in states]))
        return
    for job_id, state in states:
        print(f"job {job_id} {state}")
