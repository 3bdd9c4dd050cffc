"""Following jobs: nothing is missed, and a poll costs what is running or has changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text, update

from adapeff.service.errors import JobError
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, job_queries, jobs, sweeps
from adapeff.service.store.database import Database, now, upgrade
from adapeff.service.store.job_watch import JobWatch, Poll
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.tables import Job
from tests.factories import claimer, queue_jobs, spec


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def poll(database: Database, watch: JobWatch) -> Poll:
    with database.session(read_only=True) as session:
        return watch.poll(session)


def end(database: Database, claim: jobs.Claim | None, outcome: jobs.Outcome) -> None:
    assert claim is not None
    with database.session() as session:
        jobs.finish_run(session, claim, RunOutcome(outcome))


def test_polls_tell_what_changed_and_how_far_runs_are(database: Database) -> None:
    first, second, third = queue_jobs(database, 3)
    watch = JobWatch(job_ids=[first, second])

    assert poll(database, watch) == Poll({"queued": 2}, [], {})
    claim = claimer(database)(first)
    assert claim is not None
    claimer(database)(third)
    started = poll(database, watch)
    with database.session() as session:
        jobs.heartbeat(session, claim, lease_seconds=None, stage="train", progress={"step": 7})
        jobs.request_cancel(session, second)
    later = poll(database, watch)
    end(database, claim, "succeeded")
    ended = poll(database, watch)

    assert (started.counts, started.changed, list(started.runs)) == ({"queued": 1, "running": 1}, [first], [first])
    assert (later.counts, later.changed) == ({"running": 1, "cancelled": 1}, [second])
    assert later.runs[first].progress == {"step": 7}
    assert (ended.counts, ended.changed, ended.runs) == ({"succeeded": 1, "cancelled": 1}, [first], {})
    assert ended.all_ended and not later.all_ended
    assert poll(database, watch) == Poll(ended.counts, [], {})


def test_jobs_of_submissions_are_followed_and_later_ones_only_by_who_follows_all(database: Database) -> None:
    with database.session() as session:
        sweep = parse_sweep({"name": "s", "models": ["a/b"], "tasks": ["offline_nli"], "methods": ["full"]})
        stored = sweeps.submit(session, sweep, [spec(0)], max_failures=3)
    of_sweep, of_all = JobWatch(sweep_ids=[stored.sweep_id]), JobWatch()
    poll(database, of_sweep)
    poll(database, of_all)

    with database.session() as session:
        job_creation.create_jobs(session, [spec(5)], priority=5, max_failures=3)

    assert poll(database, of_sweep).counts == {"queued": 1}
    assert poll(database, of_all).counts == {"queued": 2}


def test_change_that_becomes_visible_late_is_seen(database: Database) -> None:
    """Its transaction began before a poll and was committed after it."""
    (job_id,) = queue_jobs(database)
    watch = JobWatch(job_ids=[job_id])
    poll(database, watch)
    with database.session() as session:
        moment = now(session) - timedelta(seconds=90)
        session.execute(update(Job).values(state="cancelled", changed_at=moment))

    assert poll(database, watch).changed == [job_id]


def test_most_urgent_are_those_that_a_list_with_a_limit_has(database: Database) -> None:
    ids = queue_jobs(database, 5)
    end(database, claimer(database)(ids[0]), "error")
    claimer(database)(ids[1])
    watch = JobWatch()
    poll(database, watch)

    with database.session(read_only=True) as session:
        assert watch.most_urgent(3) == [job.id for job in job_queries.list_jobs(session, limit=3)]
        assert watch.most_urgent(9, states=["queued"]) == [ids[4], ids[3], ids[2]]


def work_of(database: Database, action: Callable[[], object]) -> int:
    """Hundreds of instructions that SQLite's machine executes for it."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    with database.engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(count, 100)
    action()
    driver.set_progress_handler(None, 0)
    return counted


def test_poll_costs_what_runs_or_changed_and_not_what_exists() -> None:
    database = Database("sqlite://")
    upgrade(database)
    model = spec()
    with database.session() as session:
        specs = [model.model_copy(update={"seed": seed}) for seed in range(3000)]
        ids, _ = job_creation.create_jobs(session, specs, priority=5, max_failures=3)
        session.execute(text("UPDATE jobs SET changed_at = datetime('now', '-1 hour')"))
    watch = JobWatch(job_ids=ids)

    whole = work_of(database, lambda: poll(database, watch))
    end(database, claimer(database)(ids[0]), "succeeded")
    claimer(database)(ids[1])
    later = work_of(database, lambda: poll(database, watch))

    assert whole > 100
    assert later < whole / 20
    database.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["claim", "finish", "fail", "cancel", "retry", "poll"]), max_size=30))
def test_counts_are_the_databases_after_any_changes(steps: list[str]) -> None:
    database = Database("sqlite://")
    upgrade(database)
    ids = queue_jobs(database, 3)
    watch = JobWatch(job_ids=ids)
    claims: list[jobs.Claim] = []
    for number, step in enumerate(steps):
        job_id = ids[number % len(ids)]
        if step == "claim" and (claim := claimer(database)(job_id)) is not None:
            claims.append(claim)
        elif step in ("finish", "fail") and claims:
            end(database, claims.pop(), "succeeded" if step == "finish" else "error")
        elif step in ("cancel", "retry"):
            change = jobs.request_cancel if step == "cancel" else jobs.retry_job
            try:
                with database.session() as session:
                    change(session, job_id)
            except JobError:
                continue
        elif step == "poll":
            poll(database, watch)

    found = poll(database, watch)

    with database.session(read_only=True) as session:
        assert found.counts == job_queries.count_by_state(session)
        running = job_queries.list_jobs(session, states=["running"])
        assert {run.token for run in found.runs.values()} == {job.token for job in running}
    database.close()
