"""Every measurement of every run that counts, in long form, for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.models import Environment, Job, Measurement, Run, SweepJob

_KEY = ("name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")


def measurement_rows(session: Session, *, sweep_id: int | None = None) -> Iterator[dict[str, Any]]:
    """One dictionary per measurement of a succeeded job's run, by job and run."""
    wanted = (
        select(Job, Run, Measurement, Environment.fingerprint, Environment.values)
        .join(Run, Run.job_id == Job.id)
        .join(Measurement, Measurement.run_id == Run.id)
        .outerjoin(Environment, Environment.id == Run.environment_id)
        .where(Job.state == "succeeded", Run.outcome == "succeeded")
        .order_by(Job.id, Run.id, Measurement.id)
    )
    if sweep_id is not None:
        wanted = wanted.join(SweepJob, SweepJob.job_id == Job.id).where(SweepJob.sweep_id == sweep_id)
    for job, run, found, environment, values in session.execute(wanted.execution_options(yield_per=1000)):
        yield {
            "job_id": job.id,
            "job_hash": job.job_hash,
            "run_id": run.id,
            "model": job.model,
            "task": job.task,
            "method": job.method,
            "seed": job.seed,
            "learning_rate": job.spec.get("training", {}).get("learning_rate"),
            "device_name": (values or {}).get("device_name"),
            "environment": environment,
            **{key: getattr(found, key) for key in _KEY},
            "value": found.value,
            "unit": found.unit,
            "reason": found.reason,
        }
