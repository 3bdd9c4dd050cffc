"""What a device backend provides: everything in which one kind of device differs from another.

Callers never check the kind of device: they call its backend. A backend is one file with a subclass of
`Device`, registered under entry point group `adapeff.devices`. Submitting a job reads the registry, so backends must be
importable without torch: they import it inside their methods.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapeff.worker.devices.step_clocks import StepClock
from adapeff.worker.sensors.host import HostSensor, Sensor

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """One slot's share of a host: an accelerator, or a set of CPU cores."""

    locks: tuple[str, ...]
    """Lock names, which identify the hardware and do not depend on its number in this process."""
    device_id: str = ""
    """The accelerator, as its visibility variable takes it."""
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class LatencyGrid:
    """The shapes whose latency a profile measures by default."""

    batches: tuple[int, ...]
    lengths: tuple[int, ...]


class Device(ABC):
    """A kind of device that runs can use; one process uses one device of that kind, the first that is visible."""

    name: str
    """As in `device: cpu`; also the device type that torch knows."""
    is_automatic: ClassVar[bool] = False
    """Whether `device: any` and `--devices auto` may choose it, where it is available."""
    absent: str
    """What this host lacks if it has no such device; completes "this host has ..."."""
    is_asynchronous: ClassVar[bool] = True
    """Whether calls return before the device has done the work."""
    shape_multiple: ClassVar[int] = 1
    """Lengths of batches are padded to a multiple of this."""
    latency_grid: ClassVar[LatencyGrid]
    peak_matmul_size: ClassVar[int]
    """Rows of the square matrices whose product measures the device's peak FLOP/s."""
    peak_copy_floats: ClassVar[int]
    """Floats in the tensor whose copy measures the device's peak bandwidth."""
    signals_out_of_memory: ClassVar[bool] = True
    """Whether running out of memory raises a specific error; otherwise any failure under a limit may be one."""

    # The host: none of these may import torch, because the daemon calls them.

    @abstractmethod
    def places(self, cores_per_slot: int) -> Sequence[Place]:
        """The places this host offers to a worker, in the order of their numbers; empty if it has no such device.

        Raises:
            ConfigError: if the host has fewer cores than one slot needs.
        """

    @abstractmethod
    def visibility(self, device_id: str | None) -> Mapping[str, str]:
        """Environment variables that show a process one device of this kind; with None, none of them."""

    def describe(self, device_id: str) -> str:
        """The product name of a device among `places`."""
        return device_id

    # The device of this process.

    @abstractmethod
    def is_available(self) -> bool:
        """Whether torch can use such a device in this process."""

    @property
    def torch_device(self) -> torch.device:
        """The torch device of a run's tensors."""
        import torch

        return torch.device(self.name)

    @abstractmethod
    def identity(self) -> str:
        """A name of the device that is the same in every process of the host."""

    @abstractmethod
    def prepare(self, *, cpu_threads: int) -> None:
        """Apply the settings that are the same for all methods; called once, before any work."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    @abstractmethod
    def step_clock(self) -> StepClock:
        """A clock for training steps that adds no synchronisation to them."""

    def open_sensor(self) -> Sensor:
        """The sensor to read around a run: the host's, and the device's own counters where it has any."""
        return HostSensor()

    @abstractmethod
    def environment(self) -> dict[str, Any]:
        """The device's part of a run's record: `device_name`, and other properties that distinguish such devices."""

    # Precision.

    @abstractmethod
    def computes_bf16(self) -> bool:
        """Whether the hardware multiplies bf16 matrices itself, rather than by emulation."""

    def automatic_precision(self) -> str:
        """The precision that `precision: auto` selects: `bf16` or `fp32`."""
        return "bf16" if self.computes_bf16() else "fp32"

    def choose_precision(self, name: str) -> str:
        """`bf16` or `fp32` for a job's `precision`: auto, bf16 or fp32."""
        if name == "bf16" and not self.computes_bf16():
            logger.warning(
                "precision is bf16, but this device has no bf16 instructions: results are those of bf16, speed is not"
            )
        return self.automatic_precision() if name == "auto" else name

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """The context of a forward pass in a precision."""
        import torch

        if precision != "bf16":
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16)

    # Memory.

    @abstractmethod
    def available_memory(self) -> int:
        """Bytes that a search for the largest batch may use."""

    @abstractmethod
    def limit_memory(self, limit: int, *, data_before: int) -> None:
        """Make allocations fail beyond a limit.

        Args:
            limit: bytes, the model included.
            data_before: bytes of the process's data segment before it loaded the model.
        """

    def reset_memory_peaks(self) -> None:  # noqa: B027 - nothing to do without an allocator that keeps peaks
        """Forget the allocator's peaks so far; what is allocated stays counted."""

    @abstractmethod
    def memory_peaks(self) -> tuple[int, int] | str:
        """The allocator's peaks since the reset, allocated and reserved bytes; or why there are none."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception means that the device or the host ran out of memory."""
        import torch

        return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
