"""Open the database, check its schema, provide sessions, and read its clock.

SQLite runs in WAL mode, and every writing transaction takes the write lock at its start (BEGIN IMMEDIATE), so that two
processes never deadlock on upgrading a read lock. All times come from the database's clock, never from a worker's.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Session

from adapeff.service.errors import ConfigError, ConflictError, ResourceError, SchemaError, UnreachableError, first_line
from adapeff.service.masking import mask
from adapeff.service.paths import make_private, network_file_system
from adapeff.service.settings import Settings

_T = TypeVar("_T")
CONNECTIONS = 5
_ATTEMPTS = 6
_LIMITS = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""libpq's limits (seconds; the last in milliseconds) after which a silent server counts as down; settings in the URL
take precedence."""
_STATEMENT_LIMITS = {"statement_timeout": "60s", "lock_timeout": "30s", "idle_in_transaction_session_timeout": "120s"}


class Database:
    """An engine and its sessions.

    Args:
        connections: connections kept open, one per thread that uses the database; up to ten more open briefly.
    """

    def __init__(self, url: str, *, connections: int = CONNECTIONS) -> None:
        self.url = url
        self.engine = _engine(url, connections)

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """Open a session in one transaction: committed when the block ends, rolled back if it raises.

        Raises:
            UnreachableError: if the server does not answer or is temporarily unavailable.
            ConflictError: if it conflicts with another transaction.
            ResourceError: if SQLite's file cannot be opened or written.
        """
        engine = self.engine.execution_options(begin="DEFERRED") if read_only else self.engine
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except PoolTimeoutError as error:
            raise UnreachableError(f"the database {mask(self.url)} is busy: no connection was free in time") from error
        except DBAPIError as error:
            raise _explain(error, self.url) from error

    def retried(self, action: Callable[[Session], _T]) -> _T:
        """Run an action in a session, and retry it if it conflicts with another transaction.

        Raises:
            ConflictError: if every attempt conflicted.
        """
        for attempt in range(1, _ATTEMPTS):
            try:
                with self.session() as session:
                    return action(session)
            except ConflictError:
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
        with self.session() as session:
            return action(session)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Open a connection in one transaction, for migrations.

        Raises:
            UnreachableError, ResourceError: as `session` does.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise _explain(error, self.url) from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(settings: Settings, *, connections: int = CONNECTIONS) -> Database:
    """Open the database of the settings and check its schema; the embedded one is migrated first.

    Args:
        connections: as `Database` takes it.

    Raises:
        SchemaError: if it has no adapeff tables, or those of an older or newer version.
        ConfigError: if SQLite's file is on a network file system.
        UnreachableError, ResourceError: if it cannot be opened.
    """
    database = connect(settings, connections=connections)
    try:
        current, head = current_revision(database), head_revision()
        if settings.is_embedded and (current is None or current < head):
            upgrade(database)
            current = head
        _check_revision(current, head, mask(settings.database))
    except BaseException:
        database.close()
        raise
    return database


def _check_revision(current: str | None, head: str, where: str) -> None:
    if current is None:
        raise SchemaError(
            f"the database {where} has no adapeff tables; if it is meant for adapeff, run `adapeff db upgrade`"
        )
    if current > head:
        raise SchemaError(
            f"the database {where} is at revision {current}, but this adapeff only supports up to {head}; "
            "upgrade it (pip install -U adapeff)"
        )
    if current < head:
        raise SchemaError(
            f"the database {where} is at revision {current}, but this adapeff needs {head}; run `adapeff db upgrade`"
        )


def connect(settings: Settings, *, connections: int = CONNECTIONS, mounts: str | None = None) -> Database:
    """Connect to the database of the settings without checking its schema.

    Args:
        connections: as `Database` takes it.
        mounts: the text of /proc/self/mounts (read if None).

    Raises:
        ConfigError, ResourceError: if SQLite's file cannot be used where it is.
    """
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        file = Path(str(url.database))
        if kind := network_file_system(file, mounts):
            raise ConfigError(
                f"{file} is on a network file system ({kind}), where SQLite's locks do not work; set "
                "ADAPEFF_STATE_DIR to a local folder, or ADAPEFF_DATABASE_URL to a PostgreSQL server"
            )
        try:
            make_private(file.parent)
            with suppress(PermissionError):  # a read-only file can still be opened
                os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its other files the same mode
        except OSError as error:
            raise ResourceError(
                f"cannot create the folder {file.parent}: {error.strerror}; set ADAPEFF_STATE_DIR to a writable folder"
            ) from error
    return Database(settings.database, connections=connections)


def head_revision() -> str:
    """The newest revision of this version, from the numbered file names."""
    versions = importlib.resources.files("adapeff.migrations") / "versions"
    return max(entry.name[:4] for entry in versions.iterdir() if entry.name[:4].isdigit())


def current_revision(database: Database) -> str | None:
    """A database's revision, or None if it has no adapeff tables."""
    with database.session(read_only=True) as session:
        if not inspect(session.connection()).has_table("alembic_version") or not inspect(
            session.connection()
        ).has_table("jobs"):
            return None
        revision: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate to a revision.

    Raises:
        UnreachableError, ResourceError: if the database cannot be reached or written.
    """
    _alembic(database, "upgrade", revision)


def downgrade(database: Database, revision: str) -> None:
    """Migrate back to a revision (`base` for an empty database)."""
    _alembic(database, "downgrade", revision)


def _alembic(database: Database, verb: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "adapeff.migrations:")
    config.set_main_option("path_separator", "os")
    with database.connection() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # migrations have no time limit
        config.attributes["connection"] = connection
        getattr(command, verb)(config, revision)


def now(session: Session) -> datetime:
    """The current time by the database's clock (not the transaction's start), aware UTC."""
    if session.get_bind().dialect.name == "sqlite":
        value = session.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))
        return datetime.fromisoformat(str(value)).replace(tzinfo=UTC)
    moment: datetime = session.scalars(text("SELECT clock_timestamp()")).one()
    return moment.astimezone(UTC)


def insert_ignoring(session: Session, table: type[DeclarativeBase], unique: str) -> Any:
    """An INSERT that skips rows whose `unique` value exists, since another process may have just stored it.

    SQLite and PostgreSQL share the syntax, but SQLAlchemy has a separate construct for each.
    """
    dialect: Any = sqlite_dialect if session.get_bind().dialect.name == "sqlite" else postgresql_dialect
    return dialect.insert(table).on_conflict_do_nothing(index_elements=[unique])


def take_turn(session: Session, what: str) -> None:
    """Take the lock named `what` until the transaction ends; not needed on SQLite, which has one writer."""
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _engine(url: str, connections: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _postgres_engine(url, connections)
    pool = {} if parsed.database in (None, "", ":memory:") else {"pool_size": connections}
    engine = create_engine(url, connect_args={"timeout": 30}, **pool)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy, not the driver, begins transactions
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'IMMEDIATE')}")

    return engine


def _postgres_engine(url: str, connections: int) -> Engine:
    parameters = make_url(url).query
    limits = {name: value for name, value in _LIMITS.items() if name not in parameters}
    try:
        engine = create_engine(url, pool_size=connections, pool_pre_ping=True, connect_args=limits)
    except ModuleNotFoundError as error:
        raise ConfigError("PostgreSQL needs psycopg; run pip install 'adapeff[postgres]'") from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        for name, value in _STATEMENT_LIMITS.items():
            if name not in str(parameters.get("options", "")):
                connection.execute(f"SET {name} = '{value}'")
        connection.commit()

    return engine


_SERVER_ERRORS = {
    "25006": "is read-only",
    "40001": "reports conflicting transactions",
    "40P01": "reports a deadlock",
    "42501": "denies this user permission",
    "53100": "has no disk space left",
    "53200": "has no memory left",
    "53300": "has no free connection",
    "55P03": "timed out waiting for a lock",
    "57014": "cancelled a statement that took too long",
}
"""PostgreSQL's temporary errors by code (its manual, appendix A)."""
_CONFLICTS = ("40001", "40P01")
_SQLITE_ERRORS = {
    "readonly": "it is read-only; make it writable or set ADAPEFF_STATE_DIR",
    "disk is full": "the disk is full; free some space, no data was lost",
    "disk I/O": "the disk failed or is full",
    "unable to open": "it cannot be opened; check the folder's permissions or set ADAPEFF_STATE_DIR",
    "not a database": "it is not an SQLite database; move it away or set ADAPEFF_STATE_DIR",
    "malformed": "it is damaged; restore a backup or set ADAPEFF_STATE_DIR",
    "locked": "another process has held it for 30 s; try again",
}


def _explain(error: DBAPIError, url: str) -> Exception:
    """Turn a driver's error into one that users can act on; other errors are bugs and stay unchanged."""
    where = mask(url)
    cause = first_line(error.orig or error)
    if make_url(url).get_backend_name() != "sqlite":
        code = getattr(error.orig, "sqlstate", None) or ""
        if code in _SERVER_ERRORS:
            kind = ConflictError if code in _CONFLICTS else UnreachableError
            return kind(f"the database {where} {_SERVER_ERRORS[code]} ({cause})")
        if error.connection_invalidated or isinstance(error, OperationalError | InternalError):
            return UnreachableError(f"the database {where} cannot be reached: {cause}; is the server running?")
        return error
    for sign, hint in _SQLITE_ERRORS.items():
        if sign in cause:
            return ResourceError(f"the database {where}: {hint} ({cause})")
    if isinstance(error, OperationalError):
        return ResourceError(f"the database {where} cannot be used: {cause}")
    return error
