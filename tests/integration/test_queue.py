"""Messages on both brokers: ids only, after the commit, sent again when lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from adapeff.service.broker.queue import broker_problem, make_app, send_unsent
from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.errors import UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.store import job_creation, job_queries
from adapeff.service.store.database import Database, open_database
from tests.conftest import RedisServer, eventually
from tests.factories import claimer, queue_jobs
from tests.integration.test_jobs import state_of


@pytest.fixture(params=["files", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings for the embedded queue and for Redis."""
    broker = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return Settings(state_dir=tmp_path / "state", broker_url=broker, lease_seconds=60, reconcile_seconds=15)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The embedded database."""
    opened = open_database(settings)
    yield opened
    opened.close()


def drain(settings: Settings, lane: str = "adapeff-any") -> list[Any]:
    """Take every waiting message of a lane."""
    found = []
    with make_app(settings).connection_for_read() as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(lane, no_ack=True)) is not None:
            found.append(json.loads(message.body))
    return found


def test_message_carries_the_id_and_nothing_else(settings: Settings, database: Database) -> None:
    ids = queue_jobs(database, 2)

    assert send_unsent(database, make_app(settings)) == 2

    assert [(args, kwargs) for args, kwargs, _ in drain(settings)] == [([ids[0]], {}), ([ids[1]], {})]


def test_what_was_sent_is_not_sent_again(settings: Settings, database: Database) -> None:
    queue_jobs(database)
    app = make_app(settings)

    assert [send_unsent(database, app), send_unsent(database, app)] == [1, 0]


def test_job_stored_by_a_submit_that_died_is_sent_later(settings: Settings, database: Database) -> None:
    """The row is committed, the process ends before it sends: the outbox has it."""
    (job_id,) = queue_jobs(database)

    Reconciler(database, make_app(settings), settings, threading.Event()).send()

    assert [args for args, _, _ in drain(settings)] == [[job_id]]


def test_lost_messages_are_sent_again_once(settings: Settings, database: Database) -> None:
    ids = queue_jobs(database, 3)
    app = make_app(settings)
    send_unsent(database, app)
    assert len(drain(settings)) == 3  # taken by a consumer that was killed, or flushed away
    reconciler = Reconciler(database, app, settings, threading.Event())
    with database.session() as session:
        session.execute(text("UPDATE jobs SET sent_at = datetime('now', '-1 hour')"))

    reconciler.send()
    reconciler.send()

    assert sorted(args[0] for args, _, _ in drain(settings)) == ids


def test_lanes_keep_devices_apart(settings: Settings, database: Database) -> None:
    queue_jobs(database, settings={"device": "cuda"})

    send_unsent(database, make_app(settings))

    assert drain(settings, "adapeff-any") == []
    assert len(drain(settings, "adapeff-cuda")) == 1


def test_urgent_jobs_are_served_first(redis_url: str, tmp_path: Path) -> None:
    from tests.factories import spec

    settings = Settings(state_dir=tmp_path / "state", broker_url=redis_url)
    database = open_database(settings)
    app = make_app(settings)
    for priority, seed in ((9, 0), (5, 1), (0, 2)):
        with database.session() as session:
            job_creation.create_jobs(session, [spec(seed)], priority=priority, max_failures=3)
        send_unsent(database, app)

    assert [args[0] for args, _, _ in drain(settings)] == [3, 2, 1]
    database.close()


def test_broker_away_leaves_the_jobs_in_the_outbox(tmp_path: Path, redis_server: RedisServer) -> None:
    settings = Settings(state_dir=tmp_path / "state", broker_url=redis_server.url)
    database = open_database(settings)
    queue_jobs(database)
    redis_server.kill()
    try:
        app = make_app(settings)
        with pytest.raises(UnreachableError, match=r":\*\*\*@127.0.0.1.*cannot be reached"):
            send_unsent(database, app)
        assert broker_problem(app)
    finally:
        redis_server.start()

    assert send_unsent(database, make_app(settings)) == 1
    database.close()


def test_reconciler_takes_nothing_back_until_it_has_been_calm_for_a_lease(
    settings: Settings, database: Database
) -> None:
    """A database away for longer than the lease makes healthy runs look lost."""
    (job_id,) = queue_jobs(database)
    assert claimer(database, lease_seconds=-1)(job_id) is not None
    reconciler = Reconciler(database, make_app(settings), settings, threading.Event())

    reconciler.send()

    with database.session(read_only=True) as session:
        assert job_queries.get_job(session, job_id).state == "running"
    reconciler.take_back(allowed=True)
    with database.session(read_only=True) as session:
        assert job_queries.get_job(session, job_id).state == "queued"


def test_consumed_message_files_are_forgotten_only_when_old(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    database = open_database(settings)
    queue_jobs(database, 2)
    app = make_app(settings)
    send_unsent(database, app)
    drain(settings)
    consumed = tmp_path / "state" / "queue" / "processed"
    reconciler = Reconciler(database, app, settings, threading.Event())

    reconciler.send()
    assert len(list(consumed.iterdir())) == 2
    reconciler.forget_consumed(older_than_seconds=0)
    assert list(consumed.iterdir()) == []
    database.close()


def test_dead_workers_job_is_taken_back_whatever_the_lease(tmp_path: Path) -> None:
    """Also where the lease is hardly longer than the distance of the sweeps."""
    settings = Settings(state_dir=tmp_path / "state", lease_seconds=0.3, heartbeat_seconds=0.1, reconcile_seconds=0.15)
    database = open_database(settings)
    (job_id,) = queue_jobs(database)
    assert claimer(database, lease_seconds=0.3)(job_id) is not None
    stop = threading.Event()
    reconciler = Reconciler(database, make_app(settings), settings, stop)

    reconciler.start()
    eventually(lambda: state_of(database, job_id) == "queued", "the job being taken back", seconds=20)
    stop.set()
    reconciler.join()
    database.close()
