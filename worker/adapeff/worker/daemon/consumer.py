"""Turn messages into runs: a free slot listens to the queue and tries the job of the next message.

No message is prefetched: a busy slot keeps none from other workers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from sqlalchemy.orm import Session

from adapeff.service.broker.queue import make_app, receive, send_unsent
from adapeff.service.broker.reconciler import Reconciler
from adapeff.service.errors import AdapeffError
from adapeff.service.settings import Settings
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.limits import Limits
from adapeff.worker.daemon.slots import Slot
from adapeff.worker.daemon.worker import Worker

logger = logging.getLogger(__name__)


class Consumer(Worker):
    """A worker that takes its jobs from the queue."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        slots: Sequence[Slot],
        fork_server: ForkServer | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(settings, database, slots, fork_server, limits)
        self._app = make_app(settings)
        self._job_ids = receive(self._app, self.lanes, self.stopping.finishing)
        self._listening = threading.Lock()

    def serve(self) -> None:
        """Run jobs until a signal or a limit stops it."""
        stop_reconciler = threading.Event()
        reconciler = Reconciler(self._database, self._app, self._settings, stop_reconciler, worker=self.record)
        self.stopping.listen_to_signals()
        self.stopping.after(self.limits.seconds_left)
        if self._fork_server is not None:
            self._fork_server.launch()
        self.adopt_finished()
        reconciler.start()
        logger.info("worker %s is ready", self.name, extra={"action": "worker_ready"})
        try:
            with ThreadPoolExecutor(self.size) as threads:
                try:
                    for slot in as_completed([threads.submit(self._serve_slot) for _ in range(self.size)]):
                        slot.result()
                finally:
                    self.stopping.finishing.set()
        finally:
            stop_reconciler.set()
            reconciler.join(40)
        self.on_released()
        logger.info("worker %s has stopped", self.name)

    def _serve_slot(self) -> None:
        if self.limits.drain:
            self._serve_until_empty(None)
            return
        while not self.stopping.finishing.is_set():
            with self._listening:
                job_id = next(self._job_ids, None)
            if job_id is not None:
                self.handle(job_id)

    def choose(self, session: Session, job_id: int) -> int | None:
        """The most urgent job rather than the message's: messages keep neither priorities nor who was first."""
        excluded = [other for other in self.excluded if self.host_faults.excludes(other) or other in self._too_long]
        while (found := job_queries.find_most_urgent(session, self.lanes, but=excluded)) is not None:
            if self.ends_in_time(session, found):
                return found
            excluded.append(found)
        return None if job_id in excluded else job_id

    def on_released(self) -> None:
        """Send the jobs handed back to other workers; if that fails, their reconcilers will find them."""
        try:
            send_unsent(self._database, self._app)
        except AdapeffError as error:
            logger.warning("%s; released jobs wait for another worker to find them", error)
