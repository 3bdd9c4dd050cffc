"""`adapeff why` names what a job waits for, where it runs, or why it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from adapeff.service.errors import JobError
from adapeff.service.measurements import WALL_S
from adapeff.service.reporting.queue_summary import QueueSummary, summarise_queue
from adapeff.service.reporting.waiting import Explanation, explain_job
from adapeff.service.store import job_queries, jobs, steering, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.workers import WorkerRecord, report_alive
from tests.factories import queue_jobs, spec
from tests.integration.test_jobs import age_lease, finish, take
from tests.integration.test_steering import change, fail, read, submit, with_source

RECORD = WorkerRecord("host-1-a", "host", "cpu", ("cpu:0",), "1.0")
Cli = Callable[..., None]


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def start_worker(database: Database, record: WorkerRecord = RECORD) -> None:
    with database.session() as session:
        report_alive(session, record, next_within_seconds=60)


def explain(database: Database, job_id: int) -> Explanation:
    found: Explanation = read(database, explain_job, job_id)
    return found


def reasons(database: Database, job_id: int) -> dict[str, str]:
    return {reason.kind: reason.text for reason in explain(database, job_id).reasons}


def without_age(text: str) -> str:
    """A text whose first age, which grows while the test runs, reads "..."."""
    return re.sub(r"\d+ (s|min) ago", "... ago", text, count=1)


def succeed(database: Database, job_id: int, seconds: float) -> None:
    results = RunResults(environment={"device_name": "test"})
    results.take({"event": "measurement", "name": WALL_S.name, "value": seconds, "unit": "s"})
    finish(database, take(database, job_id), RunOutcome("succeeded"), results)


def test_running_job_names_its_slot_its_stage_and_what_is_left(database: Database) -> None:
    done, running = queue_jobs(database, 2)
    succeed(database, done, 90)
    claim = take(database, running, "host-1-a")
    with database.session() as session:
        jobs.heartbeat(session, claim, lease_seconds=60, stage="train", progress={"step": 3, "steps": 9, "eta_s": 4.0})

    found = explain(database, running)

    (reason,) = found.reasons
    assert reason.text.startswith("run 1 has been on cpu:0 of host for ")
    assert reason.text.endswith("train step 3/9, 4 s")
    assert found.takes_s == pytest.approx(90, abs=30)


def test_run_whose_worker_fell_silent_and_cancellation_are_without_age(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    take(database, job_id)
    with database.session() as session:
        jobs.request_cancel(session, job_id)
    age_lease(database, job_id)

    assert set(reasons(database, job_id)) == {"running", "cancelling", "lost"}
    assert "its lease expired 60 min ago" in reasons(database, job_id)["lost"]


def test_job_without_a_worker_for_its_device_says_which_are_alive(database: Database) -> None:
    (cuda,) = queue_jobs(database, settings={"device": "cuda"})
    (anywhere,) = queue_jobs(database)
    assert reasons(database, cuda) == {"no_worker": "no worker is alive"}

    start_worker(database)
    found = explain(database, cuda)
    assert [reason.text for reason in found.reasons] == ["no worker that offers cuda is alive (alive: cpu on host)"]
    assert found.advice == ["`adapeff worker --devices cuda` on a host that has it"]
    assert found.position == 1 and "no_worker" not in reasons(database, anywhere)


def test_worker_of_another_sweep_does_not_count(database: Database) -> None:
    (mine,) = submit(database, spec(0), name="mine")
    (other,) = submit(database, spec(1), name="other")
    start_worker(database, replace(RECORD, sweep_id=1))

    assert "unsent" in reasons(database, mine)
    told = "no worker that serves the queue is alive (alive: cpu on host, for the jobs of one sweep only)"
    assert reasons(database, other) == {"no_worker": told}


def test_job_behind_others_has_a_position_and_a_time_from_like_jobs(database: Database) -> None:
    done, running, ahead, last = queue_jobs(database, 4)
    succeed(database, done, 100)
    start_worker(database)
    take(database, running, RECORD.name)

    found = explain(database, last)

    assert [reason.kind for reason in found.reasons] == ["ahead", "busy"]
    assert found.reasons[1].text == f"the slot that could run it is busy: job {running} on cpu:0 of host (starting)"
    assert found.position == 2 and not found.needs_broker
    assert found.starts_in_s == pytest.approx(200, abs=30) and found.takes_s == 100
    change(database, steering.set_priority, [last], 0)
    assert explain(database, last).position == 1 and explain(database, ahead).position == 2


def test_time_is_unknown_where_no_similar_job_has_finished(database: Database) -> None:
    running, waiting = queue_jobs(database, 2)
    start_worker(database)
    take(database, running, RECORD.name)

    found = explain(database, waiting)

    assert (found.position, found.starts_in_s, found.takes_s) == (1, None, None)


def test_free_slot_waits_for_the_message(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    start_worker(database)
    assert explain(database, job_id).needs_broker
    assert reasons(database, job_id) == {
        "unsent": "its message has not been sent yet; any worker sends it within a minute"
    }

    with database.session() as session:
        jobs.mark_sent(session, [job_id])
    assert without_age(reasons(database, job_id)["soon"]).startswith("a slot is free, and a message was sent ... ago")


def test_held_job_and_those_that_need_it_say_so(database: Database) -> None:
    source, needing = with_source(database)
    start_worker(database)
    change(database, steering.hold, [source])

    held, waiting = explain(database, source), explain(database, needing)

    assert (held.state, [reason.text for reason in held.reasons]) == (
        "held",
        ["no worker takes it until it is released"],
    )
    assert held.advice == waiting.advice == [f"`adapeff release {source}`"]
    assert [(reason.text, list(reason.jobs)) for reason in waiting.reasons] == [
        (f"it needs the weights of job {source} (full on offline_sentiment, seed 0), which is held", [source])
    ]


def test_chain_of_sources_is_followed_to_what_it_waits_for(database: Database) -> None:
    first = spec(0, settings={"keep_weights": True})
    second = spec(1, settings={"keep_weights": True}).model_copy(update={"sources": (first.job_hash,)})
    third = spec(2).model_copy(update={"sources": (second.job_hash,)})
    ids = submit(database, first, second, third)
    take(database, ids[0])

    (reason,) = explain(database, ids[2]).reasons

    assert list(reason.jobs) == [ids[1], ids[0]]
    assert "which is queued, which needs job" in reason.text and reason.text.endswith("which is running")


def test_job_that_is_not_tried_yet_says_when_and_why(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    finish(database, take(database, job_id), RunOutcome("released", "host cannot run it", retry_after_seconds=90))

    told = reasons(database, job_id)["not_before"]

    assert "it is not tried before" in told
    assert told.endswith("because its last run was released: host cannot run it")


@pytest.mark.parametrize(
    ("outcome", "used", "advice"),
    [
        ("oom", 0, "smaller batch_size"),
        ("timeout", 0, "raise time_limit_minutes"),
        ("error", 0, "`adapeff logs {id}`"),
        ("lost", 3, "fell silent 3 times"),
        ("killed", 3, "killed 3 times"),
    ],
)
def test_failed_job_says_why_how_often_and_what_to_do(database: Database, outcome: str, used: int, advice: str) -> None:
    (job_id,) = queue_jobs(database)
    fail(database, job_id, outcome)

    found = explain(database, job_id)

    assert (
        without_age(found.reasons[0].text).startswith(f"it failed ... ago: {outcome}")
        and "it went wrong" in found.reasons[0].text
    )
    assert f"{used} of at most 3 failures used; the last on cpu:0 of" in found.reasons[1].text
    assert advice.format(id=job_id) in found.advice[0]
    assert found.advice[1] == f"`adapeff retry {job_id}`"


def test_job_that_failed_with_its_source_is_retried_with_it(database: Database) -> None:
    source, needing = with_source(database)
    fail(database, source, "error")

    found = explain(database, needing)

    assert without_age(found.reasons[0].text) == f"it failed ... ago: its source, job {source}, was failed"
    assert list(found.reasons[1].jobs) == [source]
    assert found.advice == [f"`adapeff retry {source} {needing}`"]


def test_ended_jobs_say_how(database: Database) -> None:
    done, cancelled = queue_jobs(database, 2)
    succeed(database, done, 1)
    with database.session() as session:
        jobs.request_cancel(session, cancelled)

    assert without_age(reasons(database, done)["succeeded"]).startswith("it succeeded ... ago on cpu:0 of")
    assert without_age(reasons(database, cancelled)["cancelled"]) == "it was cancelled ... ago: cancelled before it ran"
    assert explain(database, cancelled).advice == [f"`adapeff retry {cancelled}`"]


def test_estimates_of_stored_jobs_are_those_of_their_specs_from_recent_runs(database: Database) -> None:
    old, new, waiting = queue_jobs(database, 3)
    (other,) = queue_jobs(database, settings={"batch_size": 8})
    succeed(database, old, 10)
    succeed(database, new, 30)

    def of(session: Any, **options: int) -> list[float | None]:
        return sweeps.estimate_jobs(session, job_queries.list_jobs(session, ids=[waiting, other]), **options)

    assert read(database, of) == [20, None]
    assert read(database, of, recent=1) == [30, None]
    assert read(database, sweeps.estimate_seconds, [spec(2), spec(0, settings={"batch_size": 8})]) == [20, None]


def test_command_says_it_in_words_and_in_json(database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    done, job_id = queue_jobs(database, 2)
    succeed(database, done, 100)
    start_worker(database)

    cli("why", job_id)
    assert capsys.readouterr().out.splitlines() == [
        f"job {job_id} (full on offline_sentiment, seed 1) is queued",
        "- its message has not been sent yet; any worker sends it within a minute",
        "- number 1 in the queue, starts in about 0 s",
        "- takes about 100 s, judging by similar runs",
    ]
    cli("why", job_id, "--json")
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], document["position"], document["takes_s"]) == ("queued", 1, 100)
    assert [reason["kind"] for reason in document["reasons"]] == ["unsent"]
    with pytest.raises(JobError, match="there is no job 99"):
        cli("why", 99)


def test_broker_that_cannot_be_reached_is_named(
    database: Database, cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = queue_jobs(database)
    start_worker(database)
    monkeypatch.setenv("ADAPEFF_BROKER_URL", "redis://:secret@127.0.0.1:1/0")

    cli("why", job_id)

    told = capsys.readouterr().out
    assert "the broker redis://:***@127.0.0.1:1/0 cannot be reached from here" in told and "start the broker" in told


def test_work_does_not_grow_with_the_jobs_that_ended_long_ago(tmp_path: Any) -> None:
    """Statements are few, and read no table of ended jobs from its beginning to its end."""
    from adapeff.service.store.database import upgrade

    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(database)
    first, second = queue_jobs(database, 2)
    start_worker(database)
    take(database, first, RECORD.name)
    executed: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: executed.append((given[2], given[3])))
    explain(database, second)
    summary(database)
    summary(database, sweep_ids=[1])

    assert 30 < len(executed) < 80
    with database.engine.connect() as connection:
        for statement, parameters in [*executed]:
            if not statement.startswith("SELECT") or "strftime" in statement:
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[3] for row in plan]
            assert "SCAN jobs" not in steps and not any("ix_measurements_name_value" in step for step in steps), (
                statement
            )
    database.close()


def summary(database: Database, **options: Any) -> QueueSummary:
    found: QueueSummary = read(database, summarise_queue, **options)
    return found


def test_summary_counts_slots_ended_jobs_and_what_is_left_of_a_sweep(database: Database) -> None:
    assert summary(database).text == ""
    done, running, *_ = submit(database, *(spec(seed) for seed in range(4)), name="mine")
    submit(database, *(spec(seed) for seed in range(10, 13)), name="other")
    assert summary(database).text == "no worker is alive"
    succeed(database, done, 100)
    start_worker(database, replace(RECORD, slots=("cpu:0", "cpu:1")))
    take(database, running, RECORD.name)

    mine, everything = summary(database, sweep_ids=[1]), summary(database)

    assert (mine.slots, mine.busy, mine.ended_last_hour, mine.left) == (2, 1, 1, 3)
    assert mine.left_s == pytest.approx(150, abs=15)
    assert mine.text.startswith("1 of 2 slots busy; 1 ended in the last hour; about 2 min left")
    assert everything.left == 6 and everything.left_s == pytest.approx(300, abs=15)
    (elsewhere,) = submit(database, spec(0, settings={"batch_size": 8}), name="third")
    change(database, steering.hold, [elsewhere])
    assert (summary(database).left, summary(database, sweep_ids=[3]).left_s) == (6, None)


def test_status_has_the_summary(database: Database, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (job_id,) = submit(database, spec(0))
    start_worker(database)
    take(database, job_id, RECORD.name)

    cli("status", "demo")
    assert "1 of 1 slots busy" in capsys.readouterr().out
    cli("status", "--json")
    assert json.loads(capsys.readouterr().out)["queue"] == {
        "slots": 1, "busy": 1, "ended_last_hour": 0, "left": 1, "left_s": None,
    }  # fmt: skip
