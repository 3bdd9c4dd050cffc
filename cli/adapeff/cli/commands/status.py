"""`adapeff status`: the state of jobs."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.live import Live

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.job_views import job_rows, snapshot
from adapeff.cli.options import Json
from adapeff.cli.render.tables import jobs_table, stdout
from adapeff.service.errors import JobError, suggest
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.job_watch import JobWatch
from adapeff.service.store.tables import JOB_STATES

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
        list[str] | None, typer.Option("--state", help="Show only jobs in this state, or held ones; repeatable.")
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
        if name not in (*JOB_STATES, job_queries.HELD):
            raise JobError(f"unknown state '{name}'; {suggest(name, (*JOB_STATES, job_queries.HELD))}")
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
                    live.update(jobs_table({"counts": poll.counts, "jobs": job_rows(session, shown)}))
            if poll.all_ended:
                return
            time.sleep(WATCH_SECONDS)
