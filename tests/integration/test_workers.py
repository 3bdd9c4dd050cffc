"""Workers are recorded by their reconcilers: alive, stopped, gone, and what each runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, inspect, select, text

from adapeff.service.broker.queue import make_app
from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.settings import Settings
from adapeff.service.store import jobs
from adapeff.service.store.database import Database, downgrade, upgrade
from adapeff.service.store.tables import Worker
from adapeff.service.store.workers import WorkerRecord, list_workers, mark_stopped, report_alive
from tests.conftest import eventually
from tests.factories import claimer, queue_jobs
from tests.integration.test_database import empty_url
from tests.integration.test_migrations import before, rows

__all__ = ["before", "empty_url"]

DAY = timedelta(days=1)
RECORD = WorkerRecord("host-1-a", "host", "cpu", ("cpu:0", "cpu:1"), "1.0")


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def report(database: Database, *records: WorkerRecord, seconds: float = 60) -> None:
    with database.session() as session:
        for record in records:
            report_alive(session, record, next_within_seconds=seconds)


def states(database: Database, **options: timedelta) -> dict[str, str]:
    with database.session(read_only=True) as session:
        return {view.record.name: view.state for view in list_workers(session, **options)}


def age(database: Database, name: str, *, hours: int) -> None:
    """Let a worker have reported for the last time long ago."""
    sqlite = f"datetime('now', '-{hours} hours')"
    moment = sqlite if "sqlite" in database.url else f"now() - interval '{hours} hours'"
    with database.session() as session:
        statement = f"UPDATE workers SET heartbeat_at = {moment}, alive_until = {moment} WHERE name = :name"
        session.execute(text(statement), {"name": name})


def test_workers_are_alive_stopped_or_gone(database: Database) -> None:
    stopped, gone, forgotten = (replace(RECORD, name=f"host-{number}-b") for number in (2, 3, 4))
    report(database, RECORD, stopped, gone, forgotten)
    with database.session() as session:
        mark_stopped(session, stopped.name)
    age(database, gone.name, hours=2)
    age(database, forgotten.name, hours=30)

    assert states(database) == {RECORD.name: "alive"}
    assert states(database, gone_within=DAY) == {RECORD.name: "alive", stopped.name: "stopped", gone.name: "gone"}


def test_worker_that_reports_again_is_alive_and_has_one_row(database: Database) -> None:
    report(database, RECORD)
    age(database, RECORD.name, hours=2)

    report(database, RECORD)

    with database.session(read_only=True) as session:
        (view,) = list_workers(session)
    assert (view.record, view.state, view.runs) == (RECORD, "alive", [])
    assert view.silent_seconds < 60 and view.started_at <= view.heartbeat_at


def test_rows_of_long_ago_go_when_a_worker_starts(database: Database) -> None:
    report(database, RECORD)
    age(database, RECORD.name, hours=24 * 8)

    report(database, replace(RECORD, name="host-2-b"))

    with database.session(read_only=True) as session:
        assert session.scalars(select(Worker.name)).all() == ["host-2-b"]


def test_worker_is_listed_with_what_it_runs(database: Database) -> None:
    first, second = queue_jobs(database, 2)
    report(database, RECORD)
    claim = claimer(database, RECORD.name)(first)
    assert claim is not None and claimer(database, "host-9-z")(second) is not None
    with database.session() as session:
        jobs.heartbeat(session, claim, lease_seconds=60, stage="train", progress={"step": 3, "steps": 9, "eta_s": 4.0})

    with database.session(read_only=True) as session:
        (view,) = list_workers(session)

    (run,) = view.runs
    assert (run.job_id, run.label, run.slot, run.stage) == (
        first, "full on offline_sentiment, seed 0", "cpu:0", "train",
    )  # fmt: skip
    assert run.progress["steps"] == 9


def test_reconciler_reports_its_worker_and_its_end(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, reconcile_seconds=0.1)
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(database)
    stop = threading.Event()
    reconciler = Reconciler(database, make_app(settings), settings, stop, worker=RECORD)

    reconciler.start()
    eventually(lambda: states(database), "the worker's first report")
    assert states(database) == {RECORD.name: "alive"}
    stop.set()
    reconciler.join()

    assert states(database, gone_within=DAY) == {RECORD.name: "stopped"}
    database.close()


def test_report_is_two_statements_of_a_transaction_that_is_needed_anyway(tmp_path: Path) -> None:
    """An idle worker costs nothing more than before: no transaction of its own, and no row that grows."""
    from sqlalchemy import event

    settings = Settings(state_dir=tmp_path)
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(database)
    executed: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: executed.append(given[2]))

    def statements_of(worker: WorkerRecord | None) -> int:
        executed.clear()
        Reconciler(database, None, settings, threading.Event(), worker=worker).take_back(allowed=True)
        return len(executed)

    report(database, RECORD)
    assert statements_of(RECORD) - statements_of(None) == 2
    with database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Worker)) == 1
    database.close()


def test_older_databases_get_the_table_and_lose_nothing(before: Database) -> None:
    expected = rows(before)
    upgrade(before, "0005")
    with before.engine.connect() as connection:
        assert "workers" not in inspect(connection).get_table_names()

    upgrade(before)
    report(before, RECORD)
    assert states(before) == {RECORD.name: "alive"}
    downgrade(before, "0005")
    upgrade(before)

    assert (states(before), rows(before)) == ({}, expected)


def test_command_lists_them_for_people_and_programs(
    database: Database, cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cli("workers")
    shown = capsys.readouterr()
    assert "no worker is alive" in shown.out and "start one with `adapeff worker`" in shown.err

    (job_id,) = queue_jobs(database)
    report(database, RECORD, replace(RECORD, name="host-2-b", sweep_id=7))
    assert claimer(database, RECORD.name)(job_id) is not None
    with database.session() as session:
        mark_stopped(session, "host-2-b")
    cli("workers")
    table = capsys.readouterr().out
    assert "1 alive, 1 of 2 slots busy" in table and "sweep 7" in table
    assert "cpu:0: job 1 (full on offline_sentiment, seed 0), starting" in table
    cli("workers", "--json")
    alive, stopped = json.loads(capsys.readouterr().out)
    assert (alive["state"], alive["slots"], alive["sweep"]) == ("alive", ["cpu:0", "cpu:1"], None)
    assert [run["job"] for run in alive["runs"]] == [job_id]
    assert (stopped["state"], stopped["sweep"], stopped["runs"]) == ("stopped", 7, [])
    assert alive["stopped_at"] is None and stopped["stopped_at"] is not None
