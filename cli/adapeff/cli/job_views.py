"""Jobs as plain data, for `status`, `show` and `serve`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from adapeff.service.reporting.queue_summary import summarise_queue
from adapeff.service.reporting.variation import settings_of, varied_settings
from adapeff.service.store import job_queries, results, sweeps
from adapeff.service.store.database import Database, now
from adapeff.service.store.tables import Job

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def snapshot(database: Database, sweep: str | None, states: list[str], limit: int) -> dict[str, Any]:
    """Count jobs by state, say what the queue does, and list jobs with their last run, the most relevant first."""
    with database.session(read_only=True) as session:
        sweep_ids = sweeps.find_sweep_ids(session, sweep) if sweep is not None else None
        listed = job_queries.list_jobs(session, sweep_ids=sweep_ids, states=states, limit=limit)
        counts = job_queries.count_by_state(session, sweep_ids=sweep_ids)
        queue = summarise_queue(session, sweep_ids=sweep_ids)
        return {"counts": counts, "queue": asdict(queue), "jobs": job_rows(session, listed)}


def job_rows(session: Session, shown: list[Job]) -> list[dict[str, Any]]:
    """What `status` shows of each job."""
    runs = job_queries.list_runs(session, [job.id for job in shown])
    sweep_names = sweeps.names_of(session, [job.id for job in shown])
    moment = now(session)
    varied = varied_settings(job.spec for job in shown)
    rows = []
    for job in shown:
        last = runs[job.id][-1] if runs[job.id] else None
        rows.append(
            {
                "id": job.id,
                "kind": job.kind,
                "state": job.state,
                "model": job.model,
                "task": job.task,
                "method": job.method,
                "seed": job.seed,
                "sweeps": sweep_names[job.id],
                "repeat": job.spec.get("repeat", 0),
                "varied": {key: value for key, value in settings_of(job.spec).items() if key in varied},
                "runs": len(runs[job.id]),
                "failures": job.failures,
                "worker": job.lease_owner,
                "slot": last.slot if last else None,
                "host": last.worker.rsplit("-", 2)[0] if last else None,
                "seconds": ((last.finished_at or moment) - last.started_at).total_seconds() if last else None,
                "stage": last.stage if last and job.state == "running" else None,
                "progress": last.progress if last and job.state == "running" else None,
                "held": job.held,
                "priority": job.priority,
                "cancelling": job.state == "running" and job.cancel_requested_at is not None,
                "cause": job.cause,
            }
        )
    return rows


def job_view(database: Database, job_id: int) -> dict[str, Any]:
    """Everything stored about a job, as plain data."""
    with database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        runs = job_queries.list_runs(session, [job_id])[job_id]
        counted = next((run for run in reversed(runs) if run.outcome == "succeeded"), None)
        measured = results.list_measurements(session, [counted.id])[counted.id] if counted else []
        environments = results.list_environments(session, [run.environment_id for run in runs if run.environment_id])
        artifacts = results.list_artifacts(session, counted.id) if counted else []
        curves = results.list_curves(session, counted.id) if counted else {"": {}}
    return {
        "id": job.id,
        "state": job.state,
        "cause": job.cause,
        "job_hash": job.job_hash,
        "train_hash": job.train_hash,
        "failures": job.failures,
        "max_failures": job.max_failures,
        "spec": job.spec,
        "runs": [
            {
                "token": run.token,
                "outcome": run.outcome,
                "message": run.message,
                "worker": run.worker,
                "slot": run.slot,
                "exit_code": run.exit_code,
                "signal": run.signal,
                "started_at": run.started_at.isoformat(),
                "finished_at": run.finished_at.isoformat() if run.finished_at else None,
                "folder": run.folder,
                "resolved": run.resolved,
                "environment": environments.get(run.environment_id or 0),
            }
            for run in runs
        ],
        "measurements": [
            {
                **{key: value for key, value in measurement.key._asdict().items() if value},
                "value": measurement.value,
                "unit": measurement.unit,
                **({"reason": measurement.reason} if measurement.reason else {}),
            }
            for measurement in measured
        ],
        "curves": curves.pop(""),
        "member_curves": curves,
        "artifacts": [{"name": a.name, "uri": a.uri, "bytes": a.bytes, "sha256": a.sha256} for a in artifacts],
    }
