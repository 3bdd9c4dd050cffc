"""The CPU: work is done when a call returns, and torch keeps no statistics of its memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapeff.service.errors import ConfigError
from adapeff.worker.devices.base import Device, LatencyGrid, Place
from adapeff.worker.devices.step_clocks import HostStepClock, StepClock

CPUINFO = Path("/proc/cpuinfo")
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU features that multiply bf16 matrices, as Linux names them: x86 with and without tiles, and ARM."""
_OFFERED_SHARE = 0.8
"""Of the available memory; the rest is left to other processes."""


class Cpu(Device):
    """A set of CPU cores; `precision: auto` is fp32, since bf16 would change the results of every earlier sweep."""

    name = "cpu"
    is_automatic = True
    absent = "no CPU"
    is_asynchronous = False
    latency_grid = LatencyGrid(batches=(1, 8), lengths=(16, 32, 64, 128))
    peak_matmul_size = 1536
    peak_copy_floats = 2**25
    signals_out_of_memory = False

    def places(self, cores_per_slot: int) -> Sequence[Place]:
        """As many sets of cores as this process's affinity allows."""
        cores = sorted(os.sched_getaffinity(0))
        if cores_per_slot > len(cores):
            raise ConfigError(
                f"cores_per_slot is {cores_per_slot}, but this process may use {len(cores)} cores; set it lower"
            )
        sets = (cores[start : start + cores_per_slot] for start in range(0, len(cores), cores_per_slot))
        return [
            Place(locks=tuple(f"core-{core}" for core in chosen), cores=tuple(chosen))
            for chosen in sets
            if len(chosen) == cores_per_slot
        ]

    def visibility(self, device_id: str | None) -> Mapping[str, str]:
        """Nothing: cores are pinned instead."""
        return {}

    def is_available(self) -> bool:
        """Always."""
        return True

    def identity(self) -> str:
        """All runs on the CPU share one lock; slots also lock single cores."""
        return self.name

    def prepare(self, *, cpu_threads: int) -> None:
        """Set the job's number of threads."""
        import torch

        torch.set_num_threads(cpu_threads)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def step_clock(self) -> StepClock:
        """The host's clock."""
        return HostStepClock()

    def environment(self) -> dict[str, Any]:
        """The CPU's name, and which bf16 instructions it has."""
        return {"device_name": cpu_name(), "bf16_instructions": ",".join(bf16_instructions()) or None}

    def computes_bf16(self) -> bool:
        """Whether it has AMX, AVX512 or ARM instructions for bf16."""
        return bool(bf16_instructions())

    def automatic_precision(self) -> str:
        """Always fp32, even if the CPU supports bf16."""
        return "fp32"

    def available_memory(self) -> int:
        """Four fifths of what the host has available."""
        import psutil

        return int(psutil.virtual_memory().available * _OFFERED_SHARE)

    def limit_memory(self, limit: int, *, data_before: int) -> None:
        """Limit the data segment, with room for libraries that are loaded later."""
        import resource

        import psutil

        room = max(data_before + limit, psutil.Process().memory_info().data + 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))

    def memory_peaks(self) -> tuple[int, int] | str:
        """None, with the reason."""
        return "torch keeps no allocator statistics on a CPU"


def bf16_instructions(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """The CPU's features that multiply bf16 matrices, fastest first; empty if unknown."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ()
    features = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(name for name in BF16_INSTRUCTIONS if name in features)


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The CPU's product name, or its architecture if unknown."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
