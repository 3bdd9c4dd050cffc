"""Time a run's named phases, which never overlap, and single actions on a device. All clocks are monotonic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adapeff.service import measurements as m
from adapeff.worker.devices.base import Device
from adapeff.worker.events import EventLog


class PhaseClock:
    """Accumulates the seconds of named phases; a nested phase pauses the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._mark = time.perf_counter()
        self._began = self._mark - _process_age()
        self.seconds["startup"] = self._mark - self._began

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to phase `name`."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._mark
        self._mark = now

    def split(self, name: str, parts: dict[str, float]) -> None:
        """Replace a phase by its parts, added to their existing seconds; any remainder is unattributed."""
        del self.seconds[name]
        for part, seconds in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def add(self, seconds: Mapping[str, float], wall: float) -> None:
        """Add the phases and the wall time of an earlier part of the work."""
        for phase, spent in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        self._began -= wall

    def wall(self) -> float:
        """Seconds since the process was started, and of earlier parts of the work."""
        return time.perf_counter() - self._began


def _process_age() -> float:
    """Seconds since this process was created, by the kernel's clock (resolution 10 ms); 0 where unknown."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


def timed(action: Callable[[], object], device: Device) -> float:
    """Time an action in seconds; the device is idle before and after it."""
    device.synchronize()
    start = time.perf_counter()
    action()
    device.synchronize()
    return time.perf_counter() - start


def log_phases(log: EventLog, clock: PhaseClock) -> None:
    """Write the seconds of every phase of a run; what no phase covers is `unattributed`."""
    wall = clock.wall()
    for name, seconds in clock.seconds.items():
        log.measure(m.PHASE_S, seconds, phase=name)
    log.measure(m.PHASE_S, max(0.0, wall - sum(clock.seconds.values())), phase="unattributed")
    log.measure(m.WALL_S, wall)
