"""The memory a run takes: the allocator's peaks, and the process's own resident set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adapeff.service.measurements import PEAK_MEMORY_ALLOCATED, PEAK_MEMORY_PROCESS, PEAK_MEMORY_RESERVED
from adapeff.worker.devices.base import Device


class Memory:
    """Peaks since `start` or `restart`: the allocator's two where it keeps them, the process's resident set everywhere.

    The process figure is the high-water mark of resident memory above what was resident at the start. A child's
    `ru_maxrss` would inherit its parent's peak, so the kernel's VmHWM is read, after resetting it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._baseline = 0
        self._process = 0
        self._allocator = (0, 0)
        self._no_allocator = ""

    def start(self) -> None:
        """Start counting from the current resident memory."""
        self._baseline = _status("VmRSS") or 0
        self.restart()

    def restart(self) -> None:
        """Forget the peaks so far; what is allocated stays counted."""
        self._process, self._allocator = 0, (0, 0)
        self._reset()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude the memory used in the context."""
        self._poll()
        try:
            yield
        finally:
            self._reset()

    def _reset(self) -> None:
        self._device.reset_memory_peaks()
        with suppress(OSError):  # not allowed in some containers: the mark then counts from the process's start
            Path("/proc/self/clear_refs").write_text("5")

    def _poll(self) -> None:
        self._process = max(self._process, (_status("VmHWM") or 0) - self._baseline)
        peaks = self._device.memory_peaks()
        if isinstance(peaks, str):
            self._no_allocator = peaks
        else:
            allocated, reserved = self._allocator
            self._allocator = max(allocated, peaks[0]), max(reserved, peaks[1])

    def at_least(self, peaks: Sequence[int]) -> None:
        """Take the `reached` of an earlier part of the work into account."""
        self._process = max(self._process, peaks[0])
        self._allocator = max(self._allocator[0], peaks[1]), max(self._allocator[1], peaks[2])

    def reached(self) -> tuple[int, int, int]:
        """The peaks so far: the process's, then the allocator's two; 0 where there are none."""
        self._poll()
        return self._process, *self._allocator

    def peaks(self) -> dict[str, tuple[int | None, str]]:
        """Name -> (bytes or None, reason for None)."""
        self._poll()
        allocated, reserved = (None, None) if self._no_allocator else self._allocator
        return {
            PEAK_MEMORY_ALLOCATED.name: (allocated, self._no_allocator),
            PEAK_MEMORY_RESERVED.name: (reserved, self._no_allocator),
            PEAK_MEMORY_PROCESS.name: (
                (None, "no VmHWM on this system") if _status("VmHWM") is None else (self._process, "")
            ),
        }


def _status(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
