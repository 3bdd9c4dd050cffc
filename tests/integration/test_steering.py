"""Hold, release, priorities and retries by cause: what is held is not claimed, what is urgent is claimed next."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from adapeff.cli import progress
from adapeff.service.errors import JobError, SpecError
from adapeff.service.lanes import ANY, lane_of
from adapeff.service.settings import Settings
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_queries, jobs, steering, sweeps
from adapeff.service.store.database import Database, downgrade, upgrade
from adapeff.service.store.job_watch import JobWatch
from adapeff.service.store.jobs import RunOutcome
from adapeff.worker.daemon.consumer import Consumer
from adapeff.worker.daemon.slots import Slot
from tests.factories import claimer, queue_jobs, spec
from tests.integration.test_database import empty_url
from tests.integration.test_jobs import finish, let_pause_pass, state_of, take
from tests.integration.test_migrations import before, rows

__all__ = ["before", "empty_url"]

LANES = (lane_of(ANY), lane_of("cpu"))
Cli = Callable[..., None]


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def submit(database: Database, *specs: JobSpec, name: str = "demo", held: bool = False) -> list[int]:
    sweep = parse_sweep({"name": name, "models": ["a/b"], "tasks": ["offline_nli"], "methods": ["full"]})
    with database.session() as session:
        return sweeps.submit(session, sweep, specs, max_failures=3, held=held).job_ids


def with_source(database: Database) -> tuple[int, int]:
    """A job, and one that needs its weights."""
    source = spec(0, settings={"keep_weights": True})
    needing = spec(1).model_copy(update={"sources": (source.job_hash,)})
    ids = submit(database, source, needing)
    return ids[0], ids[1]


def change(database: Database, verb: Callable[..., Any], *arguments: Any) -> Any:
    with database.session() as session:
        return verb(session, *arguments)


def fail(database: Database, job_id: int, outcome: Any) -> None:
    """Let a job fail by an outcome, as often as its budget needs."""
    while state_of(database, job_id) == "queued":
        finish(database, take(database, job_id), RunOutcome(outcome, "it went wrong"))
        let_pause_pass(database, job_id)


def read(database: Database, query: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with database.session(read_only=True) as session:
        return query(session, *arguments, **options)


def test_held_job_is_queued_but_neither_claimed_nor_sent_until_it_is_released(database: Database) -> None:
    first, second = queue_jobs(database, 2)

    assert change(database, steering.hold, [first]) == [first]
    assert claimer(database)(first) is None
    assert state_of(database, first) == "queued"
    assert [job.id for job in read(database, job_queries.list_unsent)] == [second]
    assert read(database, job_queries.count_by_state) == {"held": 1, "queued": 1}
    assert [job.id for job in read(database, job_queries.list_jobs, states=("held",))] == [first]
    assert len(read(database, job_queries.list_jobs, states=("queued",))) == 2

    assert change(database, steering.release, [first, second]) == [first]
    assert claimer(database)(first) is not None


def test_released_job_is_sent_again_as_its_message_may_have_been_consumed(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    change(database, jobs_sent, [job_id])
    change(database, steering.hold, [job_id])

    change(database, steering.release, [job_id])

    assert [job.id for job in read(database, job_queries.list_unsent)] == [job_id]


def jobs_sent(session: Any, job_ids: list[int]) -> list[int]:
    jobs.mark_sent(session, job_ids)
    return job_ids


def test_only_queued_jobs_are_changed(database: Database) -> None:
    running, queued = queue_jobs(database, 2)
    take(database, running)

    assert change(database, steering.hold, [running, queued, 99]) == [queued]
    assert change(database, steering.set_priority, [running, queued], 1) == [queued]

    for job_id, message in ((running, f"job {running} is running; only queued jobs can be held"), (99, "no job 99")):
        with pytest.raises(JobError, match=message), database.session() as session:
            steering.check_queued(session, [queued, job_id], "held")


@pytest.mark.parametrize("ending", ["cancelled", "failed source"])
def test_no_ended_job_is_held(database: Database, ending: str) -> None:
    source, needing = with_source(database)
    change(database, steering.hold, [source, needing])

    with database.session() as session:
        jobs.request_cancel(session, needing if ending == "cancelled" else source)

    assert not read(database, job_queries.get_job, needing).held
    with database.session() as session:
        for job_id in (source, needing):
            if read(database, job_queries.get_job, job_id).state != "queued":
                jobs.retry_job(session, job_id)
    assert not read(database, job_queries.get_job, needing).held


def test_jobs_that_need_a_held_one_are_held_back_with_it(database: Database) -> None:
    source, needing = with_source(database)
    (other,) = submit(database, spec(5))
    change(database, steering.hold, [source])

    assert read(database, job_queries.count_held_back, [source, needing, other]) == 2
    assert read(database, job_queries.count_unfinished, 1, LANES, but=[]) == 0

    change(database, steering.release, [source])
    assert read(database, job_queries.count_held_back, [source, needing, other]) == 0
    assert read(database, job_queries.count_unfinished, 1, LANES, but=[]) == 2


def test_most_urgent_job_is_found_whatever_its_lane_and_the_oldest_of_several(database: Database) -> None:
    a, b, c = queue_jobs(database, 3)
    (cpu,) = queue_jobs(database, settings={"device": "cpu"})
    (cuda,) = queue_jobs(database, settings={"device": "cuda"})
    change(database, steering.set_priority, [cuda], 0)
    change(database, steering.set_priority, [c, cpu], 2)
    change(database, steering.set_priority, [a], 9)

    found = []
    while (job_id := change(database, find_next)) is not None:
        found.append(job_id)
        take(database, job_id)

    assert found == [c, cpu, b, a]


def find_next(session: Any) -> Any:
    return job_queries.find_most_urgent(session, LANES)


def test_most_urgent_leaves_out_what_waits_is_held_or_excluded(database: Database) -> None:
    held, excluded, later = queue_jobs(database, 3)
    source, needing = with_source(database)
    change(database, steering.set_priority, [needing], 0)
    change(database, steering.hold, [held])
    finish(database, take(database, later), RunOutcome("released", retry_after_seconds=600))

    assert read(database, job_queries.find_most_urgent, LANES, but=[excluded]) == source


def test_workers_that_ask_at_once_find_different_jobs(database: Database) -> None:
    ids = queue_jobs(database, 12)
    start = threading.Barrier(3)

    def work(owner: str) -> list[int]:
        start.wait()
        mine = []
        for _ in range(4):
            with database.session() as session:
                job_id = job_queries.find_most_urgent(session, LANES)
                assert job_id is not None
                claim = jobs.claim_job(
                    session, job_id, owner=owner, slot="cpu:0", folder="/runs", lease_seconds=60, lanes=LANES
                )
                assert claim is not None
                mine.append(job_id)
        return mine

    with ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(work, "abc"))

    assert sorted(job_id for mine in taken for job_id in mine) == ids


def test_worker_of_the_queue_takes_the_most_urgent_job_whatever_message_woke_it(
    database: Database, tmp_path: Path
) -> None:
    first, second, third = queue_jobs(database, 3)
    change(database, steering.set_priority, [third], 0)
    change(database, steering.hold, [first])
    worker = Consumer(Settings(state_dir=tmp_path), database, [Slot("cpu", 0)])

    with database.session() as session:
        assert worker.choose(session, first) == third
        worker.host_faults.record(third, "cpu:0", "its data are missing")
        assert worker.choose(session, first) == second


def test_watch_counts_held_jobs_apart(database: Database) -> None:
    first, second = queue_jobs(database, 2)
    watch = JobWatch()
    change(database, steering.hold, [first])
    assert read(database, watch.poll).counts == {"held": 1, "queued": 1}

    change(database, steering.release, [first])
    poll = read(database, watch.poll)

    assert (poll.counts, poll.changed, poll.all_ended) == ({"queued": 2}, [first], False)
    change(database, steering.hold, [second])
    read(database, watch.poll)
    assert watch.most_urgent(5, states=["held"]) == [second]
    assert watch.most_urgent(5, states=["queued"]) == [second, first]


def test_failed_jobs_are_selected_by_cause(database: Database) -> None:
    by_cause = dict(zip(("error", "oom", "killed", "timeout", "lost"), queue_jobs(database, 5), strict=True))
    for outcome, job_id in by_cause.items():
        fail(database, job_id, outcome)
    source, needing = with_source(database)
    fail(database, source, "error")

    for cause, job_id in by_cause.items():
        expected = [job_id, source] if cause == "error" else [job_id]
        assert read(database, steering.list_ended, sweep_ids=None, causes=[cause]) == expected
    assert read(database, steering.list_ended, sweep_ids=[1], causes=[]) == [source, needing]
    assert read(database, steering.list_ended, sweep_ids=[1], causes=["source", "oom"]) == [needing]


def test_older_databases_hold_nothing_and_lose_nothing(before: Database) -> None:
    expected = rows(before)
    upgrade(before, "0006")
    with before.session(read_only=True) as session:
        jobs_before = session.execute(text("SELECT id, state, priority FROM jobs ORDER BY id")).all()

    upgrade(before)
    with before.session(read_only=True) as session:
        assert [job.held for job in job_queries.list_jobs(session)] == [False] * 3
    downgrade(before, "0006")
    with before.engine.connect() as connection:
        assert "held" not in {column["name"] for column in inspect(connection).get_columns("jobs")}
    upgrade(before)

    with before.session(read_only=True) as session:
        assert session.execute(text("SELECT id, state, priority FROM jobs ORDER BY id")).all() == jobs_before
    assert rows(before) == expected


def test_commands_hold_release_and_reorder(database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    ids = submit(database, spec(0), spec(1), spec(0, methods=["head"]))

    cli("hold", ids[0])
    assert capsys.readouterr().out == f"job {ids[0]} held\n"
    cli("hold", "--sweep", "demo", "--where", "method=full", "--json")
    assert json.loads(capsys.readouterr().out) == [{"id": job_id, "state": "held"} for job_id in ids[:2]]
    cli("status")
    assert "2 held, 1 queued" in capsys.readouterr().out
    cli("status", "--state", "held", "--json")
    assert [(job["id"], job["state"], job["held"]) for job in json.loads(capsys.readouterr().out)["jobs"]] == [
        (ids[1], "queued", True), (ids[0], "queued", True),
    ]  # fmt: skip
    cli("release", "--sweep", "demo")
    assert capsys.readouterr().out == f"job {ids[0]} queued\njob {ids[1]} queued\n"
    cli("release", "--sweep", "demo")
    assert "nothing to release: no job that was selected is held" in capsys.readouterr().err
    cli("priority", 0, "--where", "method=head")
    assert capsys.readouterr().out == f"job {ids[2]} has priority 0\n"
    assert [job.priority for job in read(database, job_queries.list_jobs)] == [5, 5, 0]


def test_commands_refuse_what_cannot_be(database: Database, cli: Cli) -> None:
    first, second = queue_jobs(database, 2)
    take(database, second)

    with pytest.raises(JobError, match=f"job {second} is running; only queued jobs can be held"):
        cli("hold", first, second)
    assert not read(database, job_queries.get_job, first).held
    with pytest.raises(JobError, match="no job to hold is given; name job ids, or select jobs with --sweep or --where"):
        cli("hold")
    with pytest.raises(JobError, match="there is no sweep 'nope'"):
        cli("release", "--sweep", "nope")
    with pytest.raises(SpecError, match=r"--where host=... is about finished runs; jobs have model, task, method"):
        cli("hold", "--where", "host=here")
    with pytest.raises(JobError, match="unknown cause 'oomm'; did you mean 'oom'"):
        cli("retry", "--cause", "oomm")
    with pytest.raises(JobError, match="no job to retry is given"):
        cli("retry")


def test_retry_selects_by_sweep_and_cause(database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere,) = queue_jobs(database, settings={"batch_size": 8})
    oom, error = submit(database, spec(0), spec(1))
    for job_id, outcome in ((elsewhere, "oom"), (oom, "oom"), (error, "error")):
        fail(database, job_id, outcome)

    cli("retry", "--sweep", "demo", "--cause", "oom", "--cause", "lost")
    assert capsys.readouterr().out == f"job {oom} queued\n"
    cli("retry", "--cause", "oom", "--json")
    assert json.loads(capsys.readouterr().out) == [{"id": elsewhere, "state": "queued"}]
    cli("retry", "--sweep", "demo")
    assert capsys.readouterr().out == f"job {error} queued\n"
    cli("retry", "--sweep", "demo")
    assert "nothing to retry" in capsys.readouterr().err


def test_retry_of_many_leaves_those_whose_source_has_failed(
    database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    source, needing = with_source(database)
    (other,) = submit(database, spec(5))
    for job_id in (source, other):
        fail(database, job_id, "error")

    cli("retry", "--cause", "source", "--cause", "oom")
    shown = capsys.readouterr()
    assert not shown.out and f"job {needing} needs the weights of job {source}, which has failed" in shown.err
    cli("retry", "--failed")
    assert capsys.readouterr().out == "".join(f"job {job_id} queued\n" for job_id in (source, needing, other))


def test_cancel_of_a_selection_takes_jobs_with_those_they_need(
    database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    source, needing = with_source(database)
    (kept,) = submit(database, spec(3, methods=["head"]))

    cli("cancel", "--where", "method=full")

    assert capsys.readouterr().out == f"job {source} cancelled\n"
    assert [state_of(database, job_id) for job_id in (source, needing, kept)] == ["cancelled", "failed", "queued"]


def test_submit_holds_its_new_jobs(database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--seeds", "0,1", "--methods", "full", "--tasks", "offline_sentiment", "-s", "profile=off")
    cli("submit", "demo", *given, "--hold")

    shown = capsys.readouterr()
    assert "2 jobs are held or need one that is; release with `adapeff release --sweep demo`" in shown.err
    assert read(database, job_queries.count_by_state) == {"held": 2}
    cli("release", "--sweep", "demo")
    capsys.readouterr()
    cli("submit", "demo", *given, "--hold")
    assert "held" not in capsys.readouterr().err
    assert read(database, job_queries.count_by_state) == {"queued": 2}


class Ended:
    """A local worker that has run all that it could."""

    exit_code = 0

    def error(self) -> Exception:
        return SpecError("it ended")


def test_own_workers_may_end_before_held_jobs(database: Database) -> None:
    source, needing = with_source(database)
    change(database, steering.hold, [source])

    progress.wait_for(database, [source, needing], workers=[Ended()])  # type: ignore[list-item]

    change(database, steering.release, [source])
    with pytest.raises(SpecError, match="it ended"):
        progress.wait_for(database, [source, needing], workers=[Ended()])  # type: ignore[list-item]
