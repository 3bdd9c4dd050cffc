"""Jobs for tests, without files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapeff.service.lanes import ANY, lane_of
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, jobs
from adapeff.service.store.database import Database


def spec(seed: int = 0, **changes: Any) -> JobSpec:
    """A job that could run anywhere; nothing of it is run by the tests that use it."""
    raw = {"name": "s", "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"], "seeds": [seed]}
    return expand(parse_sweep({**raw, **changes}), data_root=None)[0]


def queue_jobs(database: Database, count: int = 1, *, max_failures: int = 3, **changes: Any) -> list[int]:
    """Store queued jobs."""
    with database.session() as session:
        specs = [spec(seed, **changes) for seed in range(count)]
        return job_creation.create_jobs(session, specs, priority=5, max_failures=max_failures)[0]


def claimer(database: Database, owner: str = "w1", lease_seconds: float = 60) -> Callable[[int], jobs.Claim | None]:
    """Claims jobs as one worker does."""

    def claim(job_id: int) -> jobs.Claim | None:
        with database.session() as session:
            return jobs.claim_job(
                session,
                job_id,
                owner=owner,
                slot="cpu:0",
                folder="/runs",
                lease_seconds=lease_seconds,
                lanes=(lane_of(ANY), lane_of("cpu")),
            )

    return claim
