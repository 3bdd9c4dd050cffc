"""NVIDIA GPUs through CUDA and NVML.

Torch presents AMD GPUs under ROCm as cuda too, so runs use this backend; without NVML they have no energy, and a worker
finds no slots for them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapeff.worker.devices.base import Device, LatencyGrid, Place
from adapeff.worker.devices.step_clocks import EventStepClock, StepClock
from adapeff.worker.sensors.host import HostSensor, Sensor, WithoutEnergy
from adapeff.worker.sensors.nvml import NvmlSensor

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Cuda(Device):
    """A GPU, or an instance of a divided one (MIG).

    Args:
        runtime: replaces `torch.cuda`, for tests.
        nvml: replaces the module pynvml, for tests.
    """

    name = "cuda"
    is_automatic = True
    absent = "no GPU that a worker could use"
    shape_multiple = 8
    """Kernels make a plan for every new shape."""
    latency_grid = LatencyGrid(batches=(1, 8, 32), lengths=(16, 32, 64, 128, 256, 512))
    peak_matmul_size = 8192
    peak_copy_floats = 2**28

    def __init__(self, runtime: Any = None, nvml: Any = None) -> None:
        self._given_runtime = runtime
        self._given_nvml = nvml

    @property
    def _runtime(self) -> Any:
        return self._given_runtime or import_module("torch.cuda")

    @property
    def _nvml(self) -> Any:
        """NVML, started.

        Raises:
            Exception: of NVML's own types, or ImportError, where it is absent.
        """
        nvml = self._given_nvml or import_module("pynvml")
        nvml.nvmlInit()
        return nvml

    def places(self, cores_per_slot: int) -> Sequence[Place]:
        """The GPUs that CUDA shows this process, which are those that its runners can use.

        Does not use torch: importing it takes seconds, and the worker itself does not need it.
        """
        try:
            nvml = self._nvml
        except Exception:  # noqa: BLE001 - NVML raises its own types, and is absent on most machines
            return []
        if not self._is_built():
            logger.warning("this host has a GPU, but its torch is built without CUDA; install one that is, to use it")
            return []
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        all_devices = [uuid for handle in handles for uuid in device_uuids(nvml, handle)]
        visible = visible_devices(all_devices, os.environ.get(VISIBLE))
        return [Place(locks=(f"cuda-{uuid}",), device_id=uuid) for uuid in visible]

    def _is_built(self) -> bool:
        return self._given_runtime is not None or torch_has_cuda()

    def visibility(self, device_id: str | None) -> Mapping[str, str]:
        """CUDA's own variable."""
        return {VISIBLE: device_id or ""}

    def describe(self, device_id: str) -> str:
        """The GPU's product name; an instance has its GPU's."""
        nvml = self._nvml
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByUUID(device_id))
        return name.decode() if isinstance(name, bytes) else str(name)

    def is_available(self) -> bool:
        """Whether torch sees a GPU."""
        return bool(self._runtime.is_available())

    def identity(self) -> str:
        """The GPU's UUID."""
        return f"cuda-{self._runtime.get_device_properties(0).uuid}"

    def prepare(self, *, cpu_threads: int) -> None:
        """Leave cuDNN's attention out: it makes a plan for every new shape, and shapes vary here.

        A plan takes some 110 ms on an H100 (torch 2.11).
        """
        import torch

        torch.backends.cuda.enable_cudnn_sdp(False)

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        self._runtime.synchronize()

    def step_clock(self) -> StepClock:
        """Events of the current stream."""
        runtime = self._runtime
        return EventStepClock(lambda: runtime.Event(enable_timing=True), runtime.synchronize)

    def open_sensor(self) -> Sensor:
        """The host's sensor with NVML's energy, clocks and processes; the host's alone where NVML does not answer."""
        host = HostSensor()
        try:
            visible = os.environ.get(VISIBLE, "").split(",")[0]
            is_uuid = visible.startswith(("GPU-", "MIG-"))
            uuid = visible if is_uuid else f"GPU-{self._runtime.get_device_properties(0).uuid}"
            sensor = NvmlSensor(self._nvml, uuid, host)
            sensor.follow()
            return sensor
        except Exception as error:  # noqa: BLE001 - NVML raises its own types, and may be absent
            return WithoutEnergy(host, f"NVML does not answer ({type(error).__name__}: {error})")

    def environment(self) -> dict[str, Any]:
        """The GPU's name, size and capability; driver, CUDA and attention kernels."""
        import torch

        properties = self._runtime.get_device_properties(0)
        return {
            "device_name": self._runtime.get_device_name(0),
            "cuda": torch.version.cuda,
            "driver": self._driver(),
            "attention_kernels": attention_kernels(),
            "device_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
        }

    def _driver(self) -> str | None:
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except Exception:  # noqa: BLE001 - NVML raises its own types, and is absent on some hosts
            return None

    def computes_bf16(self) -> bool:
        """Whether the GPU has bf16 units."""
        return bool(self._runtime.is_bf16_supported(including_emulation=False))

    def available_memory(self) -> int:
        """What the GPU has free."""
        return int(self._runtime.mem_get_info()[0])

    def limit_memory(self, limit: int, *, data_before: int) -> None:
        """Limit the allocator to a share of the GPU."""
        total = self._runtime.get_device_properties(0).total_memory
        self._runtime.set_per_process_memory_fraction(min(1.0, limit / total))

    def reset_memory_peaks(self) -> None:
        """Reset the allocator's peaks."""
        self._runtime.reset_peak_memory_stats()

    def memory_peaks(self) -> tuple[int, int] | str:
        """Of torch's caching allocator."""
        return int(self._runtime.max_memory_allocated()), int(self._runtime.max_memory_reserved())


def attention_kernels() -> str:
    """The kernels that fused attention may choose from."""
    import torch

    backends = torch.backends.cuda
    kinds = {
        "flash": backends.flash_sdp_enabled(),
        "efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return ",".join(name for name, enabled in kinds.items() if enabled)


def visible_devices(uuids: Sequence[str], variable: str | None) -> list[str]:
    """The devices that CUDA shows a process, by its own rules for CUDA_VISIBLE_DEVICES.

    Entries are numbers, or prefixes of UUIDs that fit one device. The first invalid entry ends the list; if a device
    appears twice, none is visible. Source: CUDA C++ Programming Guide, "CUDA Environment Variables".

    Args:
        uuids: of all devices, in the order of their numbers.
        variable: the variable's value; None: not set.
    """
    if variable is None:
        return list(uuids)
    visible: list[str] = []
    for entry in (part.strip() for part in variable.split(",")):
        if entry.isdecimal():
            matching = list(uuids[int(entry) : int(entry) + 1])
        else:
            matching = [uuid for uuid in uuids if entry.startswith(("GPU-", "MIG-")) and uuid.startswith(entry)]
        if len(matching) != 1:
            break
        visible += matching
    return visible if len(set(visible)) == len(visible) else []


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, according to its version.py."""
    spec = find_spec("torch")
    locations = (spec.submodule_search_locations if spec else None) or ()
    files = (Path(location, "version.py") for location in locations)
    return any(re.search(r"^cuda\b[^=]*=\s*['\"]", file.read_text(), re.MULTILINE) for file in files if file.is_file())


def device_uuids(nvml: Any, gpu: Any) -> list[str]:
    """List the devices a process may use of a GPU: the GPU itself, or its instances if it is divided (MIG).

    Args:
        nvml: the module pynvml or a recording of it.
        gpu: the GPU's handle.
    """
    try:
        is_divided = nvml.nvmlDeviceGetMigMode(gpu)[0]
    except nvml.NVMLError:  # a GPU that cannot be divided
        is_divided = False
    if not is_divided:
        return [str(nvml.nvmlDeviceGetUUID(gpu))]
    uuids = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with suppress(nvml.NVMLError):  # places for instances that are empty
            uuids.append(str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))))
    return uuids
