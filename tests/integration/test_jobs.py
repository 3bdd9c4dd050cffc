"""The job state machine on real databases: one result per job whatever comes late, twice, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import func, select, text

from adapeff.service.errors import JobError, LeaseLostError
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.report import build_report
from adapeff.service.specs.profile import plan_profile
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, job_queries, jobs, results, steering, sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.jobs import Claim, RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import FINAL_STATES, Artifact, Curve, Job, Measurement, Run
from tests.factories import claimer, queue_jobs, spec


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    """A migrated database, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


def state_of(database: Database, job_id: int) -> str:
    with database.session(read_only=True) as session:
        return job_queries.get_job(session, job_id).state


def age_lease(database: Database, job_id: int) -> None:
    """Let a lease have run out long ago."""
    moment = "datetime('now', '-1 hour')" if "sqlite" in database.url else "now() - interval '1 hour'"
    with database.session() as session:
        session.execute(text(f"UPDATE jobs SET lease_until = {moment} WHERE id = {job_id}"))


def run_results(value: float = 0.5) -> RunResults:
    found = RunResults(environment={"device_name": "test"}, resolved={"model_revision": "abc"})
    found.take(
        {"event": "measurement", "name": "accuracy", "value": value, "unit": "1", "language": "en", "split": "test"}
    )
    found.take({"event": "measurement", "name": "energy_j", "value": None, "unit": "J", "reason": "no counter"})
    found.take({"event": "curve", "name": "train_loss", "points": [[1, 0.7]]})
    found.take({"event": "artifact", "name": "predictions", "path": "p.gz", "sha256": "0" * 64, "bytes": 3})
    return found


def finish(database: Database, claim: Claim, ending: RunOutcome, found: RunResults | None = None) -> str:
    with database.session() as session:
        return results.finish(session, claim, ending, found or RunResults())


def take(database: Database, job_id: int, owner: str = "w1") -> Claim:
    claim = claimer(database, owner)(job_id)
    assert claim is not None
    return claim


def test_same_job_is_stored_once(database: Database) -> None:
    with database.session() as session:
        first, fresh = job_creation.create_jobs(session, [spec(0), spec(1)], priority=5, max_failures=3)
        again, fresh_again = job_creation.create_jobs(session, [spec(1), spec(2)], priority=5, max_failures=3)

    assert fresh == first
    assert again[0] == first[1]
    assert fresh_again == [again[1]]


def test_repeat_is_another_job(database: Database) -> None:
    with database.session() as session:
        sweep = parse_sweep({"name": "s", "models": ["a/b"], "tasks": ["offline_nli"], "methods": ["full"]})
        one = sweeps.submit(session, sweep, [spec()], max_failures=3)
        same = sweeps.submit(session, sweep, [spec()], max_failures=3)
        forced = sweeps.submit(session, sweep, [spec()], max_failures=3, force=True)

    assert same.job_ids == one.job_ids and not same.created
    assert forced.created and forced.job_ids != one.job_ids


def test_task_called_profile_is_a_task_and_a_profile_is_no_run_of_the_report(database: Database) -> None:
    trained = spec().model_copy(update={"task": PluginReference(name="profile")})
    profile = plan_profile("org/model", ["lora"])
    with database.session() as session:
        ids, _ = job_creation.create_jobs(session, [trained], priority=5, max_failures=3)
        ids += sweeps.submit(session, profile, [profile.spec], max_failures=3).job_ids
    for job_id in ids:
        finish(database, take(database, job_id), RunOutcome("succeeded"), run_results())

    with database.session(read_only=True) as session:
        report = build_report(session)
        kinds = {
            kind: [job.id for job in job_queries.list_jobs(session, kinds=[kind])] for kind in ("train", "profile")
        }

    assert [(table.task, table.runs) for table in report.tables] == [("profile", 1)]
    assert [table.job_id for table in report.profiles] == ids[1:]
    assert kinds == {"train": ids[:1], "profile": ids[1:]}


def test_job_is_claimed_once_and_its_message_may_come_twice(database: Database) -> None:
    (job_id,) = queue_jobs(database)

    claims = [claimer(database)(job_id) for _ in range(3)]

    assert [claim is not None for claim in claims] == [True, False, False]


def test_many_workers_race_for_each_job_and_one_wins(database: Database) -> None:
    ids = queue_jobs(database, 40)
    start = threading.Barrier(4)

    def work(owner: str) -> list[int]:
        start.wait()
        return [job_id for job_id in ids if claimer(database, owner)(job_id) is not None]

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(work, ["a", "b", "c", "d"]))

    assert sorted(job_id for mine in won for job_id in mine) == ids


def test_results_are_stored_with_the_ending(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)

    assert finish(database, claim, RunOutcome("succeeded", exit_code=0), run_results()) == "succeeded"

    with database.session(read_only=True) as session:
        stored = results.list_measurements(session, [claim.run_id])[claim.run_id]
        assert [(m.key.name, m.value, m.reason, m.key.language) for m in stored] == [
            ("accuracy", 0.5, "", "en"),
            ("energy_j", None, "no counter", ""),
        ]
        assert results.list_curves(session, claim.run_id) == {"": {"train_loss": [[1, 0.7]]}}
        (artifact,) = results.list_artifacts(session, claim.run_id)
        assert (
            artifact.uri.startswith("/runs/") and artifact.uri.endswith("p.gz") and f"/{claim.token}-" in artifact.uri
        )
        run = job_queries.list_runs(session, [job_id])[job_id][0]
        assert results.list_environments(session, [run.environment_id or 0]) == {
            run.environment_id: {"device_name": "test"}
        }


def test_run_taken_back_may_neither_renew_nor_write(database: Database) -> None:
    """A worker that was stopped for longer than its lease, and goes on."""
    (job_id,) = queue_jobs(database)
    late = take(database, job_id, "stopped")
    age_lease(database, job_id)
    with database.session() as session:
        assert jobs.take_back_expired(session) == [(job_id, "queued")]
    new = take(database, job_id, "other")

    for attempt in (
        lambda session: jobs.heartbeat(session, late, lease_seconds=60, stage="", progress={}),
        lambda session: results.finish(session, late, RunOutcome("succeeded"), run_results(0.1)),
    ):
        with pytest.raises(LeaseLostError), database.session() as session:
            attempt(session)
    assert finish(database, new, RunOutcome("succeeded"), run_results(0.9)) == "succeeded"

    with database.session(read_only=True) as session:
        assert [m.value for m in session.scalars(select(Measurement).where(Measurement.name == "accuracy"))] == [0.9]
        runs = job_queries.list_runs(session, [job_id])[job_id]
        assert [(run.outcome, run.token) for run in runs] == [("lost", 1), ("succeeded", 2)]
        assert "no heartbeat from worker stopped" in runs[0].message
        for table in (Measurement, Curve, Artifact):
            run_ids = set(session.scalars(select(table.run_id)))
            assert run_ids == {new.run_id}


def test_lease_that_is_renewed_is_not_taken_back(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)
    age_lease(database, job_id)

    with database.session() as session:
        jobs.heartbeat(session, claim, lease_seconds=60, stage="train", progress={"step": 1})
    with database.session() as session:
        assert jobs.take_back_expired(session) == []


def test_progress_between_heartbeats_leaves_the_lease_alone(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)
    with database.session(read_only=True) as session:
        before = job_queries.get_job(session, job_id).lease_until

    with database.session() as session:
        jobs.heartbeat(session, claim, lease_seconds=None, stage="train", progress={"step": 7})

    with database.session(read_only=True) as session:
        assert job_queries.get_job(session, job_id).lease_until == before
        assert job_queries.list_runs(session, [job_id])[job_id][0].progress == {"step": 7}


def let_pause_pass(database: Database, job_id: int) -> float | None:
    """Seconds that a job waits before it is tried again, from its last change; they pass at once."""
    with database.session() as session:
        job = session.get_one(Job, job_id)
        pause = None if job.not_before is None else (job.not_before - job.changed_at).total_seconds()
        job.not_before = None
    return pause


@pytest.mark.parametrize("outcome", ["killed", "lost"])
def test_job_that_keeps_dying_fails_after_its_budget(database: Database, outcome: Any) -> None:
    (job_id,) = queue_jobs(database, max_failures=3)

    states, pauses = [], []
    for _ in range(3):
        states.append(finish(database, take(database, job_id), RunOutcome(outcome, "signal 9")))
        pauses.append(let_pause_pass(database, job_id))

    assert states == ["queued", "queued", "failed"]
    assert pauses == [None, pytest.approx(10, abs=1), None], "at once, then with a pause"
    with database.session(read_only=True) as session:
        assert job_queries.get_job(session, job_id).cause == f"{outcome} (3 of 3 failures): signal 9"


def test_job_handed_back_burns_no_budget(database: Database) -> None:
    (job_id,) = queue_jobs(database, max_failures=1)

    states = [finish(database, take(database, job_id), RunOutcome("released")) for _ in range(4)]

    assert states == ["queued"] * 4
    with database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        assert (job.failures, job.token) == (0, 4)


@pytest.mark.parametrize("outcome", ["error", "oom", "timeout"])
def test_failure_that_would_happen_again_is_final(database: Database, outcome: Any) -> None:
    (job_id,) = queue_jobs(database)

    assert finish(database, take(database, job_id), RunOutcome(outcome, "because")) == "failed"

    with database.session(read_only=True) as session:
        assert job_queries.get_job(session, job_id).cause == f"{outcome}: because"


def test_cancelled_job_is_not_claimed(database: Database) -> None:
    (job_id,) = queue_jobs(database)

    with database.session() as session:
        assert jobs.request_cancel(session, job_id) == "cancelled"

    assert claimer(database)(job_id) is None


def test_running_job_hears_of_its_cancellation(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)

    with database.session() as session:
        assert jobs.request_cancel(session, job_id) == "cancelling"
    with database.session() as session:
        assert jobs.heartbeat(session, claim, lease_seconds=None, stage="", progress={})

    assert finish(database, claim, RunOutcome("cancelled")) == "cancelled"


def test_cancelled_job_of_a_lost_worker_ends_cancelled(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    take(database, job_id)
    with database.session() as session:
        jobs.request_cancel(session, job_id)
    age_lease(database, job_id)

    with database.session() as session:
        assert jobs.take_back_expired(session) == [(job_id, "cancelled")]


@pytest.mark.parametrize("outcome", ["released", "killed"])
def test_cancelled_job_whose_worker_stops_first_stays_cancelled(database: Database, outcome: Any) -> None:
    (job_id,) = queue_jobs(database)
    claim = take(database, job_id)
    with database.session() as session:
        jobs.request_cancel(session, job_id)

    assert finish(database, claim, RunOutcome(outcome)) == "cancelled"


def test_limits_of_a_job_that_has_not_succeeded_follow_the_last_submission(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    finish(database, take(database, job_id), RunOutcome("timeout"))

    with database.session() as session:
        longer = spec(0).model_copy(update={"time_limit_minutes": 90.0})
        job_creation.create_jobs(session, [longer], priority=1, max_failures=7)

    with database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        assert (job.spec["time_limit_minutes"], job.priority, job.max_failures) == (90.0, 1, 7)


def test_runs_of_two_databases_never_share_a_folder(database: Database) -> None:
    """Two databases may share one artifacts folder: the same job with the same token must not find old events."""
    (job_id,) = queue_jobs(database)
    other = Database("sqlite://")
    upgrade(other)
    queue_jobs(other)

    assert take(database, job_id).folder != take(other, 1).folder
    other.close()


def test_retry_gives_a_fresh_budget(database: Database) -> None:
    (job_id,) = queue_jobs(database, max_failures=1)
    finish(database, take(database, job_id), RunOutcome("killed"))
    assert state_of(database, job_id) == "failed"

    with database.session() as session:
        jobs.retry_job(session, job_id)

    with database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        assert (job.state, job.failures, job.cause) == ("queued", 0, "")


@pytest.mark.parametrize(("verb", "state"), [("cancel", "succeeded"), ("retry", "succeeded"), ("retry", "queued")])
def test_what_a_state_does_not_allow_is_refused(database: Database, verb: str, state: str) -> None:
    (job_id,) = queue_jobs(database)
    if state == "succeeded":
        finish(database, take(database, job_id), RunOutcome("succeeded"))

    with pytest.raises(JobError, match=f"job {job_id} is {state}"), database.session() as session:
        jobs.request_cancel(session, job_id) if verb == "cancel" else jobs.retry_job(session, job_id)


def test_job_waits_for_its_sources(database: Database) -> None:
    source = spec(0)
    dependent = spec(1).model_copy(update={"sources": (source.job_hash,)})
    with database.session() as session:
        (source_id, dependent_id), _ = job_creation.create_jobs(
            session, [source, dependent], priority=5, max_failures=3
        )
        assert [job.id for job in job_queries.list_unsent(session)] == [source_id]
    assert claimer(database)(dependent_id) is None

    finish(database, take(database, source_id), RunOutcome("succeeded"))

    assert claimer(database)(dependent_id) is not None


def test_job_waits_for_its_time(database: Database) -> None:
    (job_id,) = queue_jobs(database)
    later = "datetime('now', '+1 hour')" if "sqlite" in database.url else "now() + interval '1 hour'"
    with database.session() as session:
        session.execute(text(f"UPDATE jobs SET not_before = {later}"))

    assert claimer(database)(job_id) is None


def test_outbox_holds_what_was_never_sent_by_priority(database: Database) -> None:
    with database.session() as session:
        job_creation.create_jobs(session, [spec(0), spec(1)], priority=5, max_failures=3)
        job_creation.create_jobs(session, [spec(2)], priority=0, max_failures=3)
    with database.session() as session:
        waiting = [job.id for job in job_queries.list_unsent(session)]
        jobs.mark_sent(session, waiting[:1])
    with database.session(read_only=True) as session:
        assert waiting == [3, 1, 2]
        assert [job.id for job in job_queries.list_unsent(session)] == [1, 2]


def test_ten_thousand_jobs_are_stored_in_one_transaction(database: Database) -> None:
    model = spec()
    specs = [model.model_copy(update={"seed": seed}) for seed in range(10_000)]

    with database.session() as session:
        ids, fresh = job_creation.create_jobs(session, specs, priority=5, max_failures=3)

    assert len(set(ids)) == len(fresh) == 10_000


def test_lists_of_ids_and_hashes_may_be_longer_than_a_statement_has_room_for(database: Database) -> None:
    """SQLite binds at most 32,766 values, PostgreSQL 65,535."""
    ids = queue_jobs(database, 2)
    claim = take(database, ids[0])
    finish(database, claim, RunOutcome("succeeded"), run_results())
    many = [*ids, *range(1000, 71_000)]
    hashes = [spec(0).job_hash, *(f"{number:064}" for number in range(70_000))]

    with database.session() as session:
        assert [job.id for job in job_queries.list_jobs(session, ids=many)] == ids
        assert [job.id for job in job_queries.list_jobs(session, ids=many, limit=1)] == ids[1:]
        assert [job.id for job in job_queries.list_jobs(session, train_hashes=[spec(1).train_hash, *hashes])] == ids[1:]
        assert not job_queries.list_jobs(session, ids=[]) and not job_queries.list_jobs(session, train_hashes=[])
        assert not job_queries.count_by_state(session, sweep_ids=many)
        assert sum(map(len, job_queries.list_runs(session, many).values())) == 1
        assert job_queries.states_by_hash(session, hashes) == {spec(0).job_hash: "succeeded"}
        assert job_queries.ids_by_hash(session, hashes) == {spec(0).job_hash: ids[0]}
        assert not any(sweeps.names_of(session, many).values())
        assert len(results.list_measurements(session, [claim.run_id, *many[2:]])[claim.run_id]) == 2
        assert results.list_curves_of(session, [claim.run_id, *many[2:]], ["train_loss"])[claim.run_id]
        assert len(results.list_environments(session, many)) == 1
        jobs.mark_sent(session, many)
        assert [job.id for job in job_queries.list_unsent(session)] == []


class JobMachine(RuleBasedStateMachine):
    """Any order of claims, endings, cancels, retries, holds, lost leases: nothing leads out of a final state but a
    retry, no held job is claimed, at most one run counts, and tokens only grow."""

    claims = Bundle("claims")
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.database = Database("sqlite://")
        upgrade(self.database)
        (self.job_id,) = queue_jobs(self.database, max_failures=2)
        self.token = 0
        self.retried = False
        self.last = "queued"
        self.cancelling = False
        self.held = False

    def teardown(self) -> None:
        self.database.close()

    @rule(target=claims)
    def claim(self) -> Claim | None:
        claim = claimer(self.database)(self.job_id)
        assert (claim is not None) == (self.last == "queued" and not self.held)
        return claim

    @rule(claim=claims, outcome=st.sampled_from(["succeeded", "error", "killed", "released", "cancelled"]))
    def finish(self, claim: Claim | None, outcome: Any) -> None:
        if claim is None:
            return
        counts = self.last == "running" and claim.token == self.token
        try:
            finish(self.database, claim, RunOutcome(outcome), run_results())
            assert counts
        except LeaseLostError:
            assert not counts

    @rule(verb=st.sampled_from([steering.hold, steering.release]))
    def steer(self, verb: Any) -> None:
        with self.database.session() as session:
            changed = verb(session, [self.job_id])
        assert bool(changed) == (self.last == "queued" and (verb is steering.hold or self.held))

    @rule()
    def lose(self) -> None:
        age_lease(self.database, self.job_id) if self.last == "running" else None
        with self.database.session() as session:
            taken = jobs.take_back_expired(session)
        assert bool(taken) == (self.last == "running")

    @rule()
    def cancel(self) -> None:
        try:
            with self.database.session() as session:
                jobs.request_cancel(session, self.job_id)
            assert self.last in ("queued", "running")
            self.cancelling = self.last == "running"
        except JobError:
            assert self.last in FINAL_STATES

    @rule()
    def retry(self) -> None:
        try:
            with self.database.session() as session:
                jobs.retry_job(session, self.job_id)
            assert self.last in ("failed", "cancelled")
            self.retried = True
        except JobError:
            assert self.last not in ("failed", "cancelled")

    @invariant()
    def the_row_is_sound(self) -> None:
        with self.database.session(read_only=True) as session:
            job = job_queries.get_job(session, self.job_id)
            counted = session.scalar(select(func.count()).select_from(Run).where(Run.outcome == "succeeded"))
            stored = session.scalar(select(func.count()).select_from(Measurement).where(Measurement.name == "accuracy"))
            running = session.scalar(select(func.count()).select_from(Run).where(Run.outcome == "running"))
            ended = session.scalar(select(func.count()).select_from(Run).where(Run.outcome != "running"))
        assert job.state == "queued" or not job.held
        assert counted == (job.state == "succeeded")
        assert running == (job.state == "running")
        assert (stored or 0) <= (ended or 0)
        assert job.token >= self.token
        if self.last in FINAL_STATES and job.state != self.last:
            assert self.retried and job.state == "queued"
        if self.cancelling and job.state != "running":
            assert job.state in FINAL_STATES, "a cancelled job went back to the queue"
            self.cancelling = False
        self.token, self.last, self.retried, self.held = job.token, job.state, False, job.held


JobMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestJobMachine = JobMachine.TestCase
