"""`adapeff status`: the state of jobs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.cli.render.tables import jobs_table, stdout
from adapeff.service.errors import JobError, suggest
from adapeff.service.reporting.variation import settings_of, varied_settings
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import Database, now
from adapeff.service.store.job_watch import JobWatch
from adapeff.service.store.tables import JOB_STATES, Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


WATCH_SECONDS = 1.0


def status(
    context: typer.Context,
    sweep: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP",
            help="A sweep's name or the id of one submission; default: all jobs.",
            autocompletion=completion.sweep_names,
        ),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Show only jobs in this state; repeatable.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Maximum number of jobs; running and failed ones come first.")
    ] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until all jobs have ended or Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the state of jobs, their progress, and why they failed.

    Examples:

        adapeff status

        adapeff status demo --watch

        adapeff status --state failed --json
    """
    if watch and as_json:
        raise JobError("--watch refreshes a table and --json prints once; omit one of them")
    for name in state or []:
        if name not in JOB_STATES:
            raise JobError(f"unknown state '{name}'; {suggest(name, JOB_STATES)}")
    with Invocation.of(context).database() as database:
        if watch:
            _watch(database, sweep, state or [], limit)
            return
        shown = snapshot(database, sweep, state or [], limit)
    if as_json:
        print(json.dumps(shown, indent=1))
    else:
        stdout().print(jobs_table(shown))


def _watch(database: Database, sweep: str | None, states: list[str], limit: int) -> None:
    with database.session(read_only=True) as session:
        job_watch = JobWatch(sweep_ids=sweeps.find_sweep_ids(session, sweep) if sweep is not None else None)
    total = None
    with Live(console=stdout(), refresh_per_second=4) as live:
        while True:
            with database.session(read_only=True) as session:
                poll = job_watch.poll(session)
                if poll.changed or poll.runs or total != sum(poll.counts.values()):
                    total = sum(poll.counts.values())
                    urgent = job_watch.most_urgent(limit, states=states)
                    shown = job_queries.list_jobs(session, ids=urgent, limit=limit)
                    live.update(jobs_table({"counts": poll.counts, "jobs": _rows(session, shown)}))
            if poll.all_ended:
                return
            time.sleep(WATCH_SECONDS)


def snapshot(database: Database, sweep: str | None, states: list[str], limit: int) -> dict[str, Any]:
    """Count jobs by state, and list jobs with their last run: running ones, failed ones, then the newest."""
    with database.session(read_only=True) as session:
        sweep_ids = sweeps.find_sweep_ids(session, sweep) if sweep is not None else None
        listed = job_queries.list_jobs(session, sweep_ids=sweep_ids, states=states, limit=limit)
        counts = job_queries.count_by_state(session, sweep_ids=sweep_ids)
        return {"counts": counts, "jobs": _rows(session, listed)}


def _rows(session: Session, shown: list[Job]) -> list[dict[str, Any]]:
    runs = job_queries.list_runs(session, [job.id for job in shown])
    sweep_names = sweeps.names_of(session, [job.id for job in shown])
    moment = now(session)
    varied = varied_settings(job.spec for job in shown)
    rows = []
    for job in shown:
        last = runs[job.id][-1] if runs[job.id] else None
        rows.append(
            {
                "id": job.id,
                "kind": job.kind,
                "state": job.state,
                "model": job.model,
                "task": job.task,
                "method": job.method,
                "seed": job.seed,
                "sweeps": sweep_names[job.id],
                "repeat": job.spec.get("repeat", 0),
                "varied": {key: value for key, value in settings_of(job.spec).items() if key in varied},
                "runs": len(runs[job.id]),
                "failures": job.failures,
                "worker": job.lease_owner,
                "slot": last.slot if last else None,
                "host": last.worker.rsplit("-", 2)[0] if last else None,
                "seconds": ((last.finished_at or moment) - last.started_at).total_seconds() if last else None,
                "stage": last.stage if last and job.state == "running" else None,
                "progress": last.progress if last and job.state == "running" else None,
                "cancelling": job.state == "running" and job.cancel_requested_at is not None,
                "cause": job.cause,
            }
        )
    return rows
