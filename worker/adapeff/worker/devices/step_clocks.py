"""The compute time of single training steps.

On an asynchronous device a step is bracketed by device events that are read at logging points only, so that timing adds
no synchronisation inside a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

_T = TypeVar("_T")

STEP_PHASES = ("forward", "backward", "optimizer")


class StepSeconds(NamedTuple):
    """Seconds of one training step, by phase."""

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


class HostStepClock:
    """Host clock at each mark: for devices whose calls return when the work is done."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """Read the clock."""
        self._marks.append(time.perf_counter())

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call."""
        marks, self._marks = self._marks, []
        return [StepSeconds(b - a, c - b, d - c) for a, b, c, d in _four_by_four(marks)]


class SynchronizedStepClock:
    """Host clock after a synchronisation at each mark: for devices that have no timed events."""

    def __init__(self, synchronize: Callable[[], object]) -> None:
        self._synchronize = synchronize
        self._host = HostStepClock()

    def mark(self) -> None:
        """Wait for the device and read the clock."""
        self._synchronize()
        self._host.mark()

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call."""
        return self._host.collect()


class Event(Protocol):
    """A point in a device's stream of work."""

    def record(self) -> Any:
        """Put the event behind the work queued so far."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to another; both must have completed."""


class EventStepClock:
    """Events in the device's stream, read only on request: marking adds no synchronisation.

    Args:
        make_event: makes an event that records its time.
        synchronize: waits until all events have completed.
    """

    def __init__(self, make_event: Callable[[], Event], synchronize: Callable[[], object]) -> None:
        self._make_event = make_event
        self._synchronize = synchronize
        self._events: list[Event] = []

    def mark(self) -> None:
        """Record an event."""
        event = self._make_event()
        event.record()
        self._events.append(event)

    def collect(self) -> list[StepSeconds]:
        """The steps since the last call, after one synchronisation."""
        self._synchronize()
        events, self._events = self._events, []
        return [
            StepSeconds(a.elapsed_time(b) / 1000, b.elapsed_time(c) / 1000, c.elapsed_time(d) / 1000)
            for a, b, c, d in _four_by_four(events)
        ]


def _four_by_four(marks: Sequence[_T]) -> Iterator[tuple[_T, _T, _T, _T]]:
    """The four marks of each step.

    Raises:
        ValueError: if a step lacks marks.
    """
    return zip(marks[::4], marks[1::4], marks[2::4], marks[3::4], strict=True)
