"""Submit sweeps, find them again, and estimate how long they take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from adapeff.service import jobs
from adapeff.service.database import now
from adapeff.service.errors import JobError
from adapeff.service.hub import COMMIT, moving_sources
from adapeff.service.models import Job, Measurement, Run, Sweep, SweepJob
from adapeff.service.profiles import AnySpec, ProfileRequest, ProfileSpec
from adapeff.service.specs import JobSpec, SweepSpec, canonical_json

_Spec = TypeVar("_Spec", JobSpec, ProfileSpec)


@dataclass(frozen=True)
class Submission:
    """What submitting a sweep came to."""

    sweep_id: int
    job_ids: list[int]
    created: list[int]
    """Those of the jobs that are new."""


def submit(
    session: Session,
    sweep: SweepSpec | ProfileRequest,
    specs: Sequence[_Spec],
    *,
    max_failures: int,
    force: bool = False,
    hub_revisions: Mapping[str, str] | None = None,
) -> Submission:
    """Store a sweep and a queued job for each spec that has none.

    Args:
        force: make a repeat of each spec that has a job.
        hub_revisions: what branches on the hub stand for now (`hub.current_revisions`); a finished job whose run had
            another commit is not re-used, it gets a repeat too.
    """
    specs = [plan_repeat(session, spec, force=force, hub_revisions=hub_revisions or {}) for spec in specs]
    ids, created = jobs.create_jobs(session, specs, priority=sweep.priority, max_failures=max_failures)
    stored = Sweep(name=sweep.name, spec=sweep.model_dump(mode="json"), created_at=now(session))
    session.add(stored)
    session.flush()
    session.execute(insert(SweepJob), [{"sweep_id": stored.id, "job_id": job_id} for job_id in ids])
    return Submission(stored.id, ids, created)


def plan_repeat(session: Session, spec: _Spec, *, force: bool, hub_revisions: Mapping[str, str]) -> _Spec:
    """Which repeat of a spec submitting it means: a new one, the newest there is, or the one that is written.

    With `force` it is a new one. A model or data set that the hub knows by a branch means the newest repeat, or a new
    one if that has ended well with another commit than the branch stands for now.
    """
    spec = jobs.with_sources(session, spec)
    if force:
        return jobs.next_repeat(session, spec)
    sources = moving_sources(spec)
    if not sources:
        return spec
    newest = jobs.newest_repeat(session, spec)
    wanted = select(Run.resolved).join(Job, Job.id == Run.job_id)
    resolved = session.scalar(wanted.where(Job.job_hash == newest.job_hash, Run.outcome == "succeeded")) or {}
    for repository, revision in sources:
        kind, _, name = repository.partition("/")
        known = "model_revision" if kind == "models" else "data_revision"
        ran_with = resolved.get(f"{known}:{name}", resolved.get(known)) or ""
        stands_for = hub_revisions.get(f"{repository}@{revision}", ran_with)
        if COMMIT.fullmatch(ran_with) and ran_with != stands_for:
            return jobs.next_repeat(session, newest)
    return newest


def find_sweep_id(session: Session, reference: str | None) -> int | None:
    """The id of a sweep given by id or name (the newest of that name), or of the newest sweep for None.

    Raises:
        JobError: if there is no such sweep.
    """
    if reference is None:
        return session.scalar(select(Sweep.id).order_by(Sweep.id.desc()).limit(1))
    wanted = select(Sweep.id).where(Sweep.name == reference)
    if reference.isdecimal():
        wanted = select(Sweep.id).where(Sweep.id == min(int(reference), 2**31 - 1))
    found = session.scalar(wanted.order_by(Sweep.id.desc()).limit(1))
    if found is None:
        names = session.scalars(select(Sweep.name).distinct().order_by(Sweep.name).limit(20)).all()
        raise JobError(f"there is no sweep '{reference}'; known: {', '.join(names) or 'none yet'}")
    return found


def estimate_seconds(session: Session, specs: Iterable[AnySpec]) -> list[float | None]:
    """For each spec the median wall time of finished runs of the same cell, or None if there are none.

    The same cell is the same model, task, method and settings, whatever the seed and the learning rate.
    """
    wanted = (
        select(Job.spec, Measurement.value)
        .join(Run, Run.job_id == Job.id)
        .join(Measurement, Measurement.run_id == Run.id)
        .where(Run.outcome == "succeeded", Measurement.name == "wall_s", Measurement.value.is_not(None))
    )
    seen: dict[str, list[float]] = {}
    for stored, value in session.execute(wanted):
        seen.setdefault(_cell(stored), []).append(value)
    found = [seen.get(_cell(spec.model_dump(mode="json"))) for spec in specs]
    return [statistics.median(times) if times else None for times in found]


def _cell(spec: Mapping[str, Any]) -> str:
    """What decides how long a job takes, as one text."""
    if spec["kind"] == "profile":
        return canonical_json([spec["model"], spec["methods"], spec["settings"]])
    training = {key: value for key, value in spec["training"].items() if key != "learning_rate"}
    return canonical_json([spec["model"], spec["task"], spec["method"], training, spec["measuring"]])
