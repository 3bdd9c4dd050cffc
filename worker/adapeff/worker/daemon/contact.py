"""A run's contact with the database while it is supervised."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from adapeff.service.errors import ResourceError, UnreachableError
from adapeff.service.settings import Settings
from adapeff.service.store import jobs
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import Claim

logger = logging.getLogger(__name__)


class Contact:
    """A run's contact with the database: survives an outage, but not the loss of its lease."""

    def __init__(self, database: Database, settings: Settings, claim: Claim, handing_back: threading.Event) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._handing_back = handing_back
        self._renewed = time.monotonic()

    def heartbeat(self, stage: str, progress: Mapping[str, Any]) -> bool:
        """Store the progress, and renew the lease when that is due; an unreachable database is only logged."""
        try:
            with self._database.session() as session:
                is_due = time.monotonic() - self._renewed >= self._settings.heartbeat_seconds
                lease = self._settings.lease_seconds if is_due else None
                cancelled = jobs.heartbeat(session, self._claim, lease_seconds=lease, stage=stage, progress=progress)
            if is_due:
                self._renewed = time.monotonic()
            return cancelled
        except (UnreachableError, ResourceError) as error:
            logger.warning("job %s: heartbeat failed: %s", self._claim.job_id, error, extra=self._claim.ids)
            return False

    def must_hand_back(self) -> bool:
        """Whether the worker is stopping immediately."""
        return self._handing_back.is_set()
