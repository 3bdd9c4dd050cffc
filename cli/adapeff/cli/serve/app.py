"""The web application of `adapeff serve`: pages and a JSON API on the database, read-only without a token.

Requests are answered in threads, because the database is synchronous. The Host header is checked, so that a page of
another site cannot reach a loopback server under its own name (DNS rebinding), and nothing allows other origins.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from adapeff.cli.job_views import job_view, snapshot
from adapeff.cli.render.page.page import report_page
from adapeff.cli.serve.live import live_page
from adapeff.service.errors import AdapeffError, JobError
from adapeff.service.reporting.grids import grid_documents
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.views import VIEWS, build_view
from adapeff.service.store import jobs, sweeps
from adapeff.service.store.database import Database

LOOPBACK = ("127.0.0.1", "localhost", "::1")
JOBS_SHOWN = 50
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Access:
    """Who may do what."""

    hosts: tuple[str, ...]
    """Names by which the server may be addressed; empty: any, where every request needs the token."""
    token: str | None
    """What changes need; None: nothing can be changed."""

    def knows(self, request: Request) -> bool:
        """Whether a request bears the token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def make_app(database: Database, access: Access) -> Starlette:
    """The application on an open database."""

    def page(request: Request) -> Response:
        return HTMLResponse(live_page())

    def status(request: Request) -> Response:
        found = snapshot(database, request.query_params.get("sweep"), [], JOBS_SHOWN)
        return JSONResponse({**found, "may_change": access.token is not None})

    def list_sweeps(request: Request) -> Response:
        with database.session(read_only=True) as session:
            records = sweeps.list_sweeps(session)
        return JSONResponse(
            [
                {
                    "name": record.name,
                    "jobs": record.states,
                    "last_submitted": record.last_submitted.isoformat(timespec="seconds"),
                }
                for record in records
            ]
        )

    def report(request: Request) -> Response:
        name = request.path_params["sweep"]
        with database.session(read_only=True) as session:
            found = build_report(session, sweep_ids=sweeps.find_sweep_ids(session, name))
        return HTMLResponse(report_page(found, f"adapeff report: {name}"))

    def view(request: Request) -> Response:
        name, chosen = request.path_params["sweep"], request.query_params.get("view", "summary")
        if chosen not in VIEWS:
            return JSONResponse({"error": f"there is no view '{chosen}'; known: {', '.join(VIEWS)}"}, 404)
        with database.session(read_only=True) as session:
            found = build_report(session, sweep_ids=sweeps.find_sweep_ids(session, name))
        return JSONResponse(grid_documents(build_view(found, chosen)))

    def job(request: Request) -> Response:
        return JSONResponse(job_view(database, request.path_params["job"]))

    def change(request: Request) -> Response:
        if not access.knows(request):
            reason = "read-only: start `adapeff serve` with a token" if access.token is None else "wrong or no token"
            return JSONResponse({"error": reason}, 403)
        job_id = request.path_params["job"]
        with database.session() as session:
            if request.path_params["action"] == "cancel":
                state = jobs.request_cancel(session, job_id)
            else:
                jobs.retry_job(session, job_id)
                state = "queued"
        return JSONResponse({"job": job_id, "state": state})

    routes = [
        Route("/", page),
        Route("/report/{sweep:path}", report),
        Route("/api/status", status),
        Route("/api/sweeps", list_sweeps),
        Route("/api/report/{sweep:path}", view),
        Route("/api/jobs/{job:int}", job),
        Route("/api/jobs/{job:int}/{action}", change, methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {AdapeffError: _explain}
    guard = Middleware(BaseHTTPMiddleware, dispatch=_guard(access))
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _explain(request: Request, error: Exception) -> Response:
    """Answer our own errors with their line: 404 for what does not exist, 503 for a database that is away."""
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, JobError) else 503)


def _guard(access: Access) -> Callable[[Request, Next], Awaitable[Response]]:
    async def dispatch(request: Request, follow: Next) -> Response:
        host = request.url.hostname or ""
        if access.hosts and host not in access.hosts:
            return PlainTextResponse(f"this server is not called {json.dumps(host)}\n", 421)
        if not access.hosts and not access.knows(request):
            return PlainTextResponse(
                "send the token: Authorization: Bearer TOKEN\n", 401, {"WWW-Authenticate": "Bearer"}
            )
        response = await follow(request)
        response.headers.update(_HEADERS)
        return response

    return dispatch
