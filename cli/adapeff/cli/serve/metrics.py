"""`/metrics`: the queue and its workers for Prometheus, read from the database when it asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from adapeff.cli.serve.context import Served
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database, now
from adapeff.service.store.tables import JOB_STATES
from adapeff.service.store.workers import list_workers

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def read_metrics(request: Request) -> Response:
    """The figures in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(QueueCollector(Served.of(request).database))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class QueueCollector(Collector):
    """Reads the queue; no query grows with the jobs that have ended, but for their count by state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures now."""
        with self._database.session(read_only=True) as session:
            moment = now(session)
            states = job_queries.count_by_state(session)
            workers = list_workers(session)
            ended = job_queries.count_ended_since(session, moment - timedelta(hours=1))
            oldest = job_queries.oldest_claimable(session)
        jobs = GaugeMetricFamily(
            "adapeff_jobs", "Jobs by state; held ones are queued, but counted apart", labels=["state"]
        )
        for state in (*JOB_STATES, job_queries.HELD):
            jobs.add_metric([state], states.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("adapeff_jobs_ended_last_hour", "Jobs that succeeded or failed", value=ended)
        waited = (moment - oldest).total_seconds() if oldest is not None else 0
        yield GaugeMetricFamily(
            "adapeff_queue_oldest_seconds", "Time that the oldest job that could start has waited", value=waited
        )
        alive = [view for view in workers if view.state == "alive"]
        slots, busy = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for view in alive:
            where = view.record.host, view.record.device
            slots[where] += len(view.record.slots)
            busy[where] += len(view.runs)
        for name, text, counted in (
            ("adapeff_slots", "Slots of the workers that are alive", slots),
            ("adapeff_slots_busy", "Slots that run a job", busy),
        ):
            family = GaugeMetricFamily(name, text, labels=["host", "device"])
            for where, number in sorted(counted.items()):
                family.add_metric(list(where), number)
            yield family
        yield GaugeMetricFamily("adapeff_workers", "Workers that are alive", value=len(alive))
