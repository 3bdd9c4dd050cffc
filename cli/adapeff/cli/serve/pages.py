"""The pages: queue, a job, reports, login."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from adapeff.cli.job_views import job_rows, job_view
from adapeff.cli.render.page.page import STYLE, TABLES
from adapeff.cli.render.templates import render_page
from adapeff.cli.serve.access import COOKIE, SESSION_SECONDS
from adapeff.cli.serve.api import LOG_CHARACTERS, JobId
from adapeff.cli.serve.context import Served
from adapeff.cli.serve.live import progress_of
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, words
from adapeff.service.reporting.page_data import CurvePlot
from adapeff.service.reporting.variation import settings_of
from adapeff.service.reporting.views import VIEWS
from adapeff.service.store import job_queries
from adapeff.service.store.run_logs import log_tail

_LIVE = Path(__file__).parent / "live.js"
_POLICY = "form-action 'self'; connect-src 'self'"
_LONGEST_FORM = 4096
_STORED = ("name", "value", "unit", "reason")
router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def show_queue(request: Request) -> HTMLResponse:
    """Counts, jobs with their progress, sweeps, hosts; the page refreshes itself."""
    seen = Served.of(request).live.snapshot()
    return _page(request, "queue.html", title="adapeff", seen=seen, progress_of=progress_of)


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: JobId) -> HTMLResponse:
    """Everything about a job; the page refreshes itself."""
    database = Served.of(request).database
    with database.session(read_only=True) as session:
        (row,) = job_rows(session, [job_queries.get_job(session, job_id)])
    view = job_view(database, job_id)
    logs = {run["token"]: log_tail(run["folder"], LOG_CHARACTERS) for run in view["runs"]}
    return _page(
        request,
        "job.html",
        title=f"adapeff: job {job_id}",
        job=row,
        view=view,
        progress=progress_of(row),
        logs=logs,
        measurements=_measurements(view),
        curves=list(_curves(view)),
        settings=[(key, str(value)) for key, value in settings_of(view["spec"]).items() if value not in (None, [], {})],
        artifacts=[(one["name"], one["bytes"], one["uri"]) for one in view["artifacts"]],
    )


@router.get("/report")
def show_report_of_all(request: Request) -> Response:
    """The report of all jobs."""
    return HTMLResponse(Served.of(request).reports.page(None, None))


@router.get("/report/{sweep:path}")
def show_report(request: Request, sweep: str, view: Annotated[str | None, Query()] = None) -> Response:
    """The report of a sweep, or one view of it."""
    if view is not None and view not in VIEWS:
        return error_page(request, 404, f"there is no view '{view}'; known: {', '.join(VIEWS)}")
    return HTMLResponse(Served.of(request).reports.page(sweep, view))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(request: Request, job_id: JobId) -> Response:
    """Cancel a job, and go back to its page."""
    return _changed(request, job_id, "cancel")


@router.post("/jobs/{job_id}/retry")
def retry_job(request: Request, job_id: JobId) -> Response:
    """Queue a job again, and go back to its page."""
    return _changed(request, job_id, "retry")


def _changed(request: Request, job_id: int, action: str) -> Response:
    served = Served.of(request)
    if not served.access.may_change(request):
        return error_page(request, 403, f"to {action} jobs, log in with the server's token")
    _ = served.cancel(job_id) if action == "cancel" else served.retry(job_id)
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.get("/login")
def show_login(request: Request) -> HTMLResponse:
    """The form that asks for the token."""
    return _page(request, "login.html", title="adapeff: log in", wrong=False)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Open a session for a browser that gives the token."""
    access = Served.of(request).access
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            return error_page(request, 413, "the form is too long")
    session = access.open_session(parse_qs(body.decode(errors="replace")).get("token", [""])[0])
    if session is None:
        return _page(request, "login.html", 403, title="adapeff: log in", wrong=True)
    answer = RedirectResponse("/", 303)
    is_secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, session, SESSION_SECONDS, httponly=True, samesite="strict", secure=is_secure)
    return answer


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session."""
    Served.of(request).access.close_session(request)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE)
    return answer


def error_page(request: Request, status: int, message: str) -> HTMLResponse:
    """A page that says what is wrong."""
    return _page(request, "error.html", status, title="adapeff", message=message)


def _page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    access = Served.of(request).access
    text = render_page(
        template,
        style=STYLE,
        scripts=(TABLES, _LIVE),
        policy=_POLICY,
        may_change=access.knows(request),
        has_token=access.token is not None,
        **values,
    )
    return HTMLResponse(text, status)


def _measurements(view: Mapping[str, Any]) -> Grid:
    """The measurements of the counted run."""
    headings = tuple(Heading(text, text) for text in ("name", "where", "value", "unit", "why missing"))
    return Grid("measurements", headings, tuple(_measurement(one) for one in view["measurements"]))


def _measurement(one: Mapping[str, Any]) -> tuple[Value, ...]:
    where = ", ".join(f"{key} {value}" for key, value in one.items() if key not in _STORED)
    value = one["value"]
    shown = MISSING if value is None else Value(f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}", value)
    return words(one["name"]), words(where), shown, words(one["unit"]), words(one.get("reason", ""))


def _curves(view: Mapping[str, Any]) -> Iterator[CurvePlot]:
    for member, curves in ({"": view["curves"]} | view["member_curves"]).items():
        for name, points in curves.items():
            if len(points) > 1 and (name.startswith("validation_") or name.endswith("loss")):
                label = f"{member} {name.replace('_', ' ')}".lstrip()
                yield CurvePlot(label, tuple((float(point[0]), float(point[1])) for point in points))
