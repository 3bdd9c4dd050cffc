"""Clocks: named phases that never overlap, and the compute time of single steps.

All are monotonic. On a GPU a step is bracketed by device events that are read at logging points alone, so that timing
adds no synchronisation inside a step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch


class PhaseClock:
    """Adds up the seconds of named phases; a phase inside another one interrupts it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._mark = time.perf_counter()
        self._began = self._mark - _process_age()
        self.seconds["startup"] = self._mark - self._began

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to `name`."""
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
        """Replace a phase by its parts; what they leave over becomes `logging`."""
        total = self.seconds.pop(name, 0.0)
        for part, seconds in parts.items():
            self.seconds[part] = seconds
        self.seconds["logging"] = max(0.0, total - sum(parts.values()))

    def wall(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self._began


def _process_age() -> float:
    """Seconds since this process was created, by the kernel's clock (resolution 10 ms); 0 where unknown."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


class StepClock(Protocol):
    """Times single steps."""

    def start(self) -> None:
        """Mark the start of a step: its batch is on the device."""

    def stop(self) -> None:
        """Mark the end of a step: gradients are zeroed."""

    def collect(self) -> list[float]:
        """Seconds of the steps since the last call; waits for the device."""


class CpuStepClock:
    """Host clock around each step: on a CPU the work is done when the call returns."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._started = 0.0

    def start(self) -> None:
        """Mark the start of a step."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Mark the end of a step."""
        self._samples.append(time.perf_counter() - self._started)

    def collect(self) -> list[float]:
        """Seconds of the steps since the last call."""
        samples, self._samples = self._samples, []
        return samples


class CudaStepClock:
    """Device events around each step, read when asked for."""

    def __init__(self) -> None:
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Record the start of a step in the device's stream."""
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        self._pairs.append(pair)
        pair[0].record()

    def stop(self) -> None:
        """Record the end of a step in the device's stream."""
        self._pairs[-1][1].record()

    def collect(self) -> list[float]:
        """Seconds of the steps since the last call, after one synchronisation."""
        torch.cuda.synchronize()
        samples = [start.elapsed_time(stop) / 1000 for start, stop in self._pairs]
        self._pairs = []
        return samples


def step_clock(device: torch.device) -> StepClock:
    """The clock that fits the device."""
    return CudaStepClock() if device.type == "cuda" else CpuStepClock()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
