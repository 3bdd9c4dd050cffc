"""Time between two snapshots of a sensor: its energy, and disturbances of the figures measured in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from adapeff.worker.sensors.host import Sensor, Snapshot

MAX_FOREIGN_CPU = 0.05
"""Share of the cores' time that others may use before a figure counts as disturbed."""
MAX_STEAL = 0.02
MAX_HELD_BACK = 0.01
MAX_SPREAD = 0.25
"""Interquartile range over median of step times."""
MAX_DRIFT = 0.05
"""Median of the second half over that of the first."""


@dataclass(frozen=True)
class Window:
    """The time between two snapshots."""

    start: Snapshot
    end: Snapshot

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The window whose fields `dataclasses.asdict` gave."""
        return cls(Snapshot(**facts["start"]), Snapshot(**facts["end"]))

    def after(self, earlier: Window | None) -> Window:
        """This window and an earlier one of the same work as one: times and counters add up, the gap does not count."""
        if earlier is None:
            return self

        def added(name: str) -> Any:
            ends = getattr(self.end, name), getattr(earlier.end, name), getattr(earlier.start, name)
            return None if None in ends else ends[0] + ends[1] - ends[2]

        before = (earlier.start.throttled, earlier.end.throttled)
        names = {*before[0], *before[1], *self.end.throttled}
        throttled = {
            name: self.end.throttled.get(name, 0) + before[1].get(name, 0) - before[0].get(name, 0) for name in names
        }
        counters = ("time_s", "own_cpu_s", "busy_cpu_s", "stolen_cpu_s", "held_back_s", "energy_j", "polls", "shared")
        return Window(self.start, replace(self.end, **{name: added(name) for name in counters}, throttled=throttled))

    @property
    def seconds(self) -> float:
        """Length of the window in seconds."""
        return self.end.time_s - self.start.time_s

    @property
    def energy_j(self) -> float | None:
        """What the device used, its idle share included."""
        if self.start.energy_j is None or self.end.energy_j is None:
            return None
        return self.end.energy_j - self.start.energy_j

    @property
    def foreign_cpu(self) -> float | None:
        """Share of the cores' time that other processes used, 0..1."""
        if self.start.busy_cpu_s is None or self.end.busy_cpu_s is None or self.seconds <= 0:
            return None
        foreign = self.end.busy_cpu_s - self.start.busy_cpu_s - (self.end.own_cpu_s - self.start.own_cpu_s)
        return max(0.0, foreign) / (self.seconds * self.start.cores)

    @property
    def steal(self) -> float | None:
        """Share of the cores' time that a hypervisor took, 0..1."""
        if self.start.stolen_cpu_s is None or self.end.stolen_cpu_s is None or self.seconds <= 0:
            return None
        return (self.end.stolen_cpu_s - self.start.stolen_cpu_s) / (self.seconds * self.start.cores)

    @property
    def held_back(self) -> float | None:
        """Share of the time in which a CPU quota held processes of the control group back, 0..1."""
        if self.start.held_back_s is None or self.end.held_back_s is None or self.seconds <= 0:
            return None
        return (self.end.held_back_s - self.start.held_back_s) / self.seconds

    def problems(self) -> list[str]:
        """Reasons why figures of this window may be unreliable; empty if none are known."""
        problems = []
        if (share := self.foreign_cpu) is not None and share > MAX_FOREIGN_CPU:
            problems.append(f"other processes used {share:.0%} of the cores")
        if (share := self.steal) is not None and share > MAX_STEAL:
            problems.append(f"the hypervisor took {share:.0%} of the cores")
        if (share := self.held_back) is not None and share > MAX_HELD_BACK:
            problems.append(f"a CPU quota held this process back for {min(share, 1):.0%} of the time")
        polls = self.end.polls - self.start.polls
        for name, times in self.end.throttled.items():
            if since := times - self.start.throttled.get(name, 0):
                problems.append(f"clocks throttled ({name}) in {since / polls:.0%} of {polls} polls")
        if shared := self.end.shared - self.start.shared:
            problems.append(f"other processes computed on the device in {shared / polls:.0%} of {polls} polls")
        return problems


def idle_window(sensor: Sensor, seconds: float = 2.0) -> Window | None:
    """Measure a few idle seconds of this process; None if the energy is unknown."""
    start = sensor.read()
    if start.energy_j is None:
        return None
    time.sleep(seconds)
    return Window(start, sensor.read())


def energy_above_idle(window: Window, idle: Window | None) -> tuple[float | None, str]:
    """Joules of a window less what the device takes when idle, or None and why.

    Args:
        idle: a window in which the device did nothing.
    """
    used = window.energy_j
    if used is None:
        return None, window.end.energy_reason or window.start.energy_reason or "no energy counter"
    if idle is None or idle.energy_j is None or idle.seconds <= 0:
        return None, "the device's idle power was not measured"
    return used - idle.energy_j / idle.seconds * window.seconds, ""


def sample_problems(samples: Sequence[float]) -> list[str]:
    """What the samples themselves say against their median: too wide a spread, or a drift from half to half."""
    if len(samples) < 8:
        return []
    ordered = sorted(samples)
    middle = ordered[len(ordered) // 2]
    spread = (ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]) / middle
    half = len(samples) // 2
    early, late = (sorted(part)[len(part) // 2] for part in (samples[:half], samples[half:]))
    problems = []
    if spread > MAX_SPREAD:
        problems.append(f"samples spread by {spread:.0%} (interquartile)")
    if abs(late / early - 1) > MAX_DRIFT:
        problems.append(f"samples drifted by {late / early - 1:+.0%}")
    return problems
