"""Store each job once, with references to its source jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError
from adapeff.service.lanes import lane_of
from adapeff.service.plugins import catalog
from adapeff.service.specs.extensions import on_base
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import AnySpec, ProfileSpec, read_spec
from adapeff.service.store.database import insert_ignoring, now, take_turn
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.job_queries import ids_by_hash
from adapeff.service.store.tables import Artifact, Job, JobSource, Run

SUBMITTING = "adapeff submit"
"""The lock of whatever adds jobs to sweeps, or removes them."""


def create_jobs(
    session: Session, specs: Sequence[AnySpec], *, priority: int, max_failures: int, held: bool = False
) -> tuple[list[int], list[int]]:
    """Store a queued job for each spec that has none yet.

    Submissions are serialized: two submissions of a grid in different orders would deadlock on each other's rows.

    Args:
        held: hold the new jobs.

    Returns:
        The ids of all jobs in the order of the specs, and the ids of the new jobs.
    """
    hashes = [spec.job_hash for spec in specs]
    take_turn(session, SUBMITTING)
    known = ids_by_hash(session, hashes)
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
            "lane": lane_of(spec.device),
            "priority": priority,
            "held": held,
            "max_failures": max_failures,
            "created_at": created_at,
            "changed_at": created_at,
        }
        for spec, job_hash in zip(specs, hashes, strict=True)
        if job_hash not in known
    ]
    rows = list({row["job_hash"]: row for row in rows}.values())
    stored: set[str] = set()
    if rows:
        stored.update(session.scalars(insert_ignoring(session, Job, "job_hash").returning(Job.job_hash), rows))
    ids = ids_by_hash(session, hashes)
    _update_limits(session, [spec for spec, h in zip(specs, hashes, strict=True) if h in known], priority, max_failures)
    for spec, job_hash in zip(specs, hashes, strict=True):
        if spec.sources and job_hash in stored:
            _store_sources(session, ids[job_hash], spec.sources)
    created = [ids[job_hash] for job_hash in dict.fromkeys(hashes) if job_hash in stored]
    return [ids[job_hash] for job_hash in hashes], created


def _update_limits(session: Session, specs: Sequence[AnySpec], priority: int, max_failures: int) -> None:
    """Update the limits of jobs that have not succeeded: limits are not part of a job's identity."""
    wanted = {spec.job_hash: spec for spec in specs}
    found = session.execute(
        select(Job.id, Job.job_hash, Job.spec, Job.priority, Job.max_failures)
        .where(is_one_of(session, Job.job_hash, wanted), Job.state.in_(("queued", "failed", "cancelled")))
        .order_by(Job.job_hash)
    ).all()
    for row in found:
        limit = wanted[row.job_hash].time_limit_minutes
        if (row.spec.get("time_limit_minutes"), row.priority, row.max_failures) != (limit, priority, max_failures):
            spec = {**row.spec, "time_limit_minutes": limit}
            session.execute(
                update(Job)
                .where(Job.id == row.id)
                .values(spec=spec, priority=priority, max_failures=max_failures)
                .execution_options(synchronize_session=False)
            )


def _store_sources(session: Session, job_id: int, sources: Iterable[str]) -> None:
    wanted = sorted({source for source in sources if not source.startswith("folder:")})
    ids = ids_by_hash(session, wanted)
    for source in wanted:
        if source not in ids:
            raise JobError(
                f"job {job_id} needs the artifacts of job {source[:12]}, which does not exist; submit it first"
            )
        kept = select(Artifact.name).join(Run, Run.id == Artifact.run_id).where(Artifact.name == "weights")
        state = session.scalar(select(Job.state).where(Job.id == ids[source]))
        if state == "succeeded" and session.scalar(kept.where(Run.job_id == ids[source])) is None:
            raise JobError(
                f"a job needs the weights of job {ids[source]}, which are no longer stored (pruned, or not imported); "
                f"train job {ids[source]} again with adapeff submit --force, or remove its sweep (adapeff sweeps rm)"
            )
        session.execute(insert(JobSource).values(job_id=job_id, source_id=ids[source]))


def with_sources(session: Session, spec: AnySpec, *, submitted: Mapping[str, AnySpec] | None = None) -> AnySpec:
    """Replace the references to source jobs in a spec (ids or parts of hashes) by their full hashes.

    An extension of a job gets the tasks of that job.

    Args:
        submitted: job hash in a spec -> the job that is submitted for it, of those in the same submission.

    Raises:
        JobError: if a source does not exist, has another model, cannot be built on, keeps no weights, or has failed or
            been cancelled.
    """
    if isinstance(spec, ProfileSpec):
        return spec
    hashes: dict[str, str] = {}
    base: JobSpec | None = None
    for name in spec.sources:
        if name in (submitted or {}):
            hashes[name] = (submitted or {})[name].job_hash
        elif not name.startswith("folder:"):
            hashes[name], source = _find_source(session, name, spec)
            base = source if name == spec.base else base
    if not hashes:
        return spec
    changed: dict[str, Any] = {"sources": tuple(hashes.get(name, name) for name in spec.sources)}
    if "sources" in spec.method.parameters:
        written = spec.method.parameters["sources"]
        parameters = {**spec.method.parameters, "sources": [hashes.get(name, name) for name in written]}
        changed["method"] = spec.method.model_copy(update={"parameters": parameters})
    if spec.base:
        changed["base"] = hashes[spec.base]
    found = spec.model_copy(update=changed)
    return found if base is None else on_base(found, base)


def _find_source(session: Session, name: str, spec: JobSpec) -> tuple[str, JobSpec]:
    """The hash and the specification of a job to build on."""
    by_id = name.isdecimal() and len(name) < 12
    wanted = Job.id == int(name) if by_id else Job.job_hash.startswith(name, autoescape=True)
    rows = session.execute(select(Job.id, Job.job_hash, Job.state, Job.spec).where(wanted).limit(2)).all()
    if len(rows) != 1:
        problem = "matches several jobs; give more of its hash" if rows else "does not exist; submit it first"
        raise JobError(f"source job {name} {problem}")
    (row,) = rows
    source = read_spec(row.spec)
    if not isinstance(source, JobSpec):
        raise JobError(f"source job {row.id} is a profile, which keeps no weights; name a job that trains")
    if source.model.identity != spec.model.identity:
        raise JobError(f"source job {row.id} trained another model, {source.model}; name a job of {spec.model}")
    try:
        if name == spec.base:
            on_base(spec, source)
        else:
            builder = catalog.get_method(spec.method.name, spec.method.parameters)
            builder.check_source(catalog.get_method(source.method.name, source.method.parameters))
    except ValueError as error:
        raise JobError(f"source job {row.id} trained {source.method}: {error}") from error
    if not source.measuring.keep_weights:
        raise JobError(f"source job {row.id} keeps no weights; submit it with keep_weights: true")
    if row.state in ("failed", "cancelled"):
        raise JobError(f"source job {row.id} is {row.state}; retry it first (adapeff retry {row.id})")
    return str(row.job_hash), source


def next_repeat(session: Session, spec: AnySpec) -> AnySpec:
    """The spec with the lowest `repeat` that has no job yet."""
    while ids_by_hash(session, [spec.job_hash]):
        spec = spec.model_copy(update={"repeat": spec.repeat + 1})
    return spec


def newest_repeat(session: Session, spec: AnySpec) -> AnySpec:
    """The spec with the highest `repeat` that has a job; the spec itself if there is none."""
    while ids_by_hash(session, [(after := spec.model_copy(update={"repeat": spec.repeat + 1})).job_hash]):
        spec = after
    return spec
