"""How fast the queue is: submitting, claiming, starting runs, looking at it, and doing nothing.

    python -m benchmarks.queue_rates [--jobs 10000] [--stored 100000] [--seconds 10] [--tiny 40] [--parts submit ...]

starts private servers and real workers on loopback, and stops by itself; needs redis-server and PostgreSQL. The last
line is JSON: wall seconds to submit (`submit_10k_s`, and `..._again_s` with nothing new), claims per second of 4
processes (`claims_per_s`), milliseconds from sending a job to its claim (`start_p50_ms`, `start_p95_ms`) and from its
claim to its runner's first line of code (`startup_p50_ms`), short jobs a minute with a fork server and without
(`tiny_per_minute`), `adapeff status` beside stored jobs (`status_s`), and the share of a core that an idle worker takes
(`idle_cpu`). Figures with several backends are objects.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from adapeff.service.broker.queue import make_app, send_unsent
from adapeff.service.lanes import ANY, lane_of
from adapeff.service.settings import Settings
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_queries, jobs, sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Job, Measurement, Run
from benchmarks.bad_days import make_sweep
from benchmarks.stored_runs import fill
from tests.conftest import RedisServer, _postgres

PARTS = ("submit", "claim", "start", "status", "idle")
PROCESSES = 4
LANES = (lane_of(ANY), lane_of("cpu"))
DEADLINE_SECONDS = 600.0
BACKENDS = ("sqlite", "postgresql")


class Backend:
    """A database and a broker: SQLite with the file queue, or PostgreSQL with Redis."""

    def __init__(self, name: str, folder: Path, url: str, broker: str | None) -> None:
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(state_dir=folder / "state", database_url=url, broker_url=broker)
        self.settings.state.mkdir(exist_ok=True)
        self.database = Database(str(self.settings.database_url))
        upgrade(self.database)


@contextmanager
def backends(folder: Path, label: str) -> Iterator[list[Backend]]:
    """Both backends, empty."""
    with ExitStack() as stack:
        for name in ("postgres", "redis", "files"):
            (folder / label / name).mkdir(parents=True)
        (folder / label).chmod(0o755)
        server = RedisServer(folder / label / "redis")
        stack.callback(server.kill)
        postgres = stack.enter_context(_postgres(folder / label / "postgres"))
        files = f"sqlite:///{folder / label / 'queue.db'}"
        made = [
            Backend("sqlite", folder / label / "files", files, None),
            Backend("postgresql", folder / label / "served", f"{postgres}/postgres", server.url),
        ]
        yield made
        for backend in made:
            backend.database.close()


def submit(backend: Backend, count: int) -> tuple[float, float]:
    """Seconds to store and send new jobs, and to submit them again."""
    raw = {"name": "many", "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"]}
    sweep = parse_sweep({**raw, "seeds": list(range(count))})
    specs = expand(sweep, data_root=None)
    seconds = []
    make_app(backend.settings)  # imports Celery
    for _ in range(2):
        began = time.monotonic()
        backend.database.retried(lambda session: sweeps.submit(session, sweep, specs, max_failures=3))
        send_unsent(backend.database, make_app(backend.settings))
        seconds.append(time.monotonic() - began)
    return seconds[0], seconds[1]


def claim_for(url: str, seconds: float, found: Any) -> None:
    """Claim and hand back jobs for some seconds; puts the number into a queue."""
    database, done = Database(url), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:

        def claim(session: Any) -> jobs.Claim | None:
            job_id = job_queries.find_most_urgent(session, LANES)
            if job_id is None:
                return None
            given: dict[str, Any] = {"owner": "w", "slot": "cpu:0", "folder": "/runs", "lease_seconds": 60}
            return jobs.claim_job(session, job_id, **given, lanes=LANES)

        claimed = database.retried(claim)
        if claimed is None:
            break
        done += 1
    database.close()
    found.put(done)


def claims_per_second(backend: Backend, seconds: float) -> float:
    """Claims a second of several processes on the jobs that `submit` has stored."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    arguments = (str(backend.settings.database_url), seconds, found)
    processes = [context.Process(target=claim_for, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    claimed: int = sum(found.get() for _ in processes)
    for process in processes:
        process.join()
    return claimed / seconds


@contextmanager
def worker(backend: Backend, folder: Path, devices: str, **changes: str) -> Iterator[psutil.Process]:
    """A worker that is ready."""
    log = folder / f"worker-{len(list(folder.iterdir()))}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "adapeff.worker", "daemon", "--devices", devices],
            env={**environment(backend, folder), **changes},
            stderr=out,
        )
    try:
        wait_until(lambda: b"ready" in log.read_bytes(), "a worker that is ready")
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def environment(backend: Backend, folder: Path) -> dict[str, str]:
    """What commands need to use a backend."""
    broker = {"ADAPEFF_BROKER_URL": backend.settings.broker_url} if backend.settings.broker_url else {}
    return {
        **os.environ,
        "ADAPEFF_DATABASE_URL": str(backend.settings.database_url),
        **broker,
        "ADAPEFF_STATE_DIR": str(backend.settings.state),
        "ADAPEFF_LOCK_DIR": str(folder / "locks"),
        "ADAPEFF_PROFILE": "off",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def wait_until(condition: Any, what: str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: if it does not come.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come in {DEADLINE_SECONDS:g} s")
        time.sleep(0.02)


def starts(backend: Backend, folder: Path, sweep: Path, count: int) -> dict[str, Any]:
    """Latency of single jobs on a warm worker, then short jobs a minute with a fork server and without."""
    adapeff = str(Path(sys.executable).parent / "adapeff")

    def submit_seeds(seeds: range) -> None:
        command = [adapeff, "submit", str(sweep), "--seeds", ",".join(map(str, seeds))]
        subprocess.run(command, env=environment(backend, folder), check=True, capture_output=True)

    def succeeded() -> int:
        with backend.database.session(read_only=True) as session:
            return job_queries.count_by_state(session).get("succeeded", 0)

    per_minute, first = {}, 0
    for mode in ("true", "false"):
        with worker(backend, folder, "cpu", ADAPEFF_FORK_SERVER=mode):
            submit_seeds(range(first, first + 2))
            wait_until(lambda: succeeded() >= first + 2, "the first jobs")  # noqa: B023
            first += 2
            if mode == "true":
                for number in range(first, first + 10):
                    submit_seeds(range(number, number + 1))
                    wait_until(lambda: succeeded() > number, "a job")  # noqa: B023
                latencies = _latencies(backend, range(first, first + 10))
                first += 10
            began = time.monotonic()
            submit_seeds(range(first, first + count))
            wait_until(lambda: succeeded() >= first + count, "the short jobs")  # noqa: B023
            first += count
            per_minute["fork" if mode == "true" else "fresh"] = round(60 * count / (time.monotonic() - began), 1)
    return {**latencies, "tiny_per_minute": per_minute}


def _latencies(backend: Backend, seeds: range) -> dict[str, float]:
    with backend.database.session(read_only=True) as session:
        startup = select(Measurement.value).where(
            Measurement.run_id == Run.id, Measurement.name == "phase_s", Measurement.phase == "startup"
        )
        rows = session.execute(
            select(Job.sent_at, Job.created_at, Run.started_at, startup.scalar_subquery())
            .join(Run, Run.job_id == Job.id)
            .where(Job.seed.in_([*seeds]))
        ).all()
    waits = [1000 * (row.started_at - row.created_at).total_seconds() for row in rows]
    startups = [1000 * row[3] for row in rows if row[3] is not None]
    return {
        "start_p50_ms": round(statistics.median(waits), 1),
        "start_p95_ms": round(sorted(waits)[int(0.95 * (len(waits) - 1))], 1),
        "startup_p50_ms": round(statistics.median(startups), 1),
    }


def status_seconds(folder: Path, stored: int) -> dict[str, float]:
    """Wall and CPU seconds of `adapeff status` beside stored jobs."""
    url = f"sqlite:///{folder / 'stored.db'}"
    database = Database(url)
    upgrade(database, "0002")
    fill(database, stored, 2)
    upgrade(database)
    database.close()
    began = time.monotonic()
    command = [str(Path(sys.executable).parent / "adapeff"), "--database-url", url, "status", "--json"]
    before = psutil.Process().cpu_times()
    subprocess.run(command, env={**os.environ, "ADAPEFF_STATE_DIR": str(folder)}, check=True, capture_output=True)
    after = psutil.Process().cpu_times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": round(time.monotonic() - began, 2), "cpu": round(cpu, 2)}


def idle_share(backend: Backend, folder: Path, seconds: float) -> float:
    """CPU seconds per second of a worker without jobs, its fork server included."""
    with worker(backend, folder, "cpu:0") as process:
        time.sleep(15)  # the fork server imports

        def used() -> float:
            family = [process, *process.children(recursive=True)]
            return sum(sum(member.cpu_times()[:2]) for member in family)

        before = used()
        time.sleep(seconds)
        return (used() - before) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tiny", type=int, default=40)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    found: dict[str, Any] = {"jobs": asked.jobs, "stored": asked.stored}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if {"submit", "claim"} & set(asked.parts):
            with backends(folder, "rates") as both:
                for backend in both:
                    first, again = submit(backend, asked.jobs)
                    found.setdefault("submit_10k_s", {})[backend.name] = round(first, 2)
                    found.setdefault("submit_10k_again_s", {})[backend.name] = round(again, 2)
                    if "claim" in asked.parts:
                        rate = claims_per_second(backend, asked.seconds)
                        found.setdefault("claims_per_s", {})[backend.name] = round(rate)
        if {"start", "idle"} & set(asked.parts):
            sweep = make_sweep(folder)
            with backends(folder, "workers") as both:
                for backend in both:
                    if "start" in asked.parts:
                        for key, value in starts(backend, folder, sweep, asked.tiny).items():
                            found.setdefault(key, {})[backend.name] = value
                    if "idle" in asked.parts:
                        share = idle_share(backend, folder, 3 * asked.seconds)
                        found.setdefault("idle_cpu", {})[backend.name] = round(share, 4)
        if "status" in asked.parts:
            found["status_s"] = status_seconds(folder, asked.stored)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
