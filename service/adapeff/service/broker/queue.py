"""The queue: a Celery app whose messages carry only a job's id.

The database is the source of truth, a message only a wake-up call. Nothing is sent before the commit; rows without
`sent_at` are the outbox. No job is lost with its message, because `reconciler` resends lost messages; no job runs twice
because of a duplicate message, because the second claim fails. So there is no result backend, and nothing is
acknowledged: the broker forgets a message once a worker has received it. (Celery's own consumer acknowledges over the
wire; if that fails, kombu counts the message as outstanding and requests no other, and a malformed message ends the
consumer.)
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from celery import Celery
from kombu import Consumer, Queue
from kombu.exceptions import OperationalError as BrokerError

from adapeff.service.broker.file_transport import SCHEME
from adapeff.service.errors import AdapeffError, ResourceError, UnreachableError, first_line
from adapeff.service.lanes import ANY, all_lanes, lane_of
from adapeff.service.masking import mask
from adapeff.service.paths import make_private
from adapeff.service.settings import Settings
from adapeff.service.store import job_queries, jobs
from adapeff.service.store.database import Database
from adapeff.service.store.tables import Job

logger = logging.getLogger(__name__)

TASK_NAME = "adapeff.run_job"
RETRY_SECONDS = (0.5, 1, 2, 5, 10)
_QUIET_SECONDS = 60


def make_app(settings: Settings) -> Celery:
    """Create the Celery app for the broker of the settings.

    Raises:
        ResourceError: if the embedded queue's folders cannot be created.
    """
    embedded = settings.broker.startswith("filesystem://")
    app = Celery("adapeff", broker=f"{SCHEME}://localhost" if embedded else settings.broker, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=lane_of(ANY),
        task_queues=[Queue(lane) for lane in all_lanes()],
        task_create_missing_queues=False,
        broker_connection_timeout=5,
        broker_transport_options=_transport_options(settings),
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.broker.startswith("filesystem://"):
        return {
            "ack_emulation": False,
            "priority_steps": list(range(10)),
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "health_check_interval": 5,
            "max_retries": 1,
        }
    folder = settings.state / "queue"
    try:
        for name in ("messages", "control", "processed"):
            make_private(settings.state)
            make_private(folder)
            make_private(folder / name)
    except OSError as error:
        raise ResourceError(
            f"cannot create the queue's folder {folder}: {error.strerror}; set ADAPEFF_STATE_DIR to a writable folder"
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


@contextlib.contextmanager
def _connection(app: Celery) -> Iterator[Any]:
    """A connection to the broker, closed when the block ends; its failures are raised as adapeff errors.

    Raises:
        UnreachableError: if the broker does not answer, or answers with an error.
        ResourceError: if the embedded queue cannot be read or written.
    """
    connection = app.connection_for_write()
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
            yield connection
    except (BrokerError, *_broker_errors(connection)) as error:
        raise UnreachableError(
            f"the broker {mask(app.conf.broker_url)} cannot be reached: {first_line(error)}"
        ) from error
    except OSError as error:
        raise ResourceError(f"the queue cannot be used: {error.strerror or error}") from error


def _broker_errors(connection: Any) -> tuple[type[BaseException], ...]:
    """The errors kombu raises if a broker is down or refuses; KeyError and OSError, listed for Redis, are excluded."""
    kinds = (ConnectionError, TimeoutError, *connection.connection_errors, *connection.channel_errors)
    return tuple(kind for kind in kinds if kind not in (KeyError, OSError))


def send(app: Celery, waiting: Iterable[Job]) -> list[int]:
    """Send a message for each job, in order.

    Returns:
        The ids of the jobs whose messages the broker accepted.

    Raises:
        UnreachableError, ResourceError: as `_connection` does; jobs already committed are sent later by a worker.
    """
    sent: list[int] = []
    with _connection(app) as connection:
        producer = app.amqp.Producer(connection)
        for job in waiting:
            app.send_task(TASK_NAME, args=[job.id], queue=Queue(job.lane), priority=job.priority, producer=producer)
            sent.append(job.id)
    return sent


def receive(app: Celery, lanes: Sequence[str], stop: threading.Event) -> Iterator[int]:
    """Yield the job ids in the lanes' messages as they arrive, until `stop` is set; retry during broker outages.

    No message is taken before the caller requests it. Foreign messages are logged and dropped.
    """
    attempt = 0
    while not stop.is_set():
        try:
            with _connection(app) as connection:
                for job_id in _listen(connection, lanes):
                    attempt = 0
                    if job_id is not None:
                        yield job_id
                    if stop.is_set():
                        return
        except AdapeffError as error:
            logger.warning("listening: %s", error)
        except Exception:
            logger.exception("listening: unexpected error, retrying")
        else:
            continue
        stop.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
        attempt += 1


def _listen(connection: Any, lanes: Sequence[str]) -> Iterator[int | None]:
    """Yield the job ids in the lanes' messages, and None after each second without one; end after a long silence.

    Ending ensures that a connection that broke unnoticed is soon replaced.
    """
    received: list[int] = []
    failures: tuple[type[BaseException], ...] = (OSError, *_broker_errors(connection))
    quiet_since = time.monotonic()
    with Consumer(
        connection,
        [Queue(lane) for lane in lanes],
        no_ack=True,
        auto_declare=False,
        accept=["json"],
        on_message=lambda message: received.append(_job_id(message)),
    ):
        while time.monotonic() - quiet_since < _QUIET_SECONDS:
            try:
                connection.drain_events(timeout=1)
            except TimeoutError:
                yield None
            except failures:
                raise
            except Exception as error:  # noqa: BLE001 - a foreign message may cause any error
                logger.warning("dropped a foreign message: %s: %s", type(error).__name__, first_line(error))
                return  # the connection may be broken; the caller opens a new one
            else:
                quiet_since = time.monotonic()  # before a run, so that a connection idle during one is not used again
                while received:
                    yield received.pop()


def _job_id(message: Any) -> int:
    (job_id,), *_ = message.decode()
    if message.headers.get("task") != TASK_NAME or type(job_id) is not int or not 0 < job_id < 2**63:
        raise ValueError(f"task {message.headers.get('task')!r}, arguments {job_id!r}"[:200])
    return job_id


def send_unsent(database: Database, app: Celery) -> int:
    """Send every committed job that has not been sent.

    Returns:
        Their number.

    Raises:
        UnreachableError: if the broker does not answer.
    """
    with database.session(read_only=True) as session:
        waiting = job_queries.list_unsent(session)
    if not waiting:
        return 0
    sent = send(app, waiting)
    with database.session() as session:
        jobs.mark_sent(session, sent)
    return len(sent)


def broker_problem(app: Celery) -> str:
    """Why the broker cannot be reached, or '' if it can."""
    try:
        with _connection(app):
            return ""
    except AdapeffError as error:
        return first_line(error.__cause__ or error)


def messages_waiting(app: Celery, lane: str) -> int:
    with _connection(app) as connection:
        declared = connection.default_channel.queue_declare(queue=lane, durable=True, auto_delete=False)
        return int(declared.message_count)
