"""A GPU that is not there: what CUDA and NVML answer, so that the CUDA backend's own logic runs on any machine.

Tensors stay on the CPU. Events complete only when the device is synchronised, in any order; memory is a ledger with a
limit; NVML may be absent, fail from the start, or die in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from adapeff.worker.devices.cuda import Cuda

GIB = 2**30


class FakeEvent:
    """An event of a stream: it has a time once it was recorded, and may be read once the device has got there."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        self._at_ms: float | None = None
        self.is_complete = False

    def record(self) -> None:
        """Queue the event; it completes at the next synchronisation."""
        self._at_ms = self._runtime.next_event_ms()
        self._runtime.queued.append(self)

    def elapsed_time(self, end: FakeEvent) -> float:
        """Milliseconds to another event, as CUDA gives them: only once both have completed."""
        if not (self.is_complete and end.is_complete):
            raise RuntimeError("CUDA error: device not ready")
        assert self._at_ms is not None and end._at_ms is not None
        return end._at_ms - self._at_ms


@dataclass
class FakeRuntime:
    """What stands in for `torch.cuda`.

    Args:
        event_times_ms: when the events complete, in the order in which they are recorded.
    """

    event_times_ms: Sequence[float] = ()
    total_memory: int = 8 * GIB
    bf16: bool = True
    available: bool = True
    uuid: str = "aa-1"
    allocated: int = 0
    peak: int = 0
    fraction: float = 1.0
    synchronisations: int = 0
    queued: list[FakeEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._times = iter(self.event_times_ms)

    def next_event_ms(self) -> float:
        """When the next recorded event completes."""
        return next(self._times)

    def is_available(self) -> bool:
        """Whether there is a GPU."""
        return self.available

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        """Emulation supports it always."""
        return self.bf16 or including_emulation

    def Event(self, enable_timing: bool = False) -> FakeEvent:  # noqa: N802 - CUDA's name
        """A new event."""
        assert enable_timing
        return FakeEvent(self)

    def synchronize(self) -> None:
        """Complete all events, the last first: their order must not matter to whoever reads them."""
        self.synchronisations += 1
        for event in reversed(self.queued):
            event.is_complete = True
        self.queued.clear()

    def get_device_properties(self, index: int) -> Any:
        """The GPU's properties."""
        return SimpleNamespace(uuid=self.uuid, total_memory=self.total_memory, major=9, minor=0)

    def get_device_name(self, index: int) -> str:
        """The GPU's name."""
        return "Fake H100"

    def allocate(self, size: int) -> None:
        """Take memory, or fail as the caching allocator does."""
        if self.allocated + size > self.total_memory * self.fraction:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def free(self, size: int) -> None:
        """Give memory back."""
        self.allocated -= size

    def mem_get_info(self) -> tuple[int, int]:
        """Free and total bytes."""
        return self.total_memory - self.allocated, self.total_memory

    def set_per_process_memory_fraction(self, fraction: float) -> None:
        """Limit the allocator."""
        self.fraction = fraction

    def reset_peak_memory_stats(self) -> None:
        """Count peaks from what is allocated."""
        self.peak = self.allocated

    def max_memory_allocated(self) -> int:
        """The peak."""
        return self.peak

    def max_memory_reserved(self) -> int:
        """The allocator reserves whole mebibytes."""
        return -(-self.peak // 2**20) * 2**20


class NVMLError(Exception):
    """What pynvml raises for a question a device does not answer."""


@dataclass
class FakeNvml:
    """What stands in for the module pynvml: energy in mJ, power in mW, clock reasons as bits.

    Args:
        energy: answers of the energy counter; after the last one it fails.
        uuids: of the host's GPUs.
    """

    energy: list[int] = field(default_factory=list)
    power: int | None = None
    throttle: int = 0
    processes: int = 1
    divided: bool = False
    uuids: Sequence[str] = ("GPU-aa-1",)
    is_gone: bool = False
    """Every call fails, as after the driver was unloaded."""
    NVMLError: type[Exception] = NVMLError

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and object.__getattribute__(self, "is_gone"):
            raise NVMLError("driver not loaded")
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names, here and below
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetName(self, handle: str) -> bytes:  # noqa: N802
        return b"Fake H100"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.energy:
            raise NVMLError("not supported")
        return self.energy.pop(0)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if self.power is None:
            raise NVMLError("not supported")
        return self.power

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return self.throttle

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:  # noqa: N802
        return [object()] * self.processes

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        return int(self.divided), int(self.divided)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:  # noqa: N802
        if index == 1:
            raise NVMLError("not found")
        return f"MIG-{index}"


class FakeCuda(Cuda):
    """The CUDA backend over a GPU that is not there."""

    def __init__(self, runtime: FakeRuntime | None = None, nvml: FakeNvml | None = None) -> None:
        self.runtime = runtime or FakeRuntime(event_times_ms=range(1000))
        self.nvml = nvml or FakeNvml(energy=list(range(0, 1_000_000, 1000)))
        super().__init__(self.runtime, self.nvml)

    @property
    def torch_device(self) -> torch.device:
        """Tensors stay where they can be."""
        return torch.device("cpu")
