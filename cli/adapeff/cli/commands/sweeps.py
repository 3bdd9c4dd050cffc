"""`adapeff sweeps`: list submitted sweeps."""

from __future__ import annotations

import json

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table
from adapeff.service.store import sweeps

app = typer.Typer(name="sweeps", help="List submitted sweeps.", no_args_is_help=True)


@app.command("ls")
def list_sweeps(context: typer.Context, as_json: Json = False) -> None:
    """List the sweeps by name, with the ids of their submissions and the states of their jobs.

    A name selects all submissions under it: `adapeff status NAME`, `report NAME`, `cancel --sweep NAME`. An id selects
    that submission alone.

    Example:

        adapeff sweeps ls
    """
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        records = sweeps.list_sweeps(session)
    if as_json:
        rows = [
            {
                "name": record.name,
                "submissions": record.submissions,
                "jobs": record.states,
                "last_submitted": record.last_submitted.isoformat(),
            }
            for record in records
        ]
        print(json.dumps(rows, indent=1))
        return
    print_table(
        "sweeps" if records else "no sweeps yet",
        ["sweep", "submissions", "jobs", "last submitted (UTC)"],
        [
            [
                record.name,
                ", ".join(map(str, record.submissions)),
                ", ".join(f"{count} {state}" for state, count in sorted(record.states.items())),
                f"{record.last_submitted:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )
