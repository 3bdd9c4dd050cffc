"""`adapeff sweeps`: what was submitted."""

from __future__ import annotations

import json

import typer

from adapeff.cli import invocation as context
from adapeff.cli.options import Json

app = typer.Typer(name="sweeps", help="What was submitted.", no_args_is_help=True)


@app.command("ls")
def list_sweeps(as_json: Json = False) -> None:
    """List the sweeps by name, with their submissions and how their jobs stand.

    A name stands for all its submissions: `adapeff status NAME`, `report NAME` and `cancel --sweep NAME` take them all;
    a submission's number takes that one.

    Example:

        adapeff sweeps ls
    """
    from adapeff.service.store import sweeps

    with context.database() as database, database.session(read_only=True) as session:
        found = sweeps.list_sweeps(session)
    if as_json:
        rows = [{"name": r.name, "submissions": r.submissions, "jobs": r.states,
                 "last_submitted": r.last_submitted.isoformat()} for r in found]  # fmt: skip
        print(json.dumps(rows, indent=1))
        return
    from adapeff.cli.render.tables import print_table

    print_table(
        "sweeps" if found else "no sweeps yet",
        ["sweep", "submissions", "jobs", "last submitted (UTC)"],
        [
            [
                record.name,
                ", ".join(map(str, record.submissions)),
                ", ".join(f"{count} {state}" for state, count in sorted(record.states.items())),
                f"{record.last_submitted:%Y-%m-%d %H:%M}",
            ]
            for record in found
        ],
    )
