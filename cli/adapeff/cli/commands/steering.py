"""`adapeff hold`, `release`, `priority`: decide what waits, and what is served first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.job_choice import JobsWhere, OfSweep, choose
from adapeff.cli.messages import note
from adapeff.cli.options import JobIds, Json
from adapeff.cli.submission import send
from adapeff.service.store import steering

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from adapeff.service.store.database import Database


def hold(
    context: typer.Context, jobs: JobIds = None, sweep: OfSweep = None, where: JobsWhere = None, as_json: Json = False
) -> None:
    """Hold queued jobs: they stay in the queue, but no worker takes them until `adapeff release`.

    Jobs that need the weights of a held job wait with it. Running jobs are not held; `adapeff cancel` stops those.

    Examples:

        adapeff hold 12 13

        adapeff hold --sweep demo --where method=full
    """
    with Invocation.of(context).database() as database:
        done = _steer(database, "hold", "held", steering.hold, named=jobs, sweep=sweep, where=where)
    _print([{"id": job_id, "state": "held"} for job_id in done], "job {id} {state}", as_json=as_json)


def release(
    context: typer.Context, jobs: JobIds = None, sweep: OfSweep = None, where: JobsWhere = None, as_json: Json = False
) -> None:
    """Release held jobs, so that workers take them.

    Examples:

        adapeff release 12

        adapeff release --sweep demo
    """
    invocation = Invocation.of(context)
    with invocation.database() as database:
        done = _steer(
            database, "release", "released", steering.release, named=jobs, sweep=sweep, where=where, state="held"
        )
        _print([{"id": job_id, "state": "queued"} for job_id in done], "job {id} {state}", as_json=as_json)
        send(database, invocation.settings)


def priority(
    context: typer.Context,
    number: Annotated[
        int, typer.Argument(metavar="PRIORITY", min=0, max=9, help="From 0, served first, to 9; sweeps start with 5.")
    ],
    jobs: JobIds = None,
    sweep: OfSweep = None,
    where: JobsWhere = None,
    as_json: Json = False,
) -> None:
    """Set the priority of queued jobs. Workers take the job with the lowest number next, the oldest of several.

    Examples:

        adapeff priority 0 12 13

        adapeff priority 9 --sweep demo
    """

    def change(session: Session, job_ids: Sequence[int]) -> list[int]:
        return steering.set_priority(session, job_ids, number)

    with Invocation.of(context).database() as database:
        done = _steer(database, "reorder", "reordered", change, named=jobs, sweep=sweep, where=where)
    rows = [{"id": job_id, "priority": number} for job_id in done]
    _print(rows, "job {id} has priority {priority}", as_json=as_json)


def _steer(
    database: Database,
    verb: str,
    done: str,
    change: Callable[[Session, Sequence[int]], list[int]],
    *,
    named: list[int] | None,
    sweep: str | None,
    where: list[str] | None,
    state: str = "queued",
) -> list[int]:
    """Change the chosen jobs. Returns the named ones and those that were changed."""
    with database.session() as session:
        choice = choose(session, verb, named=named, sweep=sweep, where=where, states=(state,))
        changed = change(session, choice.ids)
        steering.check_queued(session, [job_id for job_id in choice.named if job_id not in set(changed)], done)
    if not choice.ids:
        note(f"nothing to {verb}: no job that was selected is {state}")
    return sorted({*choice.named, *changed})


def _print(rows: list[dict[str, Any]], line: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(line.format(**row))
