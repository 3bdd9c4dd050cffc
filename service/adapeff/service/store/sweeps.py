"""Submit sweeps, look them up, and estimate how long they take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, insert, select, update
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError
from adapeff.service.measurements import WALL_S
from adapeff.service.specs.hub import COMMIT, moving_sources
from adapeff.service.specs.job import canonical_json
from adapeff.service.specs.profile import AnySpec, ProfileRequest
from adapeff.service.specs.sweep_file import SweepSpec
from adapeff.service.store import job_creation, job_queries
from adapeff.service.store.database import now
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Job, Measurement, Run, Sweep, SweepJob


@dataclass(frozen=True)
class Submission:
    """The result of submitting a sweep."""

    sweep_id: int
    job_ids: list[int]
    created: list[int]
    """The new ones among the jobs."""


def submit(
    session: Session,
    sweep: SweepSpec | ProfileRequest,
    specs: Sequence[AnySpec],
    *,
    max_failures: int,
    force: bool = False,
    held: bool = False,
    hub_revisions: Mapping[str, str] | None = None,
) -> Submission:
    """Store a sweep, and a queued job for each spec that has no job yet.

    Args:
        force: create a repeat of each spec that already has a job.
        held: hold the new jobs until they are released.
        hub_revisions: the current commits of hub branches (`hub.current_revisions`); a finished job whose run used
            another commit is not reused but repeated.
    """
    specs = plan(session, specs, force=force, hub_revisions=hub_revisions or {})
    ids, created = job_creation.create_jobs(
        session, specs, priority=sweep.priority, max_failures=max_failures, held=held
    )
    moment = now(session)
    announced_at = None if created else moment  # nothing new has to end
    stored = Sweep(name=sweep.name, spec=sweep.model_dump(mode="json"), created_at=moment, announced_at=announced_at)
    session.add(stored)
    session.flush()
    session.execute(insert(SweepJob), [{"sweep_id": stored.id, "job_id": job_id} for job_id in ids])
    return Submission(stored.id, ids, created)


@dataclass(frozen=True)
class EndedSweep:
    """A submission whose jobs have all ended."""

    id: int
    name: str
    created_at: datetime
    states: Mapping[str, int]
    """State -> number of its jobs."""


def list_ended(session: Session) -> list[int]:
    """The submissions whose jobs have all ended and whose end was not announced."""
    unfinished = exists(
        select(1)
        .select_from(SweepJob)
        .join(Job, Job.id == SweepJob.job_id)
        .where(SweepJob.sweep_id == Sweep.id, Job.state.in_(("queued", "running")))
    )
    wanted = select(Sweep.id).where(Sweep.announced_at.is_(None), ~unfinished)
    return list(session.scalars(wanted.order_by(Sweep.id)))


def mark_announced(session: Session, sweep_id: int) -> EndedSweep | None:
    """Mark the end of a submission as announced; None if somebody else did."""
    marked = session.execute(
        update(Sweep)
        .where(Sweep.id == sweep_id, Sweep.announced_at.is_(None))
        .values(announced_at=now(session))
        .returning(Sweep.name, Sweep.created_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if marked is None:
        return None
    states = job_queries.count_by_state(session, sweep_ids=[sweep_id])
    return EndedSweep(sweep_id, marked.name, marked.created_at, states)


def plan(session: Session, specs: Sequence[AnySpec], *, force: bool, hub_revisions: Mapping[str, str]) -> list[AnySpec]:
    """The repeat of each spec to submit, as `plan_repeat` chooses it; its sources are stored or submitted before."""
    planned: dict[str, AnySpec] = {}
    for spec in specs:
        planned[spec.job_hash] = plan_repeat(session, spec, force=force, hub_revisions=hub_revisions, submitted=planned)
    return list(planned.values())


def plan_repeat(
    session: Session,
    spec: AnySpec,
    *,
    force: bool,
    hub_revisions: Mapping[str, str],
    submitted: Mapping[str, AnySpec] | None = None,
) -> AnySpec:
    """Choose which repeat of a spec to submit.

    With `force`, a new one. If the model or data set is a branch on the hub, the newest repeat, or a new one if the
    branch has moved to another commit since the newest succeeded. Otherwise the spec unchanged.

    Args:
        submitted: as for `with_sources`.
    """
    spec = job_creation.with_sources(session, spec, submitted=submitted)
    if force:
        return job_creation.next_repeat(session, spec)
    sources = moving_sources(spec)
    if not sources:
        return spec
    newest = job_creation.newest_repeat(session, spec)
    wanted = select(Run.resolved).join(Job, Job.id == Run.job_id)
    resolved = session.scalar(wanted.where(Job.job_hash == newest.job_hash, Run.outcome == "succeeded")) or {}
    for repository, revision in sources:
        kind, _, name = repository.partition("/")
        known = "model_revision" if kind == "models" else "data_revision"
        ran_with = resolved.get(f"{known}:{name}", resolved.get(known)) or ""
        current = hub_revisions.get(f"{repository}@{revision}", ran_with)
        if COMMIT.fullmatch(ran_with) and ran_with != current:
            return job_creation.next_repeat(session, newest)
    return newest


def find_sweep_ids(session: Session, reference: str | None) -> list[int]:
    """The ids of a sweep's submissions by name, or of one submission by id; None: those of the latest sweep.

    Raises:
        JobError: if there is no such sweep.
    """
    if reference is None:
        newest = select(Sweep.name).order_by(Sweep.id.desc()).limit(1).scalar_subquery()
        return list(session.scalars(select(Sweep.id).where(Sweep.name == newest).order_by(Sweep.id)))
    return find_sweeps(session, [reference])


def ids_of_name(session: Session, name: str) -> list[int]:
    """The ids of the submissions under a sweep's name; none if there is no such sweep."""
    return list(session.scalars(select(Sweep.id).where(Sweep.name == name).order_by(Sweep.id)))


def find_sweeps(session: Session, references: Sequence[str] | None) -> list[int]:
    """The ids of the submissions of several sweeps, each by name or id; None or none: those of the latest sweep.

    Raises:
        JobError: naming all that do not exist.
    """
    if not references:
        return find_sweep_ids(session, None)
    found = {reference: _ids_of_reference(session, reference) for reference in references}
    if unknown := [f"'{reference}'" for reference, ids in found.items() if not ids]:
        names = session.scalars(select(Sweep.name).distinct().order_by(Sweep.name).limit(20)).all()
        raise JobError(f"there is no sweep {' and no sweep '.join(unknown)}; known: {', '.join(names) or 'none yet'}")
    return list(dict.fromkeys(number for ids in found.values() for number in ids))


def _ids_of_reference(session: Session, reference: str) -> list[int]:
    """The ids of the submissions under a name, or of the one with that id."""
    found = ids_of_name(session, reference)
    if not found and reference.isdecimal():
        found = list(session.scalars(select(Sweep.id).where(Sweep.id == min(int(reference), 2**31 - 1))))
    return found


def names_of(session: Session, job_ids: Sequence[int]) -> dict[int, list[str]]:
    """The names of the sweeps that each job belongs to."""
    names: dict[int, list[str]] = {job_id: [] for job_id in job_ids}
    wanted = (
        select(SweepJob.job_id, Sweep.name)
        .join(Sweep, Sweep.id == SweepJob.sweep_id)
        .where(is_one_of(session, SweepJob.job_id, job_ids))
        .distinct()
        .order_by(SweepJob.job_id, Sweep.name)
    )
    for row in session.execute(wanted):
        names[row.job_id].append(row.name)
    return names


@dataclass(frozen=True)
class SweepRecord:
    """A sweep by name, with its submissions."""

    name: str
    submissions: list[int]
    states: dict[str, int]
    """State -> number of jobs."""
    last_submitted: datetime


def list_sweeps(session: Session) -> list[SweepRecord]:
    """Every sweep by name, the most recently submitted last."""
    submitted: dict[str, list[tuple[int, datetime]]] = {}
    for row in session.execute(select(Sweep.id, Sweep.name, Sweep.created_at).order_by(Sweep.id)):
        submitted.setdefault(row.name, []).append((row.id, row.created_at))
    counted: dict[str, dict[str, int]] = {}
    wanted = (
        select(Sweep.name, Job.state, func.count(Job.id.distinct()))
        .join(SweepJob, SweepJob.sweep_id == Sweep.id)
        .join(Job, Job.id == SweepJob.job_id)
        .group_by(Sweep.name, Job.state)
    )
    for name, state, count in session.execute(wanted):
        counted.setdefault(name, {})[state] = count
    records = [
        SweepRecord(name, [number for number, _ in some], counted.get(name, {}), some[-1][1])
        for name, some in submitted.items()
    ]
    return sorted(records, key=lambda record: record.submissions[-1])


@dataclass(frozen=True)
class SweepDetails:
    """A sweep's submissions as they were written, and what became of its jobs."""

    submissions: list[tuple[int, datetime, dict[str, Any]]]
    """Id, time and specification of each."""
    states: dict[str, int]
    hosts: dict[str, int]
    """Host -> number of runs."""


def describe_sweep(session: Session, sweep_ids: Sequence[int]) -> SweepDetails:
    """The details of some submissions."""
    stored = session.scalars(select(Sweep).where(Sweep.id.in_(sweep_ids)).order_by(Sweep.id))
    jobs = select(SweepJob.job_id).where(SweepJob.sweep_id.in_(sweep_ids))
    counts = select(Job.state, func.count()).where(Job.id.in_(jobs)).group_by(Job.state)
    hosts: dict[str, int] = {}
    for worker in session.scalars(select(Run.worker).where(Run.job_id.in_(jobs))):
        host = worker.rsplit("-", 2)[0]
        hosts[host] = hosts.get(host, 0) + 1
    return SweepDetails(
        [(sweep.id, sweep.created_at, sweep.spec) for sweep in stored],
        {str(row[0]): int(row[1]) for row in session.execute(counts)},
        hosts,
    )


def estimate_seconds(session: Session, specs: Iterable[AnySpec]) -> list[float | None]:
    """For each spec, the median wall time of the finished runs of the same cell; None if there are none.

    A cell has one model, task, method and settings; seeds and learning rates may differ.
    """
    return _estimate(session, [spec.model_dump(mode="json") for spec in specs], recent=None)


def estimate_jobs(session: Session, jobs: Iterable[Job], *, recent: int = 2_000) -> list[float | None]:
    """As `estimate_seconds`, of stored jobs, from the most recent runs only."""
    return _estimate(session, [job.spec for job in jobs], recent=recent)


def _estimate(session: Session, specs: Sequence[Mapping[str, Any]], *, recent: int | None) -> list[float | None]:
    if not specs:
        return []
    succeeded = select(Run.id, Run.job_id).where(Run.outcome == "succeeded")
    if recent is not None:
        succeeded = succeeded.order_by(Run.id.desc()).limit(recent)
    runs = succeeded.subquery()
    wall_s = (  # looked up for each run: a join would read those of all runs by the index of names
        select(Measurement.value)
        .where(Measurement.run_id == runs.c.id, Measurement.name == WALL_S.name, Measurement.task == "")
        .limit(1)
        .scalar_subquery()
    )
    wanted = select(Job.spec, wall_s).join(runs, runs.c.job_id == Job.id)
    seen: dict[str, list[float]] = {}
    for stored, value in session.execute(wanted):
        if value is not None:
            seen.setdefault(_cell(stored), []).append(value)
    similar = [seen.get(_cell(spec)) for spec in specs]
    return [statistics.median(times) if times else None for times in similar]


def _cell(spec: Mapping[str, Any]) -> str:
    """Everything that determines how long a job takes, as one string."""
    if spec["kind"] == "profile":
        return canonical_json([spec["model"], spec["methods"], spec["settings"]])
    training = {key: value for key, value in spec["training"].items() if key != "learning_rate"}
    return canonical_json([spec["model"], spec["task"], spec["method"], training, spec["measuring"]])
