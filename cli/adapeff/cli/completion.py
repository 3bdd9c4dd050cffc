"""Shell completion; it must be quick and must never print an error."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import typer

from adapeff.cli.invocation import Invocation
from adapeff.service.plugins import catalog
from adapeff.service.reporting.picture_names import PICTURE_NAMES
from adapeff.service.specs.sweep_file import ready_made_sweeps
from adapeff.service.store import job_queries, sweeps

MAX = 200


def sweep_files(incomplete: str) -> list[str]:
    """Ready-made sweeps; the shell itself adds files."""
    return _matching(ready_made_sweeps(), incomplete)


def sweep_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of submitted sweeps, the newest first."""
    with (
        suppress(Exception),
        Invocation.of(context).database() as database,
        database.session(read_only=True) as session,
    ):
        return _matching([record.name for record in reversed(sweeps.list_sweeps(session))], incomplete)
    return []


def job_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of jobs, running and failed ones first."""
    with (
        suppress(Exception),
        Invocation.of(context).database() as database,
        database.session(read_only=True) as session,
    ):
        return _matching([str(job.id) for job in job_queries.list_jobs(session, limit=MAX)], incomplete)
    return []


def method_names(incomplete: str) -> list[str]:
    """Methods, for the last item of a comma-separated list."""
    with suppress(Exception):
        return _last_item(catalog.methods(), incomplete)
    return []


def task_names(incomplete: str) -> list[str]:
    """Tasks, for the last item of a comma-separated list."""
    with suppress(Exception):
        return _last_item(catalog.tasks(), incomplete)
    return []


def suite_names(incomplete: str) -> list[str]:
    """Suites."""
    with suppress(Exception):
        return _matching(catalog.suites(), incomplete)
    return []


def picture_names(incomplete: str) -> list[str]:
    """Pictures of a report, and `all`; the shell itself adds files."""
    return _matching((*PICTURE_NAMES, "all"), incomplete)


def _last_item(known: Iterable[str], incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _matching(sorted(known), last)]


def _matching(known: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in known if name.startswith(incomplete)][:MAX]
