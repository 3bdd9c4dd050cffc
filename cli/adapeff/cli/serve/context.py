"""What the handlers of requests share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request

from adapeff.cli.serve.access import Access
from adapeff.cli.serve.live import Live
from adapeff.cli.serve.reports import Reports
from adapeff.cli.submission import send
from adapeff.service.errors import UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.store import job_queries, jobs
from adapeff.service.store.database import Database


@dataclass(frozen=True)
class Served:
    """The database, and what is kept between requests."""

    database: Database
    settings: Settings
    access: Access
    live: Live
    reports: Reports

    @classmethod
    def of(cls, request: Request) -> Served:
        """What a request is answered from."""
        served: Served = request.app.state.served
        return served

    def cancel(self, job_id: int) -> str:
        """Cancel a job, and return its state.

        Raises:
            JobError: if there is no such job, or it has ended.
        """
        with self.database.session() as session:
            return jobs.request_cancel(session, job_id)

    def retry(self, job_id: int) -> str:
        """Queue a failed or cancelled job again, and return its state.

        Raises:
            JobError: if there is no such job, or it has not failed.
        """
        with self.database.session() as session:
            job_queries.get_job(session, job_id)
            jobs.retry_job(session, job_id)
        with suppress(UnreachableError):  # any worker sends what is queued once it can reach the broker
            send(self.database, self.settings)
        return "queued"
