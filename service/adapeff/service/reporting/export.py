"""Export every measurement of the successful runs in long form, for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.reporting.variation import settings_of, varied_settings
from adapeff.service.specs.job import canonical_json
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.tables import Environment, Job, Measurement, Run

_KEY = ("name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")


def measurement_rows(session: Session, *, sweep_ids: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield one dictionary per measurement of a succeeded job's run, ordered by job and run.

    Each setting in which the jobs differ is a separate column.
    """
    query = (
        select(Job, Run, Measurement, Environment.fingerprint, Environment.values)
        .join(Run, Run.job_id == Job.id)
        .join(Measurement, Measurement.run_id == Run.id)
        .outerjoin(Environment, Environment.id == Run.environment_id)
        .where(Job.state == "succeeded", Run.outcome == "succeeded")
        .order_by(Job.id, Run.id, Measurement.id)
    )
    finished = select(Job.id, Job.spec).where(Job.state == "succeeded")
    if sweep_ids is not None:
        of_sweeps = job_queries.ids_of_sweeps(session, sweep_ids)
        query, finished = query.where(Job.id.in_(of_sweeps)), finished.where(Job.id.in_(of_sweeps))
    specs = {row.id: row.spec for row in session.execute(finished)}
    varied = varied_settings(specs.values())
    sweep_names = sweeps.names_of(session, list(specs))
    for job, run, measurement, environment, values in session.execute(query.execution_options(yield_per=1000)):
        yield {
            "job_id": job.id,
            "job_hash": job.job_hash,
            "run_id": run.id,
            "model": job.model,
            "task": job.task,
            "method": job.method,
            "method_name": (job.spec.get("method") or {}).get("name"),
            "method_parameters": canonical_json((job.spec.get("method") or {}).get("parameters", {})),
            "seed": job.seed,
            "repeat": job.spec.get("repeat", 0),
            "sweep": ", ".join(sweep_names[job.id]),
            **{key: _flat(settings_of(job.spec).get(key)) for key in varied},
            "learning_rate": job.spec.get("training", {}).get("learning_rate"),
            "device_name": (values or {}).get("device_name"),
            "environment": environment,
            **{key: getattr(measurement, key) for key in _KEY},
            "value": measurement.value,
            "unit": measurement.unit,
            "reason": measurement.reason,
        }


def _flat(value: Any) -> Any:
    """A setting as one value of a column."""
    return canonical_json(value) if isinstance(value, dict | list) else value
