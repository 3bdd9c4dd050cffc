"""`adapeff db`: the database's schema."""

from __future__ import annotations

import typer

from adapeff.cli import context

app = typer.Typer(name="db", help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Migrate the database to what this version needs; only the embedded one does so unasked.

    Example:

        ADAPEFF_DATABASE_URL=postgresql://user@host/adapeff adapeff db upgrade
    """
    from adapeff.service import database
    from adapeff.service.errors import SchemaError

    opened = database.connect(context.settings().values)
    before = database.current_revision(opened)
    if before is not None and before > database.head_revision():
        raise SchemaError(
            f"the database is at revision {before}, newer than this adapeff's {database.head_revision()}; "
            "upgrade adapeff"
        )
    database.upgrade(opened)
    print(f"{before or 'empty'} -> {database.current_revision(opened)}")


@app.command()
def current() -> None:
    """Print the database's revision and the one this version needs.

    Example:

        adapeff db current
    """
    from adapeff.service import database

    opened = database.connect(context.settings().values)
    print(f"{database.current_revision(opened) or 'empty'} (this adapeff needs {database.head_revision()})")
