"""Slots: one accelerator, or one pinned set of CPU cores, each for one run at a time.

A slot is held by a file lock for the worker's life. Runners inherit it, so a second worker stays out until even an
orphan of the first one has ended.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

from adapeff.service.errors import ConfigError, ResourceError
from adapeff.worker.devices.locks import take_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Where one run at a time may run."""

    kind: Literal["cpu", "cuda"]
    index: int
    cores: tuple[int, ...] = ()
    device_id: str = ""
    """The GPU's UUID, as CUDA_VISIBLE_DEVICES takes it."""
    locks: tuple[IO[str], ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """`cpu:0`, `cuda:1`."""
        return f"{self.kind}:{self.index}"

    @property
    def environment(self) -> dict[str, str]:
        """What the runner's environment needs so that it sees this device alone."""
        return {"CUDA_VISIBLE_DEVICES": self.device_id if self.kind == "cuda" else ""}


def open_slots(devices: str, *, cores_per_slot: int, lock_dir: Path | None = None) -> list[Slot]:
    """Take the slots asked for, as `cuda:0,cuda:1`, `cpu:0,cpu:1`, `cuda`, `cpu` or `auto`.

    `auto` is every GPU of the host, or every CPU slot where there is none; of `auto`, `cuda` and `cpu`, slots that
    another worker holds are left out.

    Args:
        lock_dir: the folder of the host's locks, if not the usual one.

    Raises:
        ConfigError: if the list is malformed or mixes kinds.
        ResourceError: if a device does not exist or is held by another worker.
    """
    gpus = _gpus()
    kind, indices = _parse(devices, gpus=len(gpus), cpu_slots=_cpu_slots(cores_per_slot))
    named = any(":" in part for part in devices.split(","))
    slots, held = [], []
    for index in indices:
        cores: tuple[int, ...] = ()
        if kind == "cpu":
            cores = tuple(sorted(os.sched_getaffinity(0))[index * cores_per_slot : (index + 1) * cores_per_slot])
        # What is locked is the thing itself, however this worker numbers it: a GPU's UUID, each core's number.
        locks = _lock_all([f"cuda-{gpus[index]}"] if kind == "cuda" else [f"core-{core}" for core in cores], lock_dir)
        if locks is None:
            held.append(f"{kind}:{index}")
        else:
            device = gpus[index] if kind == "cuda" else ""
            slots.append(Slot(kind, index, cores=cores, device_id=device, locks=locks))
    if held and (named or not slots):
        raise ResourceError(
            f"{', '.join(held)} {'is' if len(held) == 1 else 'are'} in use by another adapeff worker on this host; "
            "stop it, or name other devices with --devices"
        )
    return slots


def _parse(devices: str, *, gpus: int, cpu_slots: int) -> tuple[Literal["cpu", "cuda"], Sequence[int]]:
    if devices == "auto":
        return ("cuda", range(gpus)) if gpus else ("cpu", range(cpu_slots))
    kinds, indices = set(), []
    for part in devices.split(","):
        kind, colon, number = part.strip().partition(":")
        if kind not in ("cpu", "cuda") or (colon and not number.isdigit()):
            raise ConfigError(f"'{part}' is no device; expected cuda:0,cuda:1 or cpu:0,cpu:1 or cuda, cpu, auto")
        kinds.add(kind)
        there = gpus if kind == "cuda" else cpu_slots
        if kind == "cuda" and not gpus:
            raise ResourceError(
                f"'{part}': this host has no GPU that a worker could use; use --devices cpu or another host"
            )
        wanted = [int(number)] if colon else list(range(there))
        if wanted[-1] >= there:
            raise ResourceError(f"'{part}': this host has {there} {kind} slots, {kind}:0 to {kind}:{there - 1}")
        indices += wanted
    if len(kinds) > 1:
        raise ConfigError(f"'{devices}' mixes CPU and GPU slots; start one worker for each kind")
    return ("cuda" if "cuda" in kinds else "cpu"), sorted(set(indices))


def _cpu_slots(cores_per_slot: int) -> int:
    cores = len(os.sched_getaffinity(0))
    if cores_per_slot > cores:
        raise ConfigError(f"cores_per_slot is {cores_per_slot}, but this process may use {cores} cores")
    return cores // cores_per_slot


def usable_gpus() -> list[tuple[str, str]]:
    """(UUID, name) of each GPU that a worker of this host would use; an instance has its GPU's name."""
    found = []
    for uuid in _gpus():
        import pynvml

        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        found.append((uuid, name.decode() if isinstance(name, bytes) else str(name)))
    return found


def _gpus() -> list[str]:
    """The UUIDs of the GPUs that this worker may use and its runners can: those CUDA shows them.

    Torch is not asked: importing it takes seconds, and the worker itself needs none of it.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML raises its own types, and is absent on most machines
        return []
    if not torch_has_cuda():
        logger.warning("this host has a GPU, but its torch is built without CUDA; install one that is, to use it")
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    found = [uuid for handle in handles for uuid in device_uuids(pynvml, handle)]
    return visible_devices(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_devices(found: Sequence[str], asked: str | None) -> list[str]:
    """The devices that CUDA shows a process, by its own rules for CUDA_VISIBLE_DEVICES.

    Names are numbers, or beginnings of UUIDs that fit one device. The first that is none ends the list; where a device
    stands twice there are none at all. Source: CUDA C++ Programming Guide, "CUDA Environment Variables".

    Args:
        found: UUIDs of all devices, in the order of their numbers.
        asked: the variable; None: not set.
    """
    if asked is None:
        return list(found)
    visible: list[str] = []
    for part in (name.strip() for name in asked.split(",")):
        if part.isdecimal():
            named = list(found[int(part) : int(part) + 1])
        else:
            named = [uuid for uuid in found if part.startswith(("GPU-", "MIG-")) and uuid.startswith(part)]
        if len(named) != 1:
            break
        visible += named
    return visible if len(set(visible)) == len(visible) else []


def torch_has_cuda() -> bool:
    """Whether the torch installed here was built for CUDA, as its version.py says."""
    spec = find_spec("torch")
    places = (spec.submodule_search_locations if spec else None) or ()
    texts = (Path(place, "version.py") for place in places)
    return any(re.search(r"^cuda\b[^=]*=\s*['\"]", text.read_text(), re.MULTILINE) for text in texts if text.is_file())


def device_uuids(nvml: Any, gpu: Any) -> list[str]:
    """What a process may be given of a GPU: itself, or its instances where it is divided (MIG).

    Args:
        nvml: the module pynvml, or what stands in for it.
        gpu: the GPU's handle.
    """
    try:
        divided = nvml.nvmlDeviceGetMigMode(gpu)[0]
    except nvml.NVMLError:  # a GPU that cannot be divided
        divided = False
    if not divided:
        return [str(nvml.nvmlDeviceGetUUID(gpu))]
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with suppress(nvml.NVMLError):  # places for instances that are empty
            found.append(str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))))
    return found


def _lock_all(names: Sequence[str], lock_dir: Path | None) -> tuple[IO[str], ...] | None:
    """Locks on all the names, or on none of them."""
    taken: list[IO[str]] = []
    for name in names:
        lock = take_lock(name, lock_dir)
        if lock is None:
            for other in taken:
                other.close()
            return None
        taken.append(lock)
    return tuple(taken)
