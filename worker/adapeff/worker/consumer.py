"""Turn messages into runs: the only file of the worker that knows Celery."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from celery.worker import WorkController
from celery.worker import state as celery_state

from adapeff.service.database import Database
from adapeff.service.errors import AdapeffError
from adapeff.service.queue import TASK_NAME, Reconciler, make_app, send_unsent
from adapeff.service.settings import Settings
from adapeff.worker.daemon import Worker
from adapeff.worker.slots import Slot

logger = logging.getLogger(__name__)


class Consumer(Worker):
    """A worker that is told by messages which jobs to try."""

    def __init__(self, settings: Settings, database: Database, slots: Sequence[Slot]) -> None:
        super().__init__(settings, database, slots)
        self._app = make_app(settings)
        self._app.task(name=TASK_NAME, bind=False)(self.handle)

    def serve(self) -> None:
        """Work until a signal says stop."""
        stop_reconciler = threading.Event()
        reconciler = Reconciler(self._database, self._app, self._settings, stop_reconciler)
        controller = WorkController(
            app=self._app,
            hostname=self.name,
            pool_cls="threads",
            concurrency=self.size,
            queues=list(self.lanes),
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self.listen_to_signals()
        self.adopt_finished()
        reconciler.start()
        logger.info("worker %s is ready", self.name, extra={"action": "worker_ready"})
        try:
            controller.start()
        finally:
            self.stop_taking()
            stop_reconciler.set()
            reconciler.join(5)
        self.on_released()
        logger.info("worker %s has stopped", self.name)

    def stop_taking(self) -> None:
        """Take nothing new any more."""
        super().stop_taking()
        celery_state.should_stop = os.EX_OK

    def on_released(self) -> None:
        """Wake other workers for what this one handed back; failing that, their reconcilers will find it."""
        try:
            send_unsent(self._database, self._app)
        except AdapeffError as error:
            logger.warning("%s; released jobs wait for the next worker", error)
