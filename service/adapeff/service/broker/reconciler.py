"""Keep database and broker consistent while a worker serves the queue."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from datetime import datetime

from celery import Celery

from adapeff.service.broker.notification import notify
from adapeff.service.broker.queue import messages_waiting, send, send_unsent
from adapeff.service.errors import AdapeffError
from adapeff.service.lanes import all_lanes
from adapeff.service.settings import Settings
from adapeff.service.store import job_queries, jobs, sweeps, workers
from adapeff.service.store.database import Database, now
from adapeff.service.store.workers import WorkerRecord

logger = logging.getLogger(__name__)

_CONSUMED_SECONDS = 60

_QUICK_SECONDS = 0.5


class Reconciler(threading.Thread):
    """Sends queued jobs, resends lost messages, and takes back jobs whose lease has expired.

    Healthy runs look lost after the database was down or blocked for longer than a lease, or after the machine was
    suspended. So the reconciler takes no job back for the length of a lease after its start, a database error, a slow
    write, or a gap between sweeps.

    Args:
        app: the app to send with; None: send nothing.
        worker: the worker to report as alive; None: none.
    """

    def __init__(
        self,
        database: Database,
        app: Celery | None,
        settings: Settings,
        stop: threading.Event,
        *,
        worker: WorkerRecord | None = None,
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._database = database
        self._app = app
        self._settings = settings
        self._stop_requested = stop
        self._worker = worker
        self._calm_sweeps = 0
        self._last_sweep: datetime | None = None

    def run(self) -> None:
        """Sweep until `stop` is set."""
        needed = max(1, round(self._settings.lease_seconds / self._settings.reconcile_seconds))
        while not self._stop_requested.is_set():
            try:
                if self._slept():
                    self._calm_sweeps = 0
                is_calm = self.take_back(allowed=self._calm_sweeps >= needed)
                self._calm_sweeps = self._calm_sweeps + 1 if is_calm else 0
            except Exception as error:  # noqa: BLE001 - must survive any error; `_log` keeps the traceback
                self._calm_sweeps = 0
                _log(error)
            try:
                self.send()
            except Exception as error:  # noqa: BLE001 - as above; a broker that is down does not affect the database
                _log(error)
            try:
                self.announce()
            except Exception as error:  # noqa: BLE001 - as above
                _log(error)
            self._stop_requested.wait(self._settings.reconcile_seconds)
        try:
            self._report_stop()
            self.announce()
        except Exception as error:  # noqa: BLE001 - as above; without a report, the worker is gone instead of stopped
            _log(error)

    def _report_stop(self) -> None:
        if self._worker is not None:
            with self._database.session() as session:
                workers.mark_stopped(session, self._worker.name)

    def _slept(self) -> bool:
        """Whether this sweep is late by more than half a lease, by the database's clock."""
        with self._database.session(read_only=True) as session:
            moment = now(session)
        last, self._last_sweep = self._last_sweep, moment
        planned = self._settings.reconcile_seconds
        return last is not None and (moment - last).total_seconds() > planned + self._settings.lease_seconds / 2

    def take_back(self, *, allowed: bool) -> bool:
        """Take back jobs with an expired lease, if allowed and if writes are not blocked; report the worker as alive.

        If writes are blocked while reads work, healthy runs cannot renew their leases.

        Returns:
            Whether a write took less than half a heartbeat interval.

        Raises:
            UnreachableError, ResourceError: if the database cannot be used.
        """
        with self._database.session() as session:
            began = time.monotonic()
            jobs.touch(session)
            is_calm = time.monotonic() - began < max(_QUICK_SECONDS, self._settings.heartbeat_seconds / 2)
            taken = jobs.take_back_expired(session) if allowed and is_calm else []
            if self._worker is not None:
                patience = max(self._settings.lease_seconds, 3 * self._settings.reconcile_seconds)
                workers.report_alive(session, self._worker, next_within_seconds=patience)
        for job_id, state in taken:
            logger.warning("job %s: its run was lost; now %s", job_id, state, extra={"job_id": job_id})
        return is_calm

    def announce(self) -> None:
        """Tell whom the settings name about sweeps that have ended, each once.

        Raises:
            UnreachableError, ResourceError: if the database cannot be used.
        """
        with self._database.session(read_only=True) as session:
            ended = sweeps.list_ended(session)
        for sweep_id in ended:
            with self._database.session() as session:
                sweep = sweeps.mark_announced(session, sweep_id)
            if sweep is not None and self._settings.notify:
                notify(self._settings.notify, sweep)

    def send(self) -> None:
        """Send unsent jobs, and resend lost messages.

        Raises:
            UnreachableError: if the database or broker cannot be reached.
        """
        if self._app is None:
            return
        send_unsent(self._database, self._app)
        for lane in all_lanes():
            self._resend_lost(self._app, lane)
        self.forget_consumed(older_than_seconds=_CONSUMED_SECONDS)

    def forget_consumed(self, *, older_than_seconds: float) -> None:
        """Delete the embedded queue's consumed messages, which are read as soon as they are moved there."""
        folder = self._settings.state / "queue" / "processed"
        if self._settings.broker_url is not None or not folder.is_dir():
            return
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker's reconciler was first
                if time.time() - file.lstat().st_ctime < older_than_seconds:
                    continue
                if file.is_dir() and not file.is_symlink():  # not a message, but consumed like one
                    shutil.rmtree(file)
                else:
                    file.unlink()

    def _resend_lost(self, app: Celery, lane: str) -> None:
        """Resend the messages of jobs that have waited for a while although their lane is empty: those are lost."""
        with self._database.session(read_only=True) as session:
            waiting = job_queries.list_waiting(session, lane, older_than_seconds=self._settings.reconcile_seconds)
        if not waiting:
            return
        if messages_waiting(app, lane):
            return
        sent = send(app, waiting)
        with self._database.session() as session:
            jobs.mark_sent(session, sent)
        logger.info("resent %s messages of lane %s", len(sent), lane)


def _log(error: Exception) -> None:
    if isinstance(error, AdapeffError):
        logger.warning("reconciler: %s", error)
    else:
        logger.error("reconciler: unexpected error, retrying", exc_info=error)
