"""Workers that stop by themselves: which jobs they still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapeff.service.measurements import WALL_S
from adapeff.service.settings import Settings
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.worker.daemon.consumer import Consumer
from adapeff.worker.daemon.limits import Limits
from adapeff.worker.daemon.slots import Slot
from tests.factories import queue_jobs
from tests.integration.test_jobs import finish, state_of, take


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def worker(database: Database, folder: Path, limits: Limits) -> Consumer:
    return Consumer(Settings(state_dir=folder), database, [Slot("cpu", 0)], limits=limits)


def succeed(database: Database, job_id: int, seconds: float) -> None:
    results = RunResults(environment={"device_name": "test"})
    results.take({"event": "measurement", "name": WALL_S.name, "value": seconds, "unit": "s"})
    finish(database, take(database, job_id), RunOutcome("succeeded"), results)


def chosen(consumer: Consumer, database: Database, job_id: int) -> int | None:
    with database.session() as session:
        return consumer.choose(session, job_id)


def test_worker_with_an_end_takes_the_most_urgent_job_that_would_be_done_by_then(
    database: Database, tmp_path: Path
) -> None:
    long_done, long = queue_jobs(database, 2)
    short_done, short = queue_jobs(database, 2, settings={"epochs": 1})
    (unknown,) = queue_jobs(database, settings={"batch_size": 8})
    succeed(database, long_done, 5000)
    succeed(database, short_done, 50)

    assert chosen(worker(database, tmp_path, Limits()), database, long) == long
    hour = worker(database, tmp_path, Limits(seconds=3600))
    assert chosen(hour, database, long) == short
    assert hour.excluded == [long]
    minute = worker(database, tmp_path, Limits(seconds=60))
    assert chosen(minute, database, long) == unknown, "nothing is known of its time"


def test_job_that_no_worker_may_finish_stays_queued_and_is_sent_again(database: Database, tmp_path: Path) -> None:
    done, long = queue_jobs(database, 2)
    succeed(database, done, 5000)

    worker(database, tmp_path, Limits(seconds=600)).handle(long)

    assert state_of(database, long) == "queued"
    with database.session(read_only=True) as session:
        assert [job.id for job in job_queries.list_unsent(session)] == [long]


def test_emptied_queue_is_one_without_jobs_that_the_worker_may_take(database: Database, tmp_path: Path) -> None:
    running, _ = queue_jobs(database, 2)
    take(database, running)
    consumer = worker(database, tmp_path, Limits(drain=True))

    def left() -> int:
        with database.session(read_only=True) as session:
            return job_queries.count_unfinished(session, None, consumer.lanes, but=consumer.excluded)

    assert left() == 1, "what runs elsewhere does not count"
    with database.session(read_only=True) as session:
        (queued,) = job_queries.list_claimable(session, None, consumer.lanes)
    consumer.host_faults.record(queued, "cpu:0", "no data")
    assert left() == 0
    queue_jobs(database, settings={"device": "cuda"})
    assert left() == 0, "jobs of other devices do not count"


def test_worker_starts_no_more_runs_than_it_may(database: Database, tmp_path: Path) -> None:
    first, second = queue_jobs(database, 2)
    consumer = worker(database, tmp_path, Limits(max_jobs=1))

    for job_id in (first, second):
        consumer.handle(job_id)

    with database.session(read_only=True) as session:
        runs = job_queries.list_runs(session, [first, second])
    assert [len(runs[first]), len(runs[second])] == [1, 0]
    assert consumer.stopping.finishing.is_set()
