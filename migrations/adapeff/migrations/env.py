"""Alembic's entry point: migrates the given connection, or else the database of the settings.

On SQLite a table is altered by copying it. With foreign keys on, dropping the original would silently delete the rows
that refer to it, so they are off while migrating and checked afterwards.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from adapeff.service.settings import load_settings
from adapeff.service.store.database import connect
from adapeff.service.store.tables import Base


def migrate(connection: Connection) -> None:
    """Run the migrations in the connection's transaction."""
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:  # the pragma is a no-op inside a transaction
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=is_sqlite,
        compare_type=True,
        transactional_ddl=True,
    )
    context.run_migrations()
    if is_sqlite:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise RuntimeError(f"the migration would break {len(broken)} references, first: {broken[0]}")
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    with connect(load_settings().values).connection() as opened:
        migrate(opened)
