"""`adapeff db`: manage the database schema."""

from __future__ import annotations

import json

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.service.errors import SchemaError
from adapeff.service.store import database

app = typer.Typer(name="db", help="Manage the database schema.", no_args_is_help=True)


@app.command()
def upgrade(context: typer.Context, as_json: Json = False) -> None:
    """Migrate the database to the revision this version needs. The embedded database migrates itself.

    Example:

        ADAPEFF_DATABASE_URL=postgresql://user@host/adapeff adapeff db upgrade
    """
    opened = database.connect(Invocation.of(context).settings)
    before = database.current_revision(opened)
    if before is not None and before > database.head_revision():
        raise SchemaError(
            f"the database is at revision {before}, newer than this version's {database.head_revision()}; "
            "upgrade adapeff"
        )
    database.upgrade(opened)
    after = database.current_revision(opened)
    change = f"already at {after}" if before == after else f"{before or 'empty'} -> {after}"
    print(json.dumps({"before": before, "after": after}) if as_json else change)


@app.command("current")
def print_current(context: typer.Context, as_json: Json = False) -> None:
    """Print the database's revision and the revision this version needs.

    Example:

        adapeff db current
    """
    opened = database.connect(Invocation.of(context).settings)
    current, needed = database.current_revision(opened), database.head_revision()
    if as_json:
        print(json.dumps({"current": current, "needed": needed}))
    else:
        print(f"{current or 'empty'} (this version needs {needed})")
