"""Turn messages into runs: the only file of the worker that knows Celery, and the only one that holds a session.

A message wakes a thread; the thread claims the job's row, supervises a runner in a slot, and stores what it found with
the ending in one transaction. Whatever the database or the broker do meanwhile, the row decides.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from celery.worker import WorkController
from celery.worker import state as celery_state
from pydantic import ValidationError

from adapeff.service import jobs, results
from adapeff.service.catalog import first_problem
from adapeff.service.database import Database
from adapeff.service.errors import AdapeffError, LeaseLostError, ResourceError, UnreachableError
from adapeff.service.jobs import Claim, Ending
from adapeff.service.profiles import read_spec
from adapeff.service.queue import TASK_NAME, Reconciler, make_app, send_unsent
from adapeff.service.settings import Settings
from adapeff.worker.slots import Slot
from adapeff.worker.supervisor import supervise

logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_RETRY_SECONDS = (0.5, 1, 2, 5, 10)


class Worker:
    """One daemon of a host: a slot per device, a thread per slot."""

    def __init__(self, settings: Settings, database: Database, slots: Sequence[Slot]) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._settings = settings
        self._database = database
        self._kind = slots[0].kind
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._size = len(slots)
        for slot in slots:
            self._slots.put(slot)
        self._finishing = threading.Event()
        self._handing_back = threading.Event()
        self._running = 0
        self._app = make_app(settings)
        self._app.task(name=TASK_NAME, bind=False)(self.handle)

    def serve(self) -> None:
        """Work until a signal says stop.

        SIGINT once: take nothing new, finish what runs. SIGINT again, or SIGTERM: hand back what runs, now.
        """
        stop_reconciler = threading.Event()
        reconciler = Reconciler(self._database, self._app, self._settings, stop_reconciler)
        controller = WorkController(
            app=self._app,
            hostname=self.name,
            pool_cls="threads",
            concurrency=self._size,
            queues=["adapeff-any", f"adapeff-{self._kind}"],
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGTERM, self._on_terminate)
        reconciler.start()
        logger.info("worker %s is ready", self.name, extra={"action": "worker_ready"})
        try:
            controller.start()
        finally:
            self._finishing.set()
            stop_reconciler.set()
            reconciler.join(5)
        self._send_released()
        logger.info("worker %s has stopped", self.name)

    def stop_with(self, parent: IO[bytes]) -> None:
        """Hand back and stop when `parent`, a pipe that another process holds open, comes to its end."""

        def watch() -> None:
            while parent.read(1):
                pass
            self._on_terminate()

        threading.Thread(target=watch, name="parent", daemon=True).start()

    def _on_interrupt(self, *_: Any) -> None:
        if self._finishing.is_set():
            return self._on_terminate()
        self._finishing.set()
        celery_state.should_stop = os.EX_OK
        if self._running:
            jobs_running = "1 job" if self._running == 1 else f"{self._running} jobs"
            logger.warning("finishing %s; press Ctrl-C again to hand back to the queue now", jobs_running)
        return None

    def _on_terminate(self, *_: Any) -> None:
        if not self._handing_back.is_set() and self._running:
            logger.warning("handing back what is running")
        self._finishing.set()
        self._handing_back.set()
        celery_state.should_stop = os.EX_OK

    def _send_released(self) -> None:
        """Wake other workers for what this one handed back; failing that, their reconcilers will find it."""
        try:
            send_unsent(self._database, self._app)
        except AdapeffError as error:
            logger.warning("%s; released jobs wait for the next worker", error)

    def handle(self, job_id: int) -> None:
        """Do what a message asks for; whatever happens, the message is done with."""
        slot = self._slots.get()
        self._running += 1
        try:
            claim = self._claim(job_id, slot)
            if claim is not None:
                self._run(claim, slot)
        except Exception:
            logger.exception("job %s: the worker failed; the lease will run out and the job be taken back", job_id)
        finally:
            self._running -= 1
            self._slots.put(slot)

    def _claim(self, job_id: int, slot: Slot) -> Claim | None:
        """The claim, or None where there is nothing to be claimed or the worker is stopping."""

        def claim() -> Claim | None:
            with self._database.session() as session:
                if self._finishing.is_set():
                    jobs.mark_unsent(session, job_id)  # the message is consumed; the outbox must have the job again
                    return None
                return jobs.claim_job(
                    session,
                    job_id,
                    owner=self.name,
                    slot=slot.name,
                    folder=str(self._settings.artifacts.resolve() / "runs"),
                    lease_seconds=self._settings.lease_seconds,
                )

        return self._insist(claim, f"claim job {job_id}", give_up=self._finishing.is_set)

    def _insist(self, action: Callable[[], _T], what: str, *, give_up: Callable[[], bool]) -> _T | None:
        """Repeat what the database was not there for, with growing pauses; None once it may be given up."""
        attempt = 0
        while True:
            try:
                return action()
            except (UnreachableError, ResourceError) as error:
                if give_up() and attempt:
                    logger.error("could not %s: %s", what, error)  # noqa: TRY400 - expected; the line says it all
                    return None
                pause = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                logger.warning("%s; will try again to %s in %g s", error, what, pause)
                attempt += 1
                self._handing_back.wait(pause)

    def _run(self, claim: Claim, slot: Slot) -> None:
        started = time.monotonic()
        extra = {"job_id": claim.job_id, "run_id": claim.run_id}
        try:
            ending, findings = self._supervise(claim, slot)
            state = self._store(claim, ending, findings)
        except LeaseLostError as error:
            logger.warning("job %s: %s; its runner was ended, its results refused", claim.job_id, error, extra=extra)
            return
        except Exception as error:
            logger.exception("job %s: the run could not be finished", claim.job_id, extra=extra)
            ending = Ending("error", _explain(error))
            state = self._store(claim, ending, results.Findings())
        level = logging.INFO if ending.outcome in ("succeeded", "released", "cancelled") else logging.WARNING
        duration = time.monotonic() - started
        note = f": {ending.message}" if ending.message else ""
        logger.log(level, "job %s: %s after %.1f s%s", claim.job_id, ending.outcome, duration, note, extra=extra)
        if state in ("queued", "succeeded") and not self._finishing.is_set():
            self._send_released()  # the job itself, or those that waited for it

    def _store(self, claim: Claim, ending: Ending, findings: results.Findings) -> str | None:
        def store() -> str:
            with self._database.session() as session:
                return results.finish(session, claim, ending, findings)

        return self._insist(store, f"store the results of job {claim.job_id}", give_up=self._handing_back.is_set)

    def _sources(self, claim: Claim) -> dict[str, str]:
        if not claim.spec.get("sources"):
            return {}
        with self._database.session() as session:
            return results.source_folders(session, claim.job_id)

    def _supervise(self, claim: Claim, slot: Slot) -> tuple[Ending, results.Findings]:
        try:
            spec = read_spec(claim.spec)
        except ValidationError as error:
            reason = f"this worker cannot read the job ({first_problem(error)}); upgrade adapeff on this host"
            return Ending("error", reason), results.Findings()
        logger.info("job %s: %s, on %s", claim.job_id, spec.label, slot.name)
        if slot.kind == "cpu" and spec.cpu_threads > len(slot.cores):
            threads, cores = spec.cpu_threads, len(slot.cores)
            reason = (
                f"the job asks for {threads} threads, but slot {slot.name} has {cores} core(s); "
                f"start the worker with ADAPEFF_CORES_PER_SLOT={threads}"
            )
            return Ending("error", reason), results.Findings()
        folder = Path(claim.folder)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(spec.model_dump_json(indent=1), encoding="utf-8")
        command = [sys.executable, "-m", "adapeff.worker.runner", str(folder / "job.json"), "--out", str(folder)]
        command += ["--device", slot.kind]
        for job_hash, place in self._sources(claim).items():
            command += ["--source", f"{job_hash}={place}"]
        command += ["--cache", str(self._settings.cache.resolve())]
        if self._settings.data_root is not None:
            command += ["--data-root", str(self._settings.data_root.expanduser().resolve())]
        limit = spec.time_limit_minutes
        contact = _Contact(self._database, self._settings, claim, self._handing_back)
        return supervise(command, folder, slot, contact, time_limit_seconds=limit * 60 if limit else None)


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the run's folder cannot be used: {error.strerror} ({error.filename})"
    lines = str(error).strip().splitlines()
    return f"the worker could not finish the run: {type(error).__name__}: {lines[0] if lines else ''}"


class _Contact:
    """A run's line to the database: an outage is waited out, a lost lease is not."""

    def __init__(self, database: Database, settings: Settings, claim: Claim, handing_back: threading.Event) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._handing_back = handing_back
        self._renewed = time.monotonic()

    def pulse(self, stage: str, progress: Mapping[str, Any]) -> bool:
        """Store the progress, renew the lease when that is due; an unreachable database is told about and outlived."""
        try:
            with self._database.session() as session:
                is_due = time.monotonic() - self._renewed >= self._settings.heartbeat_seconds
                lease = self._settings.lease_seconds if is_due else None
                cancelled = jobs.heartbeat(session, self._claim, lease_seconds=lease, stage=stage, progress=progress)
            if is_due:
                self._renewed = time.monotonic()
            return cancelled
        except (UnreachableError, ResourceError) as error:
            logger.warning("job %s: heartbeat failed: %s", self._claim.job_id, error)
            return False

    def must_hand_back(self) -> bool:
        """Whether the worker is stopping now."""
        return self._handing_back.is_set()
