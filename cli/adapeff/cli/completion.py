"""What the shell offers when Tab is pressed; it must be quick and never say anything."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

MAX = 200


def _beginning(known: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in known if name.startswith(incomplete)][:MAX]


def sweep_files(incomplete: str) -> list[str]:
    """Ready-made sweeps; the shell adds files by itself."""
    from adapeff.service.specs.sweep_file import ready_made_sweeps

    return _beginning(ready_made_sweeps(), incomplete)


def sweep_names(incomplete: str) -> list[str]:
    """Names of sweeps that were submitted."""
    with suppress(Exception):
        from adapeff.cli import context
        from adapeff.service.store import sweeps

        with context.database() as database, database.session(read_only=True) as session:
            return _beginning([record.name for record in reversed(sweeps.list_sweeps(session))], incomplete)
    return []


def job_ids(incomplete: str) -> list[str]:
    """Numbers of jobs, what runs and what failed first."""
    with suppress(Exception):
        from adapeff.cli import context
        from adapeff.service.store import job_queries

        with context.database() as database, database.session(read_only=True) as session:
            return _beginning([str(job.id) for job in job_queries.list_jobs(session, limit=MAX)], incomplete)
    return []


def method_names(incomplete: str) -> list[str]:
    """Methods, the last of a list."""
    from adapeff.service.plugins import catalog

    return _last_of_list(catalog.methods(), incomplete)


def task_names(incomplete: str) -> list[str]:
    """Tasks, the last of a list."""
    from adapeff.service.plugins import catalog

    return _last_of_list(catalog.tasks(), incomplete)


def suite_names(incomplete: str) -> list[str]:
    """Suites."""
    from adapeff.service.plugins import catalog

    return _beginning(catalog.suites(), incomplete)


def _last_of_list(known: Iterable[str], incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    with suppress(Exception):
        return [f"{before}{comma}{name}" for name in _beginning(sorted(known), last)]
    return []
