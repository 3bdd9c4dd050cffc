"""The web application of `adapeff serve`: pages and a JSON API on the database, read-only without a token.

Requests are answered in threads, because the database is synchronous. The Host header is checked, so that a page of
another site cannot reach a loopback server under its own name (DNS rebinding), and nothing allows other origins.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from adapeff.cli.serve import api, metrics, pages
from adapeff.cli.serve.access import Access
from adapeff.cli.serve.context import Served
from adapeff.cli.serve.live import Live
from adapeff.cli.serve.reports import Reports
from adapeff.service.errors import AdapeffError, JobError, SpecError, UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.store.database import Database

logger = logging.getLogger(__name__)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers hide the origin of our own forms
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_WITHOUT_TOKEN = ("/login",)
Next = Callable[[Request], Awaitable[Response]]


def make_app(database: Database, settings: Settings, access: Access) -> FastAPI:
    """The application on an open database.

    FastAPI's pages of documentation load scripts from elsewhere, so only the schema is served.
    """
    app = FastAPI(
        title="adapeff",
        version=version("adapeff"),
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.served = Served(database, settings, access, Live(database), Reports(database))
    app.include_router(api.router)
    app.include_router(metrics.router)
    app.include_router(pages.router)
    app.middleware("http")(_guard)
    app.add_exception_handler(AdapeffError, _explain)
    app.add_exception_handler(HTTPException, _explain)
    app.add_exception_handler(RequestValidationError, _explain)
    return app


async def _guard(request: Request, follow: Next) -> Response:
    """Refuse requests under another name, and without the token where others can reach the server."""
    access = Served.of(request).access
    if not access.is_for_us(request):
        response: Response = PlainTextResponse("this server has another name; open the address that it printed\n", 421)
    elif access.is_open or access.knows(request) or request.url.path in _WITHOUT_TOKEN:
        response = await follow(request)
    elif _is_api(request):
        needed = {"WWW-Authenticate": "Bearer"}
        response = JSONResponse({"error": "send the token: Authorization: Bearer TOKEN"}, 401, needed)
    else:
        response = RedirectResponse("/login", 303)
    response.headers.update(_HEADERS)
    return response


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/") or request.url.path == "/metrics"


async def _explain(request: Request, error: Exception) -> Response:
    """Answer an expected error with its line."""
    if isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
    elif isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        status, text = 422, f"{problem['loc'][-1]}: {problem['msg']}"
    else:
        status, text = _status_of(error, request), str(error)
    if _is_api(request):
        return JSONResponse({"error": text}, status)
    return pages.error_page(request, status, text)


def _status_of(error: Exception, request: Request) -> int:
    """404 for what does not exist, 409 for what its state forbids, 503 for a database that is away."""
    if isinstance(error, JobError):
        return 404 if request.method == "GET" or str(error).startswith("there is no job") else 409
    if isinstance(error, SpecError):
        return 413
    if not isinstance(error, UnreachableError):
        logger.error("%s %s: %s", request.method, request.url.path, error)
    return 503
