"""The device a run uses, its memory, and the record of everything a reader needs to doubt a number."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from adapeff.service.errors import ResourceError
from adapeff.worker.sensors.control_group import cpu_quota

_PACKAGES = ("adapeff", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")


def choose_device(name: str) -> torch.device:
    """The torch device for `cpu`, `cuda` or `any` (a GPU where there is one).

    Raises:
        ResourceError: if a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("a GPU was asked for (device: cuda), but torch sees none; use device: cpu or another host")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_identity(name: str) -> str:
    """What `choose_device` chooses, under the name it has on this host whoever asks: `cpu`, or a GPU's UUID.

    Raises:
        ResourceError: if a GPU is asked for and there is none.
    """
    if choose_device(name).type == "cpu":
        return "cpu"
    return f"cuda-{torch.cuda.get_device_properties(0).uuid}"


def choose_precision(name: str, device: torch.device) -> str:
    """`bf16` or `fp32`: `auto` is bf16 on a GPU that computes in it, else fp32."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


SHAPE_MULTIPLE = 8
"""On a GPU lengths are padded to multiples of this: each new shape costs kernels their plans."""


def shape_multiple(device: torch.device) -> int:
    """What the lengths of batches are padded to a multiple of."""
    return SHAPE_MULTIPLE if device.type == "cuda" else 1


def prepare_device(device: torch.device) -> None:
    """Settings of the device that hold for all methods alike.

    cuDNN's attention makes a plan for every new shape, some 110 ms each on an H100 (torch 2.11), and shapes vary here.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def attention_kernels() -> str:
    """The kernels that fused attention may choose from on a GPU."""
    backends = torch.backends.cuda
    kinds = {
        "flash": backends.flash_sdp_enabled(),
        "efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return ",".join(name for name, enabled in kinds.items() if enabled)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context a forward pass runs in."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def served_in(precision: str, models: Iterable[nn.Module]) -> Iterator[None]:
    """Models with their weights in the precision they are served in; weights they share stay shared.

    Autocast, which training uses, would cast fp32 weights in every forward pass; whoever serves in bf16 casts once.
    """
    made: dict[tuple[Any, ...], torch.Tensor] = {}
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for tensor in (t for model in models for t in (*model.parameters(), *model.buffers())):
        if precision == "bf16" and tensor.dtype == torch.float32:
            key = (tensor.data_ptr(), tensor.shape, tensor.stride())
            kept.append((tensor, tensor.data))
            if key not in made:
                made[key] = tensor.data.bfloat16()
            tensor.data = made[key]
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


class Memory:
    """Peaks since `start` or `restart`: the allocator's two on a GPU, the process's own resident set everywhere.

    The process figure is the high-water mark of resident memory above what was resident at the start. A child's
    `ru_maxrss` would inherit its parent's peak, so the kernel's VmHWM is read, after resetting it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._baseline = 0
        self._most = (0, 0, 0)

    def start(self) -> None:
        """Count from what is resident now."""
        self._baseline = _status("VmRSS") or 0
        self.restart()

    def restart(self) -> None:
        """Forget the peaks so far; what is there stays counted."""
        self._most = (0, 0, 0)
        self._reset()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside does not count."""
        self._look()
        try:
            yield
        finally:
            self._reset()

    def _reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with suppress(OSError):  # not allowed in some containers: the mark then counts from the process's start
            Path("/proc/self/clear_refs").write_text("5")

    def _look(self) -> None:
        process = max(0, (_status("VmHWM") or 0) - self._baseline)
        allocated = reserved = 0
        if self._device.type == "cuda":
            allocated = torch.cuda.max_memory_allocated(self._device)
            reserved = torch.cuda.max_memory_reserved(self._device)
        one, two, three = self._most
        self._most = max(one, process), max(two, allocated), max(three, reserved)

    def peaks(self) -> dict[str, tuple[int | None, str]]:
        """Name -> (bytes or None, reason for None)."""
        self._look()
        most = self._most
        process = (None, "no VmHWM on this system") if _status("VmHWM") is None else (most[0], "")
        if self._device.type == "cuda":
            allocated: tuple[int | None, str] = (most[1], "")
            reserved: tuple[int | None, str] = (most[2], "")
        else:
            allocated = reserved = (None, "torch keeps no allocator statistics on a CPU")
        return {
            "peak_memory_allocated_bytes": allocated,
            "peak_memory_reserved_bytes": reserved,
            "peak_memory_process_bytes": process,
        }


def _status(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Device, driver, versions and revision of the code."""
    values: dict[str, Any] = {
        "device_type": device.type,
        "device_name": _device_name(device),
        "precision": precision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": psutil.cpu_count(),
        "cpu_affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_total_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "driver": _driver(device),
        "cpu_quota": cpu_quota(),
        "attention_kernels": attention_kernels() if device.type == "cuda" else None,
        **{package: _version(package) for package in _PACKAGES},
        **_git(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        values |= {
            "device_memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
        }
    return values


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - NVML raises its own types, and is absent on some hosts
        return None


def _git() -> dict[str, Any]:
    """Revision of the checkout this code runs from, and whether it was changed; nulls for an installed package."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    if not tracked:
        return {"git_revision": None, "git_dirty": None}
    return {"git_revision": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain", "-uno"))}
