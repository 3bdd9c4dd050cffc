"""Accelerators that need nothing special beyond `torch.accelerator`: Intel GPUs (XPU) and Apple's (MPS).

They are chosen by name only, never by `any` or `auto`: the project's tests have not run on them yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from adapeff.worker.devices.base import Device, LatencyGrid, Place
from adapeff.worker.devices.step_clocks import EventStepClock, StepClock, SynchronizedStepClock

_COUNT = """
import json, torch
current = torch.accelerator.current_accelerator()
print(json.dumps([current.type, torch.accelerator.device_count()] if current else ["", 0]))
"""


class Accelerator(Device):
    """The accelerator that torch was built for.

    Args:
        name: the type torch gives it.
        visible: the environment variable that restricts a process to some of several devices; '' if there is none.
        has_timed_events: whether `torch.Event` records times on it.
        runtime: replaces `torch.accelerator`, for tests.
    """

    shape_multiple = 8
    latency_grid = LatencyGrid(batches=(1, 8, 32), lengths=(16, 32, 64, 128, 256, 512))
    peak_matmul_size = 4096
    peak_copy_floats = 2**27

    def __init__(self, name: str, *, visible: str = "", has_timed_events: bool = True, runtime: Any = None) -> None:
        self.name = name
        self.absent = f"no {name} device that torch could use"
        self._visible = visible
        self._has_timed_events = has_timed_events
        self._given_runtime = runtime

    @property
    def _runtime(self) -> Any:
        return self._given_runtime or import_module("torch.accelerator")

    def places(self, cores_per_slot: int) -> Sequence[Place]:
        """One place per device, counted by a separate process: importing torch would slow the worker."""
        try:
            done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, timeout=120)
            kind, count = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return []
        count = count if self._visible else min(count, 1)
        return [Place(locks=(f"{self.name}-{i}",), device_id=str(i)) for i in range(count if kind == self.name else 0)]

    def visibility(self, device_id: str | None) -> Mapping[str, str]:
        """The backend's variable, if it has one; it has no value that hides all devices."""
        return {self._visible: device_id} if self._visible and device_id is not None else {}

    def is_available(self) -> bool:
        """Whether it is the accelerator that torch uses here."""
        if not self._runtime.is_available():
            return False
        return bool(self._runtime.current_accelerator().type == self.name)

    def identity(self) -> str:
        """All runs on such devices share one lock; slots also lock single devices."""
        return self.name

    def prepare(self, *, cpu_threads: int) -> None:
        """Nothing to set."""

    def synchronize(self) -> None:
        """Wait for the current device."""
        self._runtime.synchronize()

    def step_clock(self) -> StepClock:
        """Events where they record times, else the host's clock after a synchronisation."""
        if not self._has_timed_events:
            return SynchronizedStepClock(self.synchronize)
        import torch

        return EventStepClock(lambda: torch.Event(self.name, enable_timing=True), self.synchronize)

    def environment(self) -> dict[str, Any]:
        """The type; torch has no product name for some of them."""
        return {"device_name": self.name}

    def computes_bf16(self) -> bool:
        """Unknown, so `auto` stays fp32."""
        return False

    def available_memory(self) -> int:
        """What the device has free, if torch knows, else half of what the host has available."""
        import psutil

        try:
            return int(self._runtime.get_memory_info()[0])
        except (RuntimeError, AttributeError, NotImplementedError):
            return int(psutil.virtual_memory().available // 2)

    def limit_memory(self, limit: int, *, data_before: int) -> None:
        """Set the share of memory its own module allows, where it has such a setting."""
        module = import_module(f"torch.{self.name}")
        if hasattr(module, "set_per_process_memory_fraction"):
            _, total = self._runtime.get_memory_info()
            module.set_per_process_memory_fraction(min(1.0, limit / total))

    def reset_memory_peaks(self) -> None:
        """Reset the peaks, where the allocator keeps them."""
        if not isinstance(self.memory_peaks(), str):
            self._runtime.reset_peak_memory_stats()

    def memory_peaks(self) -> tuple[int, int] | str:
        """Of torch's allocator, where it keeps statistics."""
        try:
            return int(self._runtime.max_memory_allocated()), int(self._runtime.max_memory_reserved())
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            return f"torch keeps no allocator statistics on {self.name} ({type(error).__name__})"

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether it is torch's own error, or has such a message (MPS raises a plain RuntimeError)."""
        return super().is_out_of_memory(error) or "out of memory" in str(error)
