"""`adapeff db`: the database's schema."""

from __future__ import annotations

import json

import typer

from adapeff.cli import invocation as context
from adapeff.cli.options import Json

app = typer.Typer(name="db", help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade(as_json: Json = False) -> None:
    """Migrate the database to what this version needs; only the embedded one does so unasked.

    Example:

        ADAPEFF_DATABASE_URL=postgresql://user@host/adapeff adapeff db upgrade
    """
    from adapeff.service.errors import SchemaError
    from adapeff.service.store import database

    opened = database.connect(context.settings().values)
    before = database.current_revision(opened)
    if before is not None and before > database.head_revision():
        raise SchemaError(
            f"the database is at revision {before}, newer than this adapeff's {database.head_revision()}; "
            "upgrade adapeff"
        )
    database.upgrade(opened)
    after = database.current_revision(opened)
    told = f"already at {after}" if before == after else f"{before or 'empty'} -> {after}"
    print(json.dumps({"before": before, "after": after}) if as_json else told)


@app.command()
def current(as_json: Json = False) -> None:
    """Print the database's revision and the one this version needs.

    Example:

        adapeff db current
    """
    from adapeff.service.store import database

    opened = database.connect(context.settings().values)
    have, need = database.current_revision(opened), database.head_revision()
    print(
        json.dumps({"current": have, "needed": need}) if as_json else f"{have or 'empty'} (this adapeff needs {need})"
    )
