"""Migrations up, down and up on both databases, and databases that are not ours to touch."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from adapeff.service.errors import ConfigError, ResourceError, SchemaError, UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.store import results
from adapeff.service.store.database import (
    Database,
    connect,
    current_revision,
    downgrade,
    head_revision,
    open_database,
    upgrade,
)
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.tables import Job, Measurement, Run
from tests.factories import claimer, queue_jobs
from tests.integration.test_jobs import run_results


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("empty_postgres_url")
        return url.replace("postgresql:", "postgresql+psycopg:")
    return f"sqlite:///{tmp_path / 'empty.db'}"


def test_upgrade_downgrade_upgrade(empty_url: str) -> None:
    database = Database(empty_url)

    upgrade(database)
    assert current_revision(database) == head_revision()
    downgrade(database, "base")
    assert current_revision(database) is None
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    upgrade(database)

    assert queue_jobs(database) == [1]
    database.close()


def test_upgrading_a_populated_database_loses_no_row(empty_url: str) -> None:
    database = Database(empty_url)
    upgrade(database)
    ids = queue_jobs(database, 5)
    claim = claimer(database)(ids[0])
    assert claim is not None
    with database.session() as session:
        results.finish(session, claim, RunOutcome("succeeded"), run_results())

    upgrade(database)

    with database.session(read_only=True) as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Job, Run, Measurement)]
    assert counts == [5, 1, 2]
    database.close()


def store_as_first_release(database: Database) -> None:
    """Jobs, runs and measurements as revision 0001 stored them: two trainings, one with a task called profile."""
    moment = "'2026-01-02 03:04:05'"
    with database.session() as session:
        for job_id, (kind, task) in enumerate([("train", "sst2"), ("train", "profile"), ("profile", "profile")], 1):
            session.execute(
                text(
                    "INSERT INTO jobs (id, job_hash, train_hash, spec, model, task, method, seed, state, cause, lane,"
                    " priority, token, failures, max_failures, created_at, finished_at) VALUES (:id, :hash, :hash,"
                    f" :spec, 'm', :task, 'full', 0, 'succeeded', '', 'adapeff-any', 5, 1, 0, 3, {moment}, {moment})"
                ),
                {"id": job_id, "hash": str(job_id) * 64, "spec": f'{{"kind": "{kind}"}}', "task": task},
            )
            session.execute(
                text(
                    "INSERT INTO runs (id, job_id, token, worker, slot, folder, outcome, message, stage, progress,"
                    " resolved, started_at) VALUES"
                    f" (:id, :id, 1, 'w', 'cpu:0', '/runs', 'succeeded', '', '', '{{}}', '{{}}', {moment})"
                ).bindparams(id=job_id)
            )
        for name, phase, variant in (
            ("step_latency_s", "optimiser", ""),
            ("memory_bytes", "train", '{"method":"full","part":"optimiser"}'),
            ("memory_bytes", "train", '{"part":"weights"}'),
        ):
            session.execute(
                text(
                    "INSERT INTO measurements (run_id, name, statistic, phase, language, split, batch, length, dtype,"
                    " variant, value, unit, reason)"
                    " VALUES (1, :name, '', :phase, '', '', 0, 0, '', :variant, 1, '', '')"
                ),
                {"name": name, "phase": phase, "variant": variant},
            )


def parts(database: Database) -> list[tuple[str, str]]:
    with database.session(read_only=True) as session:
        rows = session.execute(text("SELECT phase, variant FROM measurements ORDER BY id"))
        return [(row.phase, row.variant) for row in rows]


def test_jobs_of_the_first_release_get_their_kind_and_parts_of_a_step_their_name(empty_url: str) -> None:
    database = Database(empty_url)
    upgrade(database, "0001")
    store_as_first_release(database)
    before = parts(database)

    upgrade(database)

    with database.session(read_only=True) as session:
        assert [job.kind for job in session.scalars(select(Job).order_by(Job.id))] == ["train", "train", "profile"]
        assert session.scalar(select(func.count()).where(Job.changed_at == Job.finished_at)) == 3
        assert session.scalar(select(func.count()).select_from(Run)) == 3
    assert parts(database) == [
        ("optimizer", ""),
        ("train", '{"method":"full","part":"optimizer"}'),
        ("train", '{"part":"weights"}'),
    ]
    downgrade(database, "0001")
    assert parts(database) == before
    upgrade(database)
    database.close()


def checks_and_indexes(database: Database) -> tuple[dict[str, str], dict[str, str]]:
    """The CHECK constraints of the table of jobs, and the conditions of its indexes."""
    with database.engine.connect() as connection:
        checks = {str(check["name"]): check["sqltext"] for check in inspect(connection).get_check_constraints("jobs")}
        indexes = {
            str(index["name"]): str(index.get("dialect_options", {}).get(f"{connection.dialect.name}_where"))
            for index in inspect(connection).get_indexes("jobs")
        }
    return checks, indexes


def test_migrated_jobs_are_constrained_and_indexed_as_new_ones(empty_url: str) -> None:
    """`alembic check` compares neither CHECK constraints nor an index's WHERE, and SQLite migrates by copying."""
    database = Database(empty_url)
    upgrade(database, "0001")
    store_as_first_release(database)
    upgrade(database)

    checks, indexes = checks_and_indexes(database)

    assert set(checks) == {"ck_jobs_kind", "ck_jobs_state", "ck_jobs_priority", "ck_jobs_running_has_lease"}
    assert "state" in indexes["ix_jobs_queued"] and "state" in indexes["ix_jobs_running"]
    assert {"ix_jobs_train_hash", "ix_jobs_changed_at"} <= set(indexes)
    database.close()


def test_kind_of_job_that_does_not_exist_is_refused(any_database_url: str) -> None:
    database = Database(any_database_url.replace("postgresql:", "postgresql+psycopg:"))
    queue_jobs(database)

    with pytest.raises(IntegrityError, match="ck_jobs_kind"), database.session() as session:
        session.execute(text("UPDATE jobs SET kind = 'nonsense'"))
    database.close()


def test_tables_are_what_the_migrations_make(empty_url: str) -> None:
    """`alembic check`: nothing to migrate."""
    database = Database(empty_url)
    upgrade(database)
    config = Config()
    config.set_main_option("script_location", "adapeff.migrations:")
    config.set_main_option("path_separator", "os")
    with database.connection() as connection:
        config.attributes["connection"] = connection
        command.check(config)
    assert ScriptDirectory.from_config(config).get_current_head() == head_revision()
    database.close()


def test_embedded_database_migrates_itself(tmp_path: Path) -> None:
    database = open_database(Settings(state_dir=tmp_path / "state"))

    assert current_revision(database) == head_revision()
    database.close()


def test_somebody_elses_database_is_never_migrated_unasked(empty_url: str) -> None:
    with pytest.raises(SchemaError, match=r"no adapeff tables.*adapeff db upgrade"):
        open_database(Settings(database_url=empty_url))

    engine = create_engine(empty_url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()


def test_database_from_the_future_is_refused(any_database_url: str) -> None:
    settings = Settings(database_url=any_database_url)
    database = connect(settings)
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaError, match="revision 9999, but this adapeff only supports"):
        open_database(settings)
    database.close()


def test_older_database_is_refused_with_the_way_out(any_database_url: str) -> None:
    settings = Settings(database_url=any_database_url)
    database = connect(settings)
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))

    with pytest.raises(SchemaError, match="run `adapeff db upgrade`"):
        open_database(settings)
    database.close()


def test_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(UnreachableError, match=r"u:\*\*\*@127\.0\.0\.1:1/d cannot be reached") as caught:
        open_database(Settings(database_url="postgresql://u:hush@127.0.0.1:1/d"))

    assert "hush" not in str(caught.value)


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapeff.db").write_text("certainly no database, but long enough to be read as one" * 10)

    with pytest.raises(ResourceError, match="it is not an SQLite database"):
        open_database(Settings(state_dir=tmp_path))


def test_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ResourceError, match="cannot create the folder"):
        open_database(Settings(state_dir=tmp_path / "file" / "state"))


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = f"/dev/x / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\n"

    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*ADAPEFF_STATE_DIR"):
        connect(Settings(state_dir=tmp_path), mounts=mounts)


def test_server_that_accepts_and_says_nothing_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql+psycopg://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2")

        with pytest.raises(UnreachableError, match="cannot be reached"), database.session() as session:
            session.execute(text("SELECT 1"))

        database.close()


def test_statements_and_locks_have_limits_unless_the_url_sets_them(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql:", "postgresql+psycopg:")
    found = {}
    for name, query in (("default", ""), ("asked", "?options=-c%20lock_timeout%3D7s")):
        database = Database(url + query)
        with database.session(read_only=True) as session:
            limits = [session.scalar(text(f"SHOW {limit}")) for limit in ("statement_timeout", "lock_timeout")]
            connection = session.connection().connection.dbapi_connection
            assert connection is not None
            found[name] = (*limits, connection.info.get_parameters().get("tcp_user_timeout"))
        database.close()

    assert found == {"default": ("1min", "30s", "20000"), "asked": ("1min", "7s", "20000")}


def test_lock_held_for_too_long_is_an_outage(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql:", "postgresql+psycopg:")
    holder, waiting = Database(url), Database(url + "?options=-c%20lock_timeout%3D200ms")
    with holder.session() as session:
        session.execute(text("LOCK TABLE jobs IN SHARE MODE"))

        with pytest.raises(UnreachableError, match="timed out waiting for a lock"):
            queue_jobs(waiting)

    assert queue_jobs(waiting)
    holder.close()
    waiting.close()
