"""The queue: a Celery app whose messages carry a job's id and nothing else, and the reconciler that makes it sound.

The database is the truth, a message only a wake-up. Nothing is sent before the commit; a row without `sent_at` is the
outbox. Losing every message loses no job, because the reconciler sends again; a message delivered twice runs nothing
twice, because the second claim finds nothing to claim. So no result backend, and late acknowledgement only so that a
message is not gone before its job is claimed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError as BrokerError

from adapeff.service import jobs
from adapeff.service.database import Database, now
from adapeff.service.errors import AdapeffError, ResourceError, UnreachableError
from adapeff.service.file_transport import SCHEME
from adapeff.service.models import Job
from adapeff.service.settings import Settings, mask

logger = logging.getLogger(__name__)

TASK_NAME = "adapeff.run_job"
LANES = ("adapeff-any", "adapeff-cpu", "adapeff-cuda")
_CONSUMED_SECONDS = 60
_QUICK_SECONDS = 0.5
_BROKER_DOWN = (BrokerError, ConnectionError, TimeoutError)


def make_app(settings: Settings) -> Celery:
    """The Celery app for the settings' broker.

    Raises:
        ResourceError: if the embedded queue's folders cannot be made.
    """
    embedded = settings.broker.startswith("filesystem://")
    app = Celery("adapeff", broker=f"{SCHEME}://localhost" if embedded else settings.broker, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_default_queue=LANES[0],
        task_queues=[Queue(lane) for lane in LANES],
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        broker_transport_options=_transport_options(settings),
        redis_socket_timeout=15,
        redis_socket_connect_timeout=5,
        redis_backend_health_check_interval=5,
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.broker.startswith("filesystem://"):
        return {
            "visibility_timeout": settings.visibility_hours * 3600,
            "priority_steps": list(range(10)),
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "health_check_interval": 5,
            "max_retries": 1,
        }
    folder = settings.state / "queue"
    try:
        for name in ("messages", "control", "processed"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"cannot make the queue's folder {folder}: {error.strerror}; set ADAPEFF_STATE_DIR to a writable folder"
        ) from error
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        # On the same file system as the messages, so that taking one is a rename: only one consumer succeeds.
        "processed_folder": str(folder / "processed"),
        "store_processed": True,
        "polling_interval": 0.1,
    }


def send(app: Celery, waiting: Iterable[Job]) -> list[int]:
    """Send a message for each job, in order.

    Returns:
        The ids that are now with the broker.

    Raises:
        UnreachableError: if the broker does not answer; jobs already committed are sent later by a worker.
    """
    sent: list[int] = []
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
            producer = app.amqp.Producer(connection)
            for job in waiting:
                app.send_task(TASK_NAME, args=[job.id], queue=job.lane, priority=job.priority, producer=producer)
                sent.append(job.id)
    except _BROKER_DOWN as error:
        raise UnreachableError(
            f"the broker {mask(app.conf.broker_url)} cannot be reached: {_one_line(error)}"
        ) from error
    except OSError as error:
        raise ResourceError(f"the queue cannot be written: {error.strerror or error}") from error
    return sent


def send_unsent(database: Database, app: Celery) -> int:
    """Send every committed job that has not been sent.

    Returns:
        How many there were.

    Raises:
        UnreachableError: if the broker does not answer.
    """
    with database.session(read_only=True) as session:
        waiting = jobs.list_unsent(session)
    if not waiting:
        return 0
    sent = send(app, waiting)
    with database.session() as session:
        jobs.mark_sent(session, sent)
    return len(sent)


def broker_problem(app: Celery) -> str:
    """Why the broker cannot be reached, or '' if it can."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
    except (*_BROKER_DOWN, OSError) as error:
        return _one_line(error)
    return ""


def _one_line(error: Exception) -> str:
    text = mask(str(error)).strip().splitlines()
    return text[0] if text else type(error).__name__


def _messages_waiting(app: Celery, lane: str) -> int:
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
        declared = connection.default_channel.queue_declare(queue=lane, durable=True, auto_delete=False)
        return int(declared.message_count)


def _tell(error: Exception) -> None:
    if isinstance(error, AdapeffError):
        logger.warning("reconciler: %s", error)
    else:
        logger.error("reconciler: unexpected error, going on", exc_info=error)


class Reconciler(threading.Thread):
    """Sends what is queued and unsent, sends again what was lost, and takes back leases that ran out.

    A database that was away or blocked for longer than a lease makes healthy runs look lost, and so does a machine that
    slept; so after any error of the database, after a slow write, after a gap between sweeps, and after its own start,
    it takes nothing back for one lease.

    Args:
        app: None: nothing is sent.
    """

    def __init__(self, database: Database, app: Celery | None, settings: Settings, stop: threading.Event) -> None:
        super().__init__(name="reconciler", daemon=True)
        self._database = database
        self._app = app
        self._settings = settings
        self._stop_asked = stop
        self._calm_sweeps = 0
        self._last_sweep: datetime | None = None

    def run(self) -> None:
        """Sweep until asked to stop."""
        needed = max(1, round(self._settings.lease_seconds / self._settings.reconcile_seconds))
        while not self._stop_asked.is_set():
            try:
                if self._slept():
                    self._calm_sweeps = 0
                is_calm = self.take_back(allowed=self._calm_sweeps >= needed)
                self._calm_sweeps = self._calm_sweeps + 1 if is_calm else 0
            except Exception as error:  # noqa: BLE001 - must outlive whatever comes; `_tell` keeps the traceback
                self._calm_sweeps = 0
                _tell(error)
            try:
                self.send()
            except Exception as error:  # noqa: BLE001 - as above; a broker that is away says nothing of the database
                _tell(error)
            self._stop_asked.wait(self._settings.reconcile_seconds)

    def _slept(self) -> bool:
        """Whether the last sweep is later than planned by more than half a lease, by the database's clock."""
        with self._database.session(read_only=True) as session:
            moment = now(session)
        last, self._last_sweep = self._last_sweep, moment
        planned = self._settings.reconcile_seconds
        return last is not None and (moment - last).total_seconds() > planned + self._settings.lease_seconds / 2

    def take_back(self, *, allowed: bool) -> bool:
        """Take back leases that ran out, if that is allowed and writes go through at once.

        Where writes are blocked while reads work, healthy runs cannot renew their leases.

        Returns:
            Whether a write took less than half a heartbeat.

        Raises:
            UnreachableError, ResourceError: if the database is away.
        """
        with self._database.session() as session:
            began = time.monotonic()
            jobs.touch(session)
            is_calm = time.monotonic() - began < max(_QUICK_SECONDS, self._settings.heartbeat_seconds / 2)
            taken = jobs.take_back_expired(session) if allowed and is_calm else []
        for job_id, state in taken:
            logger.warning("job %s: its run was lost; now %s", job_id, state)
        return is_calm

    def send(self) -> None:
        """Send what is unsent, and again what was lost.

        Raises:
            UnreachableError: if database or broker is away.
        """
        if self._app is None:
            return
        send_unsent(self._database, self._app)
        for lane in LANES:
            self._send_lost_again(self._app, lane)
        self.forget_consumed(older_than_seconds=_CONSUMED_SECONDS)

    def forget_consumed(self, *, older_than_seconds: float) -> None:
        """Delete the embedded queue's consumed messages: they are read right after they are moved there."""
        folder = self._settings.state / "queue" / "processed"
        if self._settings.broker_url is not None or not folder.is_dir():
            return
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker's reconciler was first
                if time.time() - file.stat().st_ctime >= older_than_seconds:
                    file.unlink()

    def _send_lost_again(self, app: Celery, lane: str) -> None:
        """Where a lane is empty and a job sent some time ago still waits, its message is lost (or with a consumer)."""
        with self._database.session(read_only=True) as session:
            waiting = jobs.list_waiting(session, lane, older_than_seconds=self._settings.reconcile_seconds)
        if not waiting:
            return
        try:
            if _messages_waiting(app, lane):
                return
        except _BROKER_DOWN as error:
            raise UnreachableError(f"the broker cannot be reached: {_one_line(error)}") from error
        sent = send(app, waiting)
        with self._database.session() as session:
            jobs.mark_sent(session, sent)
        logger.info("sent %s messages of lane %s again", len(sent), lane)
