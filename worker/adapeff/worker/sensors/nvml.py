"""What NVML reports of a GPU: energy, throttled clocks, other processes.

NVML is used only through its module, so that a recording can replace it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Lock, Thread
from typing import Any

from adapeff.worker.sensors.host import Sensor, Snapshot

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


class PowerIntegral:
    """Energy of a device that only reports its power: the trapezoids between the answers.

    Args:
        watts: reads the current power; None keeps the last value.
        now: seconds of a monotonic clock.
    """

    def __init__(self, watts: Callable[[], float | None], now: Callable[[], float] = time.perf_counter) -> None:
        self._watts = watts
        self._now = now
        self._lock = Lock()
        self._last = (now(), watts() or 0.0)
        self._joules = 0.0

    def read(self) -> float:
        """Joules since the beginning, up to now."""
        with self._lock:
            before, power_before = self._last
            moment, watts = self._now(), self._watts()
            power = power_before if watts is None else watts
            self._joules += (moment - before) * (power + power_before) / 2
            self._last = moment, power
            return self._joules

    def follow(self) -> None:
        """Poll every 50 ms for as long as the process lives."""
        _repeat(self.read, POWER_POLL_SECONDS)


def _repeat(do: Callable[[], object], every: float) -> None:
    def run() -> None:
        while True:
            time.sleep(every)
            do()

    Thread(target=run, daemon=True).start()


class NvmlSensor:
    """A GPU's counters and the host's; where the GPU has no energy counter, its power is polled.

    Args:
        nvml: the module pynvml or a recording of it.
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
        self._has_counter = False
        self._polled: PowerIntegral | None = None
        self._lock = Lock()
        self._polls, self._shared, self._throttled = 0, 0, Counter[str]()

    def read(self) -> Snapshot:
        """The GPU's and the host's counters."""
        self.poll()
        energy, reason = self._energy()
        with self._lock:
            polls, throttled, shared = self._polls, dict(self._throttled), self._shared
        return replace(
            self._host.read(),
            energy_j=energy,
            energy_reason=reason,
            polls=polls,
            throttled=throttled,
            shared=shared,
        )

    def poll(self) -> None:
        """Note whether clocks are throttled and whether other processes compute on the GPU."""
        bits = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons, self._device) or 0
        processes = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._device) or []
        with self._lock:
            self._polls += 1
            self._shared += len(processes) > 1
            self._throttled.update(name for bit, name in _THROTTLING.items() if bits & bit)

    def follow(self) -> None:
        """Poll every 0.25 s for as long as the process lives: `read` itself only sees idle moments between runs."""
        _repeat(self.poll, THROTTLE_POLL_SECONDS)

    def _energy(self) -> tuple[float | None, str]:
        if self._is_mig:
            return None, "the GPU is divided (MIG): its energy counter is shared by its instances"
        used = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._device)
        if used is not None:
            self._has_counter = True
            return used / 1000, ""
        if self._has_counter:  # power summed from here on would not continue the counter
            return None, "the GPU's energy counter stopped answering"
        if self._polled is None:
            if self._watts() is None:
                return None, "this GPU reports neither its energy nor its power"
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
