"""Sensors of the machine around a run: energy, throttling, and who else is at work.

One small interface, `Sensor`: what can be read at a moment. A host has its CPU's; where a GPU is used, NVML's is read
beside it. What a machine does not tell is None, with the reason. NVML is reached through its module alone, so that a
recording can stand in for it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Protocol

import torch

from adapeff.worker.sensors.control_group import throttled_seconds

RAPL = Path("/sys/class/powercap")
MAX_FOREIGN_CPU = 0.05
"""Share of the cores' time that others may use before a figure counts as disturbed."""
MAX_STEAL = 0.02
MAX_HELD_BACK = 0.01
MAX_SPREAD = 0.25
"""Interquartile range over median of step times."""
MAX_DRIFT = 0.05
"""Median of the second half over that of the first."""

POWER_POLL_SECONDS = 0.05
THROTTLE_POLL_SECONDS = 0.25

# Bits of nvmlClocksEventReasons that mean "slower than it could be" (NVML API reference, nvmlClocksEventReasons).
_THROTTLING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True)
class Reading:
    """What the sensors show at one moment; counters rise from an arbitrary start."""

    time_s: float
    own_cpu_s: float
    """CPU seconds of this process and the children it has waited for."""
    busy_cpu_s: float | None = None
    """CPU seconds of everybody on the cores this process may use."""
    stolen_cpu_s: float | None = None
    """Seconds those cores were taken by a hypervisor."""
    cores: int = 1
    held_back_s: float | None = None
    """Seconds in which the control group's CPU quota held its processes back."""
    energy_j: float | None = None
    energy_reason: str = ""
    """Why there is no energy."""
    looks: int = 0
    """How often the GPU was looked at so far; the two below say in how many of them something was wrong."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """By the reason of slower clocks."""
    shared: int = 0
    """Other processes computed on the GPU."""


class Sensor(Protocol):
    """What can be read of a machine."""

    def read(self) -> Reading:
        """The present state; takes well under a millisecond and waits for nothing."""


class HostSensor:
    """CPU time from the kernel, and the CPU packages' energy where RAPL may be read."""

    def __init__(self, stat: Path = Path("/proc/stat"), rapl: Path = RAPL) -> None:
        self._stat = stat
        self._packages = sorted(path for path in rapl.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._wrapped = dict.fromkeys(self._packages, 0)
        self._last: dict[Path, int] = {}

    def read(self) -> Reading:
        """The host's counters."""
        busy, stolen, cores = self._cpu()
        energy, reason = self._energy()
        times = os.times()
        return Reading(
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
        busy = sum(int(line[field]) for line in ours for field in (1, 2, 3, 6, 7))
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


class PowerIntegral:
    """Energy of a device that tells its power alone: the trapezoids between the answers.

    Args:
        watts: asks for the present power; None leaves it as it was.
        now: seconds of a monotonic clock.
    """

    def __init__(self, watts: Callable[[], float | None], now: Callable[[], float] = time.perf_counter) -> None:
        self._watts = watts
        self._now = now
        self._lock = Lock()
        self._last = (now(), watts() or 0.0)
        self._joules = 0.0

    def read(self) -> float:
        """Joules since the beginning; asks once more."""
        with self._lock:
            before, power_before = self._last
            moment, told = self._now(), self._watts()
            power = power_before if told is None else told
            self._joules += (moment - before) * (power + power_before) / 2
            self._last = moment, power
            return self._joules

    def follow(self) -> None:
        """Ask every 50 ms for as long as the process lives."""
        _repeat(self.read, POWER_POLL_SECONDS)


def _repeat(do: Callable[[], object], every: float) -> None:
    def run() -> None:
        while True:
            time.sleep(every)
            do()

    Thread(target=run, daemon=True).start()


class NvmlSensor:
    """A GPU's counters beside the host's; where it has no energy counter its power is polled.

    Args:
        nvml: the module pynvml, or what stands in for it.
        uuid: the GPU's (or MIG instance's) UUID.
        host: the host's sensor.
    """

    def __init__(self, nvml: Any, uuid: str, host: Sensor) -> None:
        self._nvml = nvml
        self._host = host
        nvml.nvmlInit()
        self._device = nvml.nvmlDeviceGetHandleByUUID(uuid)
        mode = self._ask(nvml.nvmlDeviceGetMigMode, self._device)
        self._is_mig = uuid.startswith("MIG-") or bool(mode and mode[0])
        self._polled: PowerIntegral | None = None
        self._lock = Lock()
        self._looks, self._shared, self._throttled = 0, 0, Counter[str]()

    def read(self) -> Reading:
        """The GPU's and the host's counters."""
        self.look()
        energy, reason = self._energy()
        with self._lock:
            looks, throttled, shared = self._looks, dict(self._throttled), self._shared
        return replace(
            self._host.read(),
            energy_j=energy,
            energy_reason=reason,
            looks=looks,
            throttled=throttled,
            shared=shared,
        )

    def look(self) -> None:
        """See whether clocks are throttled and whether others compute on the GPU."""
        bits = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons, self._device) or 0
        processes = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._device) or []
        with self._lock:
            self._looks += 1
            self._shared += len(processes) > 1
            self._throttled.update(name for bit, name in _THROTTLING.items() if bits & bit)

    def follow(self) -> None:
        """Look every quarter of a second for as long as the process lives: idle moments between runs tell nothing."""
        _repeat(self.look, THROTTLE_POLL_SECONDS)

    def _energy(self) -> tuple[float | None, str]:
        if self._is_mig:
            return None, "the GPU is divided (MIG): its energy counter is shared by its instances"
        used = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._device)
        if used is not None:
            return used / 1000, ""
        if self._polled is None:
            if self._watts() is None:
                return None, "this GPU tells neither its energy nor its power"
            self._polled = PowerIntegral(self._watts)
            self._polled.follow()
        return self._polled.read(), ""

    def _watts(self) -> float | None:
        milliwatts = self._ask(self._nvml.nvmlDeviceGetPowerUsage, self._device)
        return None if milliwatts is None else milliwatts / 1000

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        with suppress(self._nvml.NVMLError):
            return question(*arguments)
        return None


class ReplaySensor:
    """Gives readings that were recorded, one after the other."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = iter(readings)

    def read(self) -> Reading:
        """The next reading."""
        return next(self._readings)


def open_sensor(device: torch.device) -> Sensor:
    """The sensor for a run on a device; the host's alone where NVML does not answer."""
    host = HostSensor()
    if device.type != "cuda":
        return host
    try:
        import pynvml

        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        uuid = visible if visible.startswith(("GPU-", "MIG-")) else f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        sensor = NvmlSensor(pynvml, uuid, host)
        sensor.follow()
        return sensor
    except Exception as error:  # noqa: BLE001 - NVML raises its own types, and may be absent
        return _WithoutEnergy(host, f"NVML does not answer ({type(error).__name__}: {error})")


class _WithoutEnergy:
    """A host's sensor whose energy is not the device's."""

    def __init__(self, host: Sensor, reason: str) -> None:
        self._host = host
        self._reason = reason

    def read(self) -> Reading:
        """The host's reading without its energy."""
        return replace(self._host.read(), energy_j=None, energy_reason=self._reason)


@dataclass(frozen=True)
class Window:
    """What happened between two readings."""

    start: Reading
    end: Reading

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end.time_s - self.start.time_s

    @property
    def energy_j(self) -> float | None:
        """What the device took, its idle share included."""
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
        """Why figures of this window may be off, in words; empty if nothing is known against them."""
        found = []
        if (share := self.foreign_cpu) is not None and share > MAX_FOREIGN_CPU:
            found.append(f"other processes used {share:.0%} of the cores")
        if (share := self.steal) is not None and share > MAX_STEAL:
            found.append(f"the hypervisor took {share:.0%} of the cores")
        if (share := self.held_back) is not None and share > MAX_HELD_BACK:
            found.append(f"a CPU quota held this process back for {min(share, 1):.0%} of the time")
        looks = self.end.looks - self.start.looks
        for name, times in self.end.throttled.items():
            if since := times - self.start.throttled.get(name, 0):
                found.append(f"clocks throttled ({name}) in {since / looks:.0%} of {looks} looks")
        if shared := self.end.shared - self.start.shared:
            found.append(f"other processes computed on the device in {shared / looks:.0%} of {looks} looks")
        return found


def idle_window(sensor: Sensor, seconds: float = 2.0) -> Window | None:
    """Some seconds in which this process does nothing; None where there is no energy to be read."""
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
    found = []
    if spread > MAX_SPREAD:
        found.append(f"samples spread by {spread:.0%} (interquartile)")
    if abs(late / early - 1) > MAX_DRIFT:
        found.append(f"samples drifted by {late / early - 1:+.0%}")
    return found
