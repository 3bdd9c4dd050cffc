"""What a host's sensors show: CPU time from the kernel, and the CPU packages' energy where RAPL may be read.

`Sensor` is the one interface: a device's own counters come through it together with the host's. What a machine does not
report is None, with the reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from adapeff.worker.sensors.control_group import throttled_seconds

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Snapshot:
    """What the sensors show at one moment; counters rise from an arbitrary start."""

    time_s: float
    own_cpu_s: float
    """CPU seconds of this process and the children it has waited for."""
    busy_cpu_s: float | None = None
    """CPU seconds of all processes on the cores this process may use."""
    stolen_cpu_s: float | None = None
    """Seconds those cores were taken by a hypervisor."""
    cores: int = 1
    held_back_s: float | None = None
    """Seconds in which the control group's CPU quota held its processes back."""
    energy_j: float | None = None
    energy_reason: str = ""
    """Reason why the energy is unknown."""
    polls: int = 0
    """How often the GPU was polled so far; the next two say in how many polls something was wrong."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """By the reason of slower clocks."""
    shared: int = 0
    """Other processes computed on the GPU."""


class Sensor(Protocol):
    """What can be read of a machine."""

    def read(self) -> Snapshot:
        """Take a snapshot; returns in well under a millisecond without blocking."""


class HostSensor:
    """CPU time from the kernel, and the CPU packages' energy where RAPL may be read."""

    def __init__(self, stat: Path = Path("/proc/stat"), rapl: Path = RAPL) -> None:
        self._stat = stat
        self._packages = sorted(path for path in rapl.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._wrapped = dict.fromkeys(self._packages, 0)
        self._last: dict[Path, int] = {}

    def read(self) -> Snapshot:
        """The host's counters."""
        busy, stolen, cores = self._cpu()
        energy, reason = self._energy()
        times = os.times()
        return Snapshot(
            time_s=time.perf_counter(),
            own_cpu_s=times.user + times.system + times.children_user + times.children_system,
            busy_cpu_s=busy,
            stolen_cpu_s=stolen,
            cores=cores,
            held_back_s=throttled_seconds(),
            energy_j=energy,
            energy_reason=reason,
        )

    def _cpu(self) -> tuple[float | None, float | None, int]:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines()]
        except OSError:
            return None, None, len(allowed)
        tick = 1 / os.sysconf("SC_CLK_TCK")
        # user nice system idle iowait irq softirq steal (proc_stat(5)); guest time is in user already
        ours = [line for line in lines if line and line[0][3:].isdigit() and int(line[0][3:]) in allowed]
        busy = sum(int(line[column]) for line in ours for column in (1, 2, 3, 6, 7))
        stolen = sum(int(line[8]) for line in ours if len(line) > 8)
        return busy * tick, stolen * tick, len(allowed)

    def _energy(self) -> tuple[float | None, str]:
        if not self._packages:
            return None, "no energy counter: RAPL is not on this machine"
        total = 0
        for package in self._packages:
            try:
                now = int((package / "energy_uj").read_text())
                if now < self._last.get(package, 0):
                    self._wrapped[package] += int((package / "max_energy_range_uj").read_text())
            except OSError as error:
                return None, f"RAPL cannot be read: {error.strerror} ({package.name})"
            self._last[package] = now
            total += now + self._wrapped[package]
        return total / 1e6, ""


class WithoutEnergy:
    """A host's sensor whose energy is not the device's."""

    def __init__(self, host: Sensor, reason: str) -> None:
        self._host = host
        self._reason = reason

    def read(self) -> Snapshot:
        """The host's counters without its energy."""
        return replace(self._host.read(), energy_j=None, energy_reason=self._reason)
