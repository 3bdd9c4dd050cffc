"""Clocks: named phases that never overlap, and the compute time of single steps.

All are monotonic. On a GPU a step is bracketed by device events that are read at logging points alone, so that timing
adds no synchronisation inside a step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch

_T = TypeVar("_T")


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
        """Replace a phase by its parts, added to what they have; what they leave over is nobody's."""
        del self.seconds[name]
        for part, seconds in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds

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


STEP_PHASES = ("forward", "backward", "optimizer")


class StepSeconds(NamedTuple):
    """Seconds of one training step, by what it spent them on."""

    forward: float
    """Forward pass and loss."""
    backward: float
    optimizer: float
    """Clipping, optimizer, scheduler, zero_grad."""

    @property
    def total(self) -> float:
        """The whole step."""
        return self.forward + self.backward + self.optimizer


class StepClock(Protocol):
    """Times single steps: `mark` at the start (its batch is on the device) and at the end of each phase."""

    def mark(self) -> None:
        """The start of a step, the end of its forward pass, of its backward pass, of the step: four marks a step."""

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call; waits for the device."""


class CpuStepClock:
    """Host clock at each mark: on a CPU the work is done when the call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """Read the clock."""
        self._marks.append(time.perf_counter())

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call."""
        marks, self._marks = self._marks, []
        return [StepSeconds(b - a, c - b, d - c) for a, b, c, d in batched_by_four(marks)]


class CudaStepClock:
    """Events in the device's stream, read when asked for: marking adds no synchronisation."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call, after one synchronisation."""
        torch.cuda.synchronize()
        events, self._events = self._events, []
        return [
            StepSeconds(a.elapsed_time(b) / 1000, b.elapsed_time(c) / 1000, c.elapsed_time(d) / 1000)
            for a, b, c, d in batched_by_four(events)
        ]


def batched_by_four(marks: Sequence[_T]) -> Iterator[tuple[_T, _T, _T, _T]]:
    """The four marks of each step."""
    return zip(marks[::4], marks[1::4], marks[2::4], marks[3::4], strict=True)


def step_clock(device: torch.device) -> StepClock:
    """The clock that fits the device."""
    return CudaStepClock() if device.type == "cuda" else CpuStepClock()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
