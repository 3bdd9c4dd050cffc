"""The JSON API; `/api/openapi.json` describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as PathParameter
from starlette.requests import Request

from adapeff.cli.job_views import job_view, snapshot
from adapeff.cli.serve.context import Served
from adapeff.cli.serve.live import JOBS_SHOWN
from adapeff.service.reporting.grids import grid_documents
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.views import VIEWS, build_view
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.run_logs import log_tail

LOG_CHARACTERS = 20_000
JobId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]
router = APIRouter(prefix="/api")


@router.get("/status")
def read_status(
    request: Request, sweep: Annotated[str | None, Query(description="only this sweep's jobs")] = None
) -> dict[str, Any]:
    """The number of jobs in each state, and the most relevant jobs with their progress."""
    served = Served.of(request)
    if sweep is not None:
        return snapshot(served.database, sweep, [], JOBS_SHOWN)
    seen = served.live.snapshot()
    return {"counts": dict(seen.counts), "jobs": seen.jobs}


@router.get("/sweeps")
def list_sweeps(request: Request) -> list[dict[str, Any]]:
    """Every sweep, the most recently submitted first."""
    return [
        {"name": record.name, "jobs": record.states, "last_submitted": record.last_submitted}
        for record in Served.of(request).live.snapshot().sweeps
    ]


@router.get("/workers")
def list_workers(request: Request) -> list[dict[str, Any]]:
    """Every host that has run jobs, the last seen first."""
    return [vars(record) for record in Served.of(request).live.snapshot().hosts]


@router.get("/report/{sweep:path}")
def read_report(
    request: Request, sweep: str, view: Annotated[str, Query(description=", ".join(VIEWS))] = "summary"
) -> list[dict[str, Any]]:
    """A view of a sweep's report: its tables, a record per row."""
    if view not in VIEWS:
        raise HTTPException(404, f"there is no view '{view}'; known: {', '.join(VIEWS)}")
    with Served.of(request).database.session(read_only=True) as session:
        found = build_report(session, sweep_ids=sweeps.find_sweep_ids(session, sweep))
    return grid_documents(build_view(found, view))


@router.get("/jobs/{job_id}")
def read_job(request: Request, job_id: JobId) -> dict[str, Any]:
    """Everything stored about a job."""
    return job_view(Served.of(request).database, job_id)


@router.get("/jobs/{job_id}/log")
def read_log(request: Request, job_id: JobId) -> dict[str, Any]:
    """The end of the log of a job's last run; empty if its folder cannot be read from the server."""
    with Served.of(request).database.session(read_only=True) as session:
        job_queries.get_job(session, job_id)
        runs = job_queries.list_runs(session, [job_id])[job_id]
    return {"job": job_id, "log": log_tail(runs[-1].folder, LOG_CHARACTERS) if runs else ""}


@router.post("/jobs/{job_id}/{action}")
def change_job(request: Request, job_id: JobId, action: Literal["cancel", "retry"]) -> dict[str, Any]:
    """Cancel a job, or queue a failed or cancelled one again; needs the token."""
    served = Served.of(request)
    if not served.access.may_change(request):
        is_off = served.access.token is None
        raise HTTPException(403, "read-only: start `adapeff serve` with a token" if is_off else "wrong or no token")
    return {"job": job_id, "state": served.cancel(job_id) if action == "cancel" else served.retry(job_id)}
