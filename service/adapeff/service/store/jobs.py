"""The job state machine.

                 ┌──────── retry ────────┬─────────────┐
                 ▼                       │             │
    create ─► queued ── claim ─► running ┴─► failed    │
                 ▲                │  │ └──► cancelled ─┘
                 └─ release, lost ┘  └────► succeeded
    queued ── cancel ─► cancelled

Every change is a compare-and-set: it names the state (and, for a run, the fencing token) it expects, so whoever comes
late changes nothing and is told so. Each claim adds 1 to the token; a run whose token is no longer the job's may not
write. `failures` is another budget: only runs that were killed or lost spend it, a run handed back does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast
from uuid import uuid4

from sqlalchemy import ColumnElement, CursorResult, and_, case, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from adapeff.service.errors import JobError, LeaseLostError
from adapeff.service.plugins import catalog
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import AnySpec, ProfileSpec, read_spec
from adapeff.service.store.database import insert_ignoring, now, take_turn
from adapeff.service.store.tables import FINAL_STATES, Job, JobSource, Run, SweepJob

_Spec = TypeVar("_Spec", JobSpec, ProfileSpec)
Outcome = Literal["succeeded", "error", "oom", "killed", "timeout", "cancelled", "lost", "released"]
_CHUNK = 500
_TRY_AGAIN = ("killed", "lost")


@dataclass(frozen=True)
class Claim:
    """The right to run a job once: what the worker needs, and the token that fences its results."""

    job_id: int
    run_id: int
    token: int
    spec: Mapping[str, Any]
    """The job's specification as it is stored; whoever runs it reads it."""
    folder: str
    """Where the run keeps its files."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    outcome: Outcome
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: float = 0
    """How long a job that goes back to the queue is left alone."""
    not_here: bool = False
    """Whether what failed is the host, not the job: another one may run it."""


def lane_of(spec: AnySpec) -> str:
    """The queue a job waits in: one per device type it may run on."""
    return f"adapeff-{spec.device}"


def create_jobs(
    session: Session, specs: Sequence[AnySpec], *, priority: int, max_failures: int
) -> tuple[list[int], list[int]]:
    """Store a queued job for each spec that has none yet.

    Submissions take turns: two of the same grid in different order would deadlock over each other's rows.

    Returns:
        The ids of all the specs' jobs in their order, and the ids of those that this call has stored.
    """
    hashes = [spec.job_hash for spec in specs]
    take_turn(session, "adapeff submit")
    known = _ids_by_hash(session, hashes)
    created_at = now(session)
    rows: list[dict[str, Any]] = [
        {
            "kind": spec.kind,
            "job_hash": job_hash,
            "train_hash": spec.train_hash,
            "spec": spec.model_dump(mode="json"),
            **spec.columns,
            "state": "queued",
            "cause": "",
            "lane": lane_of(spec),
            "priority": priority,
            "max_failures": max_failures,
            "created_at": created_at,
            "changed_at": created_at,
        }
        for spec, job_hash in zip(specs, hashes, strict=True)
        if job_hash not in known
    ]
    rows = list({row["job_hash"]: row for row in rows}.values())
    stored: set[str] = set()
    for start in range(0, len(rows), _CHUNK):
        chunk = insert_ignoring(session, Job, "job_hash").values(rows[start : start + _CHUNK])
        stored.update(session.scalars(chunk.returning(Job.job_hash)))
    ids = _ids_by_hash(session, hashes)
    _update_limits(session, [spec for spec, h in zip(specs, hashes, strict=True) if h in known], priority, max_failures)
    for spec, job_hash in zip(specs, hashes, strict=True):
        if spec.sources and job_hash in stored:
            _store_sources(session, ids[job_hash], spec.sources)
    fresh = [ids[job_hash] for job_hash in dict.fromkeys(hashes) if job_hash in stored]
    return [ids[job_hash] for job_hash in hashes], fresh


def _update_limits(session: Session, specs: Sequence[AnySpec], priority: int, max_failures: int) -> None:
    """Give jobs that have not ended well the limits they are now asked for with: these are in no identity."""
    wanted = {spec.job_hash: spec for spec in specs}
    ordered = sorted(wanted)
    for start in range(0, len(ordered), _CHUNK):
        chunk = ordered[start : start + _CHUNK]
        found = session.execute(
            select(Job.id, Job.job_hash, Job.spec, Job.priority, Job.max_failures)
            .where(Job.job_hash.in_(chunk), Job.state.in_(("queued", "failed", "cancelled")))
            .order_by(Job.job_hash)
        ).all()
        for row in found:
            limit = wanted[row.job_hash].time_limit_minutes
            if (row.spec.get("time_limit_minutes"), row.priority, row.max_failures) != (limit, priority, max_failures):
                session.execute(
                    update(Job)
                    .where(Job.id == row.id)
                    .values(
                        spec={**row.spec, "time_limit_minutes": limit}, priority=priority, max_failures=max_failures
                    )
                    .execution_options(synchronize_session=False)
                )


def _ids_by_hash(session: Session, hashes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[start : start + _CHUNK]
        wanted = select(Job.job_hash, Job.id).where(Job.job_hash.in_(chunk))
        found |= {row.job_hash: row.id for row in session.execute(wanted)}
    return found


def with_sources(session: Session, spec: _Spec) -> _Spec:
    """The spec with its source jobs, however they were written, named by their hashes.

    Raises:
        JobError: if one does not exist, is of another model or method than can be built on, keeps no weights, or has
            ended without them.
    """
    if isinstance(spec, ProfileSpec):
        return spec
    found = {name: _source_hash(session, name, spec) for name in spec.sources if not name.startswith("folder:")}
    if not found:
        return spec
    written = spec.method.parameters["sources"]
    parameters = {**spec.method.parameters, "sources": [found.get(name, name) for name in written]}
    return spec.model_copy(
        update={
            "sources": tuple(found.get(name, name) for name in spec.sources),
            "method": spec.method.model_copy(update={"parameters": parameters}),
        }
    )


def _source_hash(session: Session, name: str, spec: JobSpec) -> str:
    by_id = name.isdecimal() and len(name) < 12
    wanted = Job.id == int(name) if by_id else Job.job_hash.startswith(name, autoescape=True)
    rows = session.execute(select(Job.id, Job.job_hash, Job.state, Job.spec).where(wanted).limit(2)).all()
    if len(rows) != 1:
        what = "stands for several jobs; give more of its hash" if rows else "does not exist; submit it first"
        raise JobError(f"source job {name} {what}")
    (row,) = rows
    source = read_spec(row.spec)
    if not isinstance(source, JobSpec):
        raise JobError(f"source job {row.id} is a profile, which keeps no weights; name a job that trains")
    if source.model.identity != spec.model.identity:
        raise JobError(f"source job {row.id} trained another model, {source.model}; name a job of {spec.model}")
    try:
        builder = catalog.get_method(spec.method.name, spec.method.parameters)
        builder.check_source(catalog.get_method(source.method.name, source.method.parameters))
    except ValueError as error:
        raise JobError(f"source job {row.id} trained {source.method}: {error}") from error
    if not row.spec["measuring"].get("keep_weights"):
        raise JobError(f"source job {row.id} keeps no weights; submit it with keep_weights: true")
    if row.state in ("failed", "cancelled"):
        raise JobError(f"source job {row.id} is {row.state}; retry it first (adapeff retry {row.id})")
    return str(row.job_hash)


def _fail_dependents(session: Session, job_id: int, state: str) -> None:
    """Fail what waits for a job that has ended without success: it could never run."""
    waiting = select(JobSource.job_id).where(JobSource.source_id == job_id)
    cause, moment = f"its source, job {job_id}, was {state}", now(session)
    _change(
        session,
        moment,
        (Job.id.in_(waiting), Job.state == "queued"),
        {"state": "failed", "cause": cause, "sent_at": None, "finished_at": moment},
    )


def _store_sources(session: Session, job_id: int, sources: Iterable[str]) -> None:
    wanted = sorted({source for source in sources if not source.startswith("folder:")})
    ids = _ids_by_hash(session, wanted)
    for source in wanted:
        if source not in ids:
            raise JobError(
                f"job {job_id} needs the artifacts of job {source[:12]}, which does not exist; submit it first"
            )
        session.execute(insert(JobSource).values(job_id=job_id, source_id=ids[source]))


def next_repeat(session: Session, spec: _Spec) -> _Spec:
    """The spec with the lowest `repeat` that no job has yet."""
    while _ids_by_hash(session, [spec.job_hash]):
        spec = spec.model_copy(update={"repeat": spec.repeat + 1})
    return spec


def newest_repeat(session: Session, spec: _Spec) -> _Spec:
    """The spec with the highest `repeat` that has a job; the spec itself if none has."""
    while _ids_by_hash(session, [(after := spec.model_copy(update={"repeat": spec.repeat + 1})).job_hash]):
        spec = after
    return spec


def get_job(session: Session, job_id: int) -> Job:
    """The job's row.

    Raises:
        JobError: if there is none.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise JobError(f"there is no job {job_id}; `adapeff status` lists them")
    return job


def _is_claimable(moment: datetime) -> Any:
    source = aliased(Job)
    waiting = exists(
        select(1)
        .select_from(JobSource)
        .join(source, source.id == JobSource.source_id)
        .where(JobSource.job_id == Job.id, source.state != "succeeded")
    )
    return and_(Job.state == "queued", or_(Job.not_before.is_(None), Job.not_before <= moment), ~waiting)


def claim_job(
    session: Session, job_id: int, *, owner: str, slot: str, folder: str, lease_seconds: float, lanes: Sequence[str]
) -> Claim | None:
    """Take a queued job, or None if it is not there to be taken; a second message for it finds that.

    A message may lie in a lane that is not its job's, so the job's own must be among the `lanes` that its slot serves.
    The run's folder is named apart from every other's: two databases may share one artifacts folder, and a run that
    found another's events would take them for its own.
    """
    moment = now(session)
    taken = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.lane.in_(lanes), _is_claimable(moment))
        .values(
            state="running",
            cause="",
            not_before=None,
            token=Job.token + 1,
            lease_owner=owner,
            lease_until=moment + timedelta(seconds=lease_seconds),
            cancel_requested_at=None,
            changed_at=moment,
        )
        .returning(Job.token, Job.spec, Job.job_hash)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    run = Run(
        job_id=job_id,
        token=taken.token,
        worker=owner,
        slot=slot,
        folder=f"{folder}/{taken.job_hash[:2]}/{taken.job_hash}/{taken.token}-{uuid4().hex[:8]}",
        outcome="running",
        started_at=moment,
    )
    session.add(run)
    session.flush()
    return Claim(job_id, run.id, taken.token, taken.spec, run.folder)


def heartbeat(
    session: Session, claim: Claim, *, lease_seconds: float | None, stage: str, progress: Mapping[str, Any]
) -> bool:
    """Store the progress, and renew the lease unless `lease_seconds` is None.

    Returns:
        Whether the job's cancellation was asked for.

    Raises:
        LeaseLostError: if the run is no longer the one that counts.
    """
    until = Job.lease_until if lease_seconds is None else now(session) + timedelta(seconds=lease_seconds)
    _set_as_holder(session, claim, {"lease_until": until})
    session.execute(update(Run).where(Run.id == claim.run_id).values(stage=stage, progress=dict(progress)))
    return session.scalar(select(Job.cancel_requested_at).where(Job.id == claim.job_id)) is not None


def finish_run(
    session: Session,
    claim: Claim,
    ending: RunOutcome,
    *conditions: ColumnElement[bool],
    environment_id: int | None = None,
) -> str:
    """End a run and move its job: to a final state, or back to the queue for another attempt.

    Args:
        conditions: what must hold of the job's row besides, at the moment it is changed.

    Returns:
        The job's new state.

    Raises:
        LeaseLostError: if the run is no longer the one that counts; nothing is written then.
    """
    moment = now(session)
    wanted = select(Job.failures, Job.max_failures, Job.cancel_requested_at).where(Job.id == claim.job_id)
    job = session.execute(wanted).one()
    failures = job.failures + (ending.outcome in _TRY_AGAIN)
    state, cause = _after(ending.outcome, ending.message, failures, job.max_failures)
    if ending.outcome in ("released", *_TRY_AGAIN) and job.cancel_requested_at is not None:
        state, cause = "cancelled", f"cancelled while it ran ({cause})"
    values: dict[str, Any] = {
        "state": state,
        "cause": cause,
        "failures": failures,
        "lease_owner": None,
        "lease_until": None,
        "sent_at": None,
        "not_before": moment + timedelta(seconds=ending.retry_after_seconds) if ending.retry_after_seconds else None,
        "finished_at": moment if state in FINAL_STATES else None,
        "changed_at": moment,
    }
    _set_as_holder(session, claim, values, *conditions)
    session.execute(
        update(Run)
        .where(Run.id == claim.run_id)
        .values(
            outcome=ending.outcome,
            message=ending.message,
            exit_code=ending.exit_code,
            signal=ending.signal,
            resolved=dict(ending.resolved),
            environment_id=environment_id,
            finished_at=moment,
        )
    )
    if state in ("failed", "cancelled"):
        _fail_dependents(session, claim.job_id, state)
    return state


def _after(outcome: Outcome, message: str, failures: int, max_failures: int) -> tuple[str, str]:
    if outcome in ("succeeded", "cancelled"):
        return outcome, "" if outcome == "succeeded" else message or "cancelled"
    if outcome == "released" or (outcome in _TRY_AGAIN and failures < max_failures):
        return "queued", f"{outcome}: {message}" if message else outcome
    times = f" ({failures} of {max_failures} failures)" if outcome in _TRY_AGAIN else ""
    return "failed", f"{outcome}{times}: {message}"


def _set_as_holder(session: Session, claim: Claim, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> None:
    done = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.state == "running", Job.token == claim.token, *conditions)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if cast("CursorResult[Any]", done).rowcount == 0:
        raise LeaseLostError(f"run {claim.run_id} of job {claim.job_id} no longer counts (token {claim.token})")


def _change(
    session: Session, moment: datetime, conditions: Sequence[ColumnElement[bool]], values: Mapping[str, Any]
) -> int:
    """Change the jobs that meet the conditions, and note when; gives how many did."""
    done = session.execute(
        update(Job).where(*conditions).values(**values, changed_at=moment).execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", done).rowcount


def request_cancel(session: Session, job_id: int) -> str:
    """Cancel a queued job at once, or ask the worker of a running one to.

    Returns:
        `cancelled` or `cancelling`.

    Raises:
        JobError: if the job does not exist or has ended.
    """
    moment = now(session)
    cause = case((Job.token == 0, "cancelled before it ran"), else_="cancelled while it waited to run again")
    cancelled = {"state": "cancelled", "cause": cause, "finished_at": moment, "sent_at": None}
    if _change(session, moment, (Job.id == job_id, Job.state == "queued"), cancelled):
        _fail_dependents(session, job_id, "cancelled")
        return "cancelled"
    if _change(session, moment, (Job.id == job_id, Job.state == "running"), {"cancel_requested_at": moment}):
        return "cancelling"
    raise JobError(f"job {job_id} is {get_job(session, job_id).state}; only a queued or running one can be cancelled")


def retry_job(session: Session, job_id: int) -> None:
    """Queue a failed or cancelled job again, with a fresh failure budget.

    Raises:
        JobError: if the job does not exist or is in another state.
    """
    source = session.scalar(
        select(Job.id)
        .join(JobSource, JobSource.source_id == Job.id)
        .where(JobSource.job_id == job_id, Job.state.in_(("failed", "cancelled")))
    )
    if source is not None:
        raise JobError(
            f"job {job_id} needs the weights of job {source}, which has failed or was cancelled; retry that first"
        )
    queued = {"state": "queued", "cause": "", "failures": 0} | dict.fromkeys(
        ("sent_at", "not_before", "finished_at", "cancel_requested_at")
    )
    if not _change(session, now(session), (Job.id == job_id, Job.state.in_(("failed", "cancelled"))), queued):
        raise JobError(
            f"job {job_id} is {get_job(session, job_id).state}; only a failed or cancelled one can be retried"
        )


def take_back_expired(session: Session) -> list[tuple[int, str]]:
    """End every run whose lease has run out as lost, and queue its job again or fail it.

    Returns:
        (job id, new state) of each.
    """
    moment = now(session)
    expired = session.execute(
        select(Job.id, Job.token, Job.lease_owner, Run.id.label("run_id"), Run.folder, Job.spec)
        .join(Run, and_(Run.job_id == Job.id, Run.token == Job.token))
        .where(Job.state == "running", Job.lease_until < moment)
    ).all()
    taken = []
    for row in expired:
        claim = Claim(row.id, row.run_id, row.token, row.spec, row.folder)
        try:
            ending = RunOutcome("lost", f"no heartbeat from worker {row.lease_owner}")
            state = finish_run(session, claim, ending, Job.lease_until < moment)
        except LeaseLostError:
            continue  # it ended or was renewed meanwhile, or another reconciler was first
        taken.append((row.id, state))
    return taken


def touch(session: Session) -> None:
    """Write, changing nothing: waits as long as writes to the jobs are blocked, and from then on holds their lock."""
    session.execute(update(Job).where(Job.id < 0).values(cause="").execution_options(synchronize_session=False))


def _needed(sweep_id: int) -> Any:
    """The ids of a sweep's jobs, and of those whose artifacts they need."""
    needed = select(SweepJob.job_id).where(SweepJob.sweep_id == sweep_id).cte(recursive=True)
    return select(needed.union(select(JobSource.source_id).join(needed, JobSource.job_id == needed.c.job_id)).c.job_id)


def list_claimable(session: Session, sweep_id: int, lanes: Sequence[str], *, limit: int = 100) -> list[int]:
    """The jobs of a sweep, and those they build on, that could be claimed now, in the order they should be served."""
    wanted = (
        select(Job.id)
        .where(Job.id.in_(_needed(sweep_id)), Job.lane.in_(lanes), _is_claimable(now(session)))
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))


def count_unfinished(session: Session, sweep_id: int, lanes: Sequence[str], *, but: Sequence[int]) -> int:
    """How many jobs of a sweep, and those they build on, have not ended, some left out."""
    wanted = select(func.count()).where(
        Job.id.in_(_needed(sweep_id)), Job.lane.in_(lanes), Job.state.in_(("queued", "running")), Job.id.not_in(but)
    )
    return session.scalar(wanted) or 0


def list_left_runs(session: Session, *, host: str, but: str) -> list[Claim]:
    """Runs of other workers of a host that count as running; their workers may be gone.

    Args:
        host: what the names of its workers begin with.
        but: the worker whose runs are left out.
    """
    wanted = (
        select(Job.id, Run.id.label("run_id"), Job.token, Job.spec, Run.folder)
        .join(Run, and_(Run.job_id == Job.id, Run.token == Job.token))
        .where(Job.state == "running", Run.worker.startswith(f"{host}-", autoescape=True), Run.worker != but)
    )
    return [Claim(row.id, row.run_id, row.token, row.spec, row.folder) for row in session.execute(wanted)]


def list_unsent(session: Session, *, limit: int = 10_000) -> list[Job]:
    """Queued jobs nobody has sent a message for: the outbox, in the order they should be served."""
    wanted = (
        select(Job)
        .where(_is_claimable(now(session)), Job.sent_at.is_(None))
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))


def list_waiting(session: Session, lane: str, *, older_than_seconds: float, limit: int = 10_000) -> list[Job]:
    """Queued jobs of a lane whose message was sent some time ago and may be lost."""
    moment = now(session)
    wanted = (
        select(Job)
        .where(_is_claimable(moment), Job.lane == lane, Job.sent_at < moment - timedelta(seconds=older_than_seconds))
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))


def mark_sent(session: Session, job_ids: Sequence[int]) -> None:
    """Note that messages for these jobs are with the broker."""
    moment = now(session)
    for start in range(0, len(job_ids), _CHUNK):
        session.execute(
            update(Job)
            .where(Job.id.in_(job_ids[start : start + _CHUNK]), Job.state == "queued")
            .values(sent_at=moment)
            .execution_options(synchronize_session=False)
        )


def mark_unsent(session: Session, job_id: int) -> None:
    """Note that a job's message was consumed without effect, so that it is sent again."""
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == "queued")
        .values(sent_at=None)
        .execution_options(synchronize_session=False)
    )


def list_jobs(
    session: Session,
    *,
    sweep_ids: Sequence[int] | None = None,
    states: Sequence[str] = (),
    ids: Sequence[int] = (),
    train_hashes: Sequence[str] = (),
    kinds: Sequence[str] = (),
    limit: int | None = None,
) -> list[Job]:
    """Jobs by id, newest last.

    Args:
        sweep_ids: submissions that asked for them; None: all.
        limit: keeps those a person looks for first: what runs, what failed, then the newest.
    """
    wanted = select(Job)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(select(SweepJob.job_id).where(SweepJob.sweep_id.in_(sweep_ids))))
    if states:
        wanted = wanted.where(Job.state.in_(states))
    if kinds:
        wanted = wanted.where(Job.kind.in_(kinds))
    if ids:
        wanted = wanted.where(Job.id.in_(ids))
    if train_hashes:
        wanted = wanted.where(Job.train_hash.in_(train_hashes))
    if limit is None:
        return list(session.scalars(wanted.order_by(Job.id)))
    urgency = case((Job.state == "running", 0), (Job.state == "failed", 1), else_=2)
    return list(session.scalars(wanted.order_by(urgency, Job.id.desc()).limit(limit)))


def count_by_state(session: Session, *, sweep_ids: Sequence[int] | None = None) -> dict[str, int]:
    """How many jobs are in each state."""
    wanted = select(Job.state, func.count()).group_by(Job.state)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(select(SweepJob.job_id).where(SweepJob.sweep_id.in_(sweep_ids))))
    return {row[0]: row[1] for row in session.execute(wanted)}


def list_runs(session: Session, job_ids: Sequence[int]) -> dict[int, list[Run]]:
    """The runs of each job, first to last."""
    found: dict[int, list[Run]] = {job_id: [] for job_id in job_ids}
    for start in range(0, len(job_ids), _CHUNK):
        chunk = job_ids[start : start + _CHUNK]
        for run in session.scalars(select(Run).where(Run.job_id.in_(chunk)).order_by(Run.job_id, Run.token)):
            found[run.job_id].append(run)
    return found


def states_by_hash(session: Session, hashes: Sequence[str]) -> dict[str, str]:
    """The state of each job that exists, by job hash."""
    found: dict[str, str] = {}
    for start in range(0, len(hashes), _CHUNK):
        wanted = select(Job.job_hash, Job.state).where(Job.job_hash.in_(hashes[start : start + _CHUNK]))
        found |= {row.job_hash: row.state for row in session.execute(wanted)}
    return found
