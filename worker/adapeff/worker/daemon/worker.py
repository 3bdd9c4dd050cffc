"""Turn jobs into runs: claim a job's row, supervise a runner in a slot, store its results and its outcome once.

Which jobs to try comes from messages (`consumer.py`) or from a sweep (`Worker.run_sweep`). The job's
row decides, even if the database or the broker fails in between. A job that fails because of this host goes back to the
queue for other hosts.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from adapeff.service.broker.queue import RETRY_SECONDS
from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.errors import (
    LeaseLostError,
    NotHereError,
    ResourceError,
    UnreachableError,
    first_line,
    first_problem,
)
from adapeff.service.lanes import ANY, lane_of
from adapeff.service.paths import make_private
from adapeff.service.plugins.plugin_reference import split_list
from adapeff.service.reporting.words import duration
from adapeff.service.settings import Settings, parse_stall_minutes
from adapeff.service.specs.profile import read_spec
from adapeff.service.store import job_queries, jobs, results, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import Claim, RunOutcome
from adapeff.service.store.tables import FINAL_STATES
from adapeff.service.store.workers import WorkerRecord
from adapeff.worker.daemon.contact import Contact
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.host_faults import RELEASED_SECONDS, HostFaults
from adapeff.worker.daemon.limits import Limits
from adapeff.worker.daemon.run_command import checkpoints_of, lacking, run_command
from adapeff.worker.daemon.slots import Slot
from adapeff.worker.daemon.stopping import Stopping
from adapeff.worker.daemon.supervisor import Stalls, read_finished, supervise

logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_IDLE_SECONDS = 0.5


class Worker:
    """A worker process on one host: a slot per device, a thread per slot."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        slots: Sequence[Slot],
        fork_server: ForkServer | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.host = socket.gethostname()
        self.name = f"{self.host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.size = len(slots)
        names = tuple(slot.name for slot in slots)
        self.record = WorkerRecord(self.name, self.host, slots[0].kind, names, version("adapeff"))
        self.lanes = (lane_of(ANY), lane_of(slots[0].kind))
        self._settings = settings
        self._database = database
        self._fork_server = fork_server
        self.limits = limits or Limits()
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self.stopping = Stopping()
        self._too_long: set[int] = set()
        self.host_faults = HostFaults()

    def run_sweep(self, sweep_id: int) -> None:
        """Run the jobs of a sweep, and the jobs they depend on, until none is left that can run here.

        Raises:
            NotHereError: if some are left that this host cannot run; they stay in the queue.
        """
        self.stopping.listen_to_signals()
        self.adopt_finished()
        stop_reconciler = threading.Event()
        record = replace(self.record, sweep_id=sweep_id)
        reconciler = Reconciler(self._database, None, self._settings, stop_reconciler, worker=record)
        reconciler.start()
        try:
            with ThreadPoolExecutor(self.size) as pool:
                for slot in [pool.submit(self._serve_until_empty, sweep_id) for _ in range(self.size)]:
                    slot.result()
        finally:
            stop_reconciler.set()
            reconciler.join(40)
        if not self.stopping.finishing.is_set() and (left := self.host_faults.excluded):
            raise NotHereError(
                f"{len(left)} {'job' if len(left) == 1 else 'jobs'} cannot run on this host and stay queued; "
                f"job {min(left)}: {left[min(left)]}"
            )

    def _serve_until_empty(self, sweep_id: int | None) -> None:
        """Run jobs until none is left that can run here: of a sweep and what it needs, or of the queue if None."""
        while not self.stopping.finishing.is_set():

            def poll() -> tuple[list[int], int]:
                with self._database.session(read_only=True) as session:
                    return job_queries.list_claimable(session, sweep_id, self.lanes), job_queries.count_unfinished(
                        session, sweep_id, self.lanes, but=self.excluded
                    )

            polled = self._retry(poll, "look for jobs", give_up=self.stopping.finishing.is_set)
            claimable, unfinished = polled or ([], 0)
            excluded = set(self.excluded)
            candidates = [job_id for job_id in claimable if job_id not in excluded]
            if candidates:
                self.handle(candidates[0])
            elif not unfinished:
                return
            else:
                self.stopping.finishing.wait(_IDLE_SECONDS)

    @property
    def excluded(self) -> list[int]:
        """Jobs that this worker leaves to others."""
        return [*self.host_faults.excluded, *self._too_long]

    def adopt_finished(self) -> None:
        """Store the results of runs on this host that finished after their worker had died, if they still count."""
        try:
            with self._database.session(read_only=True) as session:
                left = jobs.list_left_runs(session, host=self.host, but=self.name)
        except (UnreachableError, ResourceError) as error:
            logger.warning("%s; skipped the search for finished runs of an earlier worker", error)
            return
        for claim in left:
            finished = read_finished(Path(claim.folder))
            if finished is not None:
                try:
                    self._store(claim, *finished)
                except LeaseLostError as error:
                    logger.info("job %s: %s", claim.job_id, error, extra=claim.ids)
                else:
                    logger.info(
                        "job %s: stored the results of an earlier worker's run in %s",
                        claim.job_id,
                        claim.folder,
                        extra=claim.ids,
                    )

    def choose(self, session: Session, job_id: int) -> int | None:
        """Hook: the job to claim when this one is proposed; None: none."""
        return job_id

    def ends_in_time(self, session: Session, job_id: int) -> bool:
        """Whether similar runs took less than the time this worker has left; if not, it leaves the job to others."""
        left = self.limits.seconds_left
        if left is None:
            return True
        (estimate,) = sweeps.estimate_jobs(session, job_queries.list_jobs(session, ids=[job_id])) or [None]
        if self.limits.fits(estimate):
            return True
        needed, remaining = duration(estimate), duration(left)
        logger.info(
            "job %s: takes about %s, but %s are left; left to others",
            job_id,
            needed,
            remaining,
            extra={"job_id": job_id},
        )
        self._too_long.add(job_id)
        return False

    def on_released(self) -> None:
        """Hook: a job went back to the queue, or jobs that waited for another may run now."""

    def handle(self, job_id: int) -> None:
        """Try to run a job in the next free slot; never raises."""
        slot = self._slots.get()
        if self._fork_server is not None:
            self._fork_server.prepare(self.stopping.finishing.is_set)  # before the lease begins
        self.stopping.running += 1
        try:
            claim = self._claim(job_id, slot)
            if self.limits.is_used_up:
                self.stopping.finishing.set()
            if claim is not None:
                self._run(claim, slot)
        except Exception:
            logger.exception(
                "job %s: the worker failed; the job goes back to the queue when its lease expires",
                job_id,
                extra={"job_id": job_id},
            )
        finally:
            self.stopping.running -= 1
            if pause := self.host_faults.pause_of(slot.name):
                logger.error(
                    "slot %s pauses for %g s: several jobs in a row failed because of this host; see the log above",
                    slot.name,
                    pause,
                )
                self.stopping.finishing.wait(pause)
            self._slots.put(slot)

    def _claim(self, job_id: int, slot: Slot) -> Claim | None:
        """The claim, or None if the job cannot be claimed or the worker is stopping."""

        def claim() -> Claim | None:
            with self._database.session() as session:
                chosen = None
                if not self.stopping.finishing.is_set() and not self.host_faults.excludes(job_id):
                    chosen = self.choose(session, job_id)
                if chosen is None:
                    jobs.mark_unsent(session, job_id)  # the message is consumed: send it again
                    return None
                return jobs.claim_job(
                    session,
                    chosen,
                    owner=self.name,
                    slot=slot.name,
                    folder=str(self._settings.artifacts.resolve() / "runs"),
                    lease_seconds=self._settings.lease_seconds,
                    lanes=self.lanes,
                )

        is_allowed = self.limits.take()
        if not is_allowed:
            self.stopping.finishing.set()
        claimed = self._retry(claim, f"claim job {job_id}", give_up=self.stopping.finishing.is_set)
        if is_allowed and claimed is None:
            self.limits.give_back()
        return claimed

    def _retry(self, action: Callable[[], _T], what: str, *, give_up: Callable[[], bool]) -> _T | None:
        """Retry an action while the database is unavailable, with growing pauses; None once it may give up."""
        attempt = 0
        while True:
            try:
                return action()
            except (UnreachableError, ResourceError) as error:
                if give_up() and attempt:
                    logger.error("could not %s: %s", what, error)  # noqa: TRY400 - expected, and the message suffices
                    return None
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                logger.warning("%s; retrying to %s in %g s", error, what, pause)
                attempt += 1
                self.stopping.handing_back.wait(pause)

    def _run(self, claim: Claim, slot: Slot) -> None:
        started = time.monotonic()
        extra = claim.ids
        try:
            outcome, run_results = self._supervise(claim, slot)
            outcome = self._release_if_not_here(claim, slot, outcome)
            state = self._store(claim, outcome, run_results)
        except LeaseLostError as error:
            logger.warning("job %s: %s; stopped its runner, dropped its results", claim.job_id, error, extra=extra)
            return
        except Exception as error:
            logger.exception("job %s: the run could not be finished", claim.job_id, extra=extra)
            outcome = RunOutcome("error", _explain(error), not_here=isinstance(error, OSError))
            outcome = self._release_if_not_here(claim, slot, outcome)
            state = self._store(claim, outcome, results.RunResults())
        if state in FINAL_STATES:
            shutil.rmtree(checkpoints_of(Path(claim.folder)), ignore_errors=True)
        level = logging.INFO if outcome.outcome in ("succeeded", "released", "cancelled") else logging.WARNING
        level = logging.ERROR if outcome.not_here else level
        duration = time.monotonic() - started
        note = f": {outcome.message}" if outcome.message else ""
        logger.log(level, "job %s: %s after %.1f s%s", claim.job_id, outcome.outcome, duration, note, extra=extra)
        if state in ("queued", "succeeded") and not self.stopping.finishing.is_set() and not outcome.not_here:
            self.on_released()  # the job itself, or jobs that waited for it

    def _release_if_not_here(self, claim: Claim, slot: Slot, outcome: RunOutcome) -> RunOutcome:
        """The outcome; a failure that is this host's releases the job, for other hosts to run."""
        if not outcome.not_here:
            self.host_faults.clear(slot.name)
            return outcome
        self.host_faults.record(claim.job_id, slot.name, outcome.message)
        message = f"{self.host} cannot run it: {outcome.message}"
        return replace(outcome, outcome="released", message=message, retry_after_seconds=RELEASED_SECONDS)

    def _store(self, claim: Claim, outcome: RunOutcome, run_results: results.RunResults) -> str | None:
        def store() -> str:
            with self._database.session() as session:
                return results.finish(session, claim, outcome, run_results)

        return self._retry(store, f"store the results of job {claim.job_id}", give_up=self.stopping.handing_back.is_set)

    def _sources(self, claim: Claim) -> dict[str, tuple[str, str]]:
        if not claim.spec.get("sources"):
            return {}
        with self._database.session() as session:
            return results.source_folders(session, claim.job_id)

    def _supervise(self, claim: Claim, slot: Slot) -> tuple[RunOutcome, results.RunResults]:
        try:
            spec = read_spec(claim.spec)
        except ValidationError as error:
            reason = f"this worker cannot read the job ({first_problem(error)}); upgrade adapeff on this host"
            return RunOutcome("error", reason, not_here=True), results.RunResults()
        logger.info("job %s: %s, on %s", claim.job_id, spec.label, slot.name, extra=claim.ids)
        if reason := lacking(spec, slot):
            return RunOutcome("error", reason, not_here=True), results.RunResults()
        folder = Path(claim.folder)
        make_private(self._settings.artifacts)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(spec.model_dump_json(indent=1), encoding="utf-8")
        command = run_command(spec, folder, slot, self._settings, self._sources(claim))
        limit = spec.time_limit_minutes or self._settings.time_limit_minutes
        contact = Contact(self._database, self._settings, claim, self.stopping.handing_back)
        return supervise(
            command,
            folder,
            slot,
            contact,
            time_limit_seconds=limit * 60,
            stalls=Stalls(parse_stall_minutes(self._settings.stall_minutes), self._settings.on_stall),
            passed_on=split_list(self._settings.runner_environment),
            fork_server=self._fork_server,
        )


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the run's folder is not usable: {error.strerror} ({error.filename})"
    return f"the worker could not finish the run: {type(error).__name__}: {first_line(error)}"
