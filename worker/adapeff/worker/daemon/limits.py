"""How long a worker works: for a time, for a number of jobs, or until the queue is empty."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from threading import Lock

from adapeff.service.errors import ConfigError
from adapeff.worker.daemon.supervisor import HAND_BACK_SECONDS

_DURATION = re.compile(r"(?=\d)(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")
_MARGIN_SECONDS = HAND_BACK_SECONDS + 10
_MARGIN_SHARE = 0.2


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `3h55m`, `90m` or `30s`.

    Raises:
        ConfigError: if it is not one, or is zero.
    """
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ConfigError(f"'{text}' is not a duration; expected hours, minutes and seconds such as 3h55m, 90m or 30s")
    return total


class Limits:
    """What a worker may still take; used by several threads."""

    def __init__(
        self,
        *,
        drain: bool = False,
        max_jobs: int | None = None,
        seconds: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            drain: whether to stop when the queue is empty.
            max_jobs: how many runs to start; None: any number.
            seconds: until when everything must have ended; None: for ever.
        """
        self.drain = drain
        self._left = max_jobs
        self._now = now
        self._end = None if seconds is None else now() + seconds - min(_MARGIN_SECONDS, _MARGIN_SHARE * seconds)
        self._lock = Lock()

    def take(self) -> bool:
        """Count a run; False if no more may start."""
        with self._lock:
            if self._left is not None:
                if self._left <= 0:
                    return False
                self._left -= 1
            return True

    def give_back(self) -> None:
        """Uncount a run that did not start."""
        with self._lock:
            if self._left is not None:
                self._left += 1

    @property
    def is_used_up(self) -> bool:
        """Whether no more runs may start."""
        with self._lock:
            return self._left is not None and self._left <= 0

    @property
    def seconds_left(self) -> float | None:
        """Until running jobs have to be handed back; None: for ever."""
        return None if self._end is None else max(0.0, self._end - self._now())

    def fits(self, estimate: float | None) -> bool:
        """Whether a job would end in time, judging by its estimated seconds; unknown ones may."""
        left = self.seconds_left
        return left is None or estimate is None or estimate <= left
