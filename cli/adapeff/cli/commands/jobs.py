"""`adapeff show`, `logs`, `cancel`, `retry`: single jobs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapeff.cli import completion, context
from adapeff.cli.options import JobId, JobIds, Json

if TYPE_CHECKING:
    from adapeff.service.store.tables import Run

FOLLOW_SECONDS = 0.3


def show(job: JobId, as_json: Json = False) -> None:
    """Show one job: its specification, its runs with their endings, and what the one that counts measured.

    Examples:

        adapeff show 12

        adapeff show 12 --json | jq .measurements
    """
    view = job_view(job)
    if as_json:
        print(json.dumps(view, indent=1))
        return
    from adapeff.cli.render.tables import print_job

    print_job(view)


def job_view(job_id: int) -> dict[str, Any]:
    """Everything stored about a job, as plain data."""
    from adapeff.service.store import job_queries, results

    with context.database() as database, database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        runs = job_queries.list_runs(session, [job_id])[job_id]
        counted = next((run for run in reversed(runs) if run.outcome == "succeeded"), None)
        measured = results.list_measurements(session, [counted.id])[counted.id] if counted else []
        environments = results.list_environments(session, [run.environment_id for run in runs if run.environment_id])
        artifacts = results.list_artifacts(session, counted.id) if counted else []
        curves = results.list_curves(session, counted.id) if counted else {}
    keys = ("name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")
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
                **{key: getattr(found, key) for key in keys if getattr(found, key)},
                "value": found.value,
                "unit": found.unit,
                **({"reason": found.reason} if found.reason else {}),
            }
            for found in measured
        ],
        "curves": curves,
        "artifacts": [{"name": a.name, "uri": a.uri, "bytes": a.bytes, "sha256": a.sha256} for a in artifacts],
    }


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--run", help="Which run, by its number in `show`; the last if none.")
    ] = None,
) -> None:
    """Print what a job's run logged.

    Examples:

        adapeff logs 12

        adapeff logs 12 -f
    """
    from adapeff.service.errors import JobError

    position = 0
    while True:
        run, is_running = _find_run(job, attempt)
        log = Path(run.folder) / "run.log"
        if not log.is_file() and not (follow and is_running):
            raise JobError(
                f"run {run.token} of job {job} left no log at {log}; it may have run on a host with other storage"
            )
        if log.is_file():
            with log.open("rb") as file:
                file.seek(position)
                text = file.read()
                position += len(text)
            print(text.decode(errors="replace"), end="", flush=True)
        if not follow or not is_running:
            return
        time.sleep(FOLLOW_SECONDS)


def _find_run(job_id: int, attempt: int | None) -> tuple[Run, bool]:
    from adapeff.service.errors import JobError
    from adapeff.service.store import job_queries

    with context.database() as database, database.session(read_only=True) as session:
        job = job_queries.get_job(session, job_id)
        runs = job_queries.list_runs(session, [job_id])[job_id]
        chosen = [run for run in runs if attempt is None or run.token == attempt]
        if not chosen:
            what = f"no run {attempt}" if runs else f"not run yet (it is {job.state})"
            raise JobError(f"job {job_id} has {what}")
        return chosen[-1], chosen[-1].outcome == "running"


def cancel(
    jobs_given: JobIds = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep", help="All queued and running jobs of this sweep.", autocompletion=completion.sweep_names
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs: queued ones at once, running ones within seconds.

    Examples:

        adapeff cancel 12 13

        adapeff cancel --sweep demo
    """
    from adapeff.service.errors import JobError
    from adapeff.service.store import job_queries, jobs, sweeps

    with context.database() as database, database.session() as session:
        ids = list(jobs_given or [])
        if sweep is not None:
            sweep_ids = sweeps.find_sweep_ids(session, sweep)
            ids += [job.id for job in job_queries.list_jobs(session, sweep_ids=sweep_ids, states=("queued", "running"))]
        if not ids and sweep is None:
            raise JobError("name the jobs to cancel, or a sweep with --sweep")
        done = [(job_id, jobs.request_cancel(session, job_id)) for job_id in ids]
    _print_states(done, as_json=as_json)
    if not done:
        context.note("nothing to cancel: no job of that sweep is queued or running")


def retry(
    jobs_given: JobIds = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed jobs.")] = False,
    as_json: Json = False,
) -> None:
    """Queue failed or cancelled jobs again, with a fresh failure budget.

    Examples:

        adapeff retry 12

        adapeff retry --failed
    """
    from adapeff.cli.commands.submit import send
    from adapeff.service.errors import JobError
    from adapeff.service.store import job_queries, jobs

    with context.database() as database:
        with database.session() as session:
            ids = list(jobs_given or [])
            if failed:
                ids += [job.id for job in job_queries.list_jobs(session, states=("failed",))]
            if not ids and not failed:
                raise JobError("name the jobs to retry, or take all failed ones with --failed")
            for job_id in dict.fromkeys(ids):
                jobs.retry_job(session, job_id)
        _print_states([(job_id, "queued") for job_id in dict.fromkeys(ids)], as_json=as_json)
        if not ids:
            context.note("nothing to retry: no job has failed")
        send(database, context.settings().values)


def _print_states(states: list[tuple[int, str]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"id": job_id, "state": state} for job_id, state in states]))
        return
    for job_id, state in states:
        print(f"job {job_id} {state}")
