"""How a worker is asked to stop: by signals, by its parent's end, or by its time."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import IO, Any

from adapeff.worker.daemon.supervisor import STOP_SIGNALS

logger = logging.getLogger(__name__)


class Stopping:
    """Whether a worker is to stop, and how."""

    def __init__(self) -> None:
        self.finishing = threading.Event()
        """Take no new jobs."""
        self.handing_back = threading.Event()
        """Hand running jobs back, too."""
        self.running = 0
        """Slots that are in use."""

    def listen_to_signals(self) -> None:
        """Treat signals as requests to stop; those that the parent ignored (nohup) stay ignored.

        The first SIGINT: finish running jobs and take no new ones. The second, or SIGTERM, SIGHUP, SIGQUIT, SIGUSR1
        (what batch systems send before they end a job): hand running jobs back to the queue.
        """
        handlers = {signal.SIGINT: self._on_interrupt, **dict.fromkeys(STOP_SIGNALS, self.hand_back)}
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)

    def with_parent(self, parent: IO[bytes]) -> None:
        """Hand back running jobs and stop when `parent`, a pipe that another process keeps open, is closed."""

        def watch() -> None:
            while os.read(parent.fileno(), 1):  # unbuffered: the lock of a buffer would break the interpreter's exit
                pass
            self.hand_back()

        threading.Thread(target=watch, name="parent", daemon=True).start()

    def after(self, seconds: float | None) -> None:
        """Hand back running jobs and stop after some seconds; None: never."""
        if seconds is not None:
            timer = threading.Timer(seconds, self.hand_back)
            timer.daemon = True
            timer.start()

    def hand_back(self, *_: Any) -> None:
        """Hand back running jobs and stop."""
        if not self.handing_back.is_set() and self.running:
            logger.warning("handing running jobs back to the queue")
        self.handing_back.set()
        self.finishing.set()

    def _on_interrupt(self, *_: Any) -> None:
        if self.finishing.is_set():
            return self.hand_back()
        self.finishing.set()
        if self.running:
            jobs_running = "1 job" if self.running == 1 else f"{self.running} jobs"
            logger.warning("finishing %s; press Ctrl-C again to return to the queue now", jobs_running)
        return None
