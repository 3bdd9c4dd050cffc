"""The record of everything a reader needs to doubt a number: device, driver, versions and revision of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from adapeff.worker.devices.base import Device
from adapeff.worker.sensors.control_group import cpu_quota

_PACKAGES = ("adapeff", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy")


def environment(device: Device, precision: str) -> dict[str, Any]:
    """Record the machine, the software and the device of a run."""
    return {
        "device_type": device.name,
        "precision": precision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": psutil.cpu_count(),
        "cpu_affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_total_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_quota": cpu_quota(),
        **device.environment(),
        **{package: _version(package) for package in _PACKAGES},
        **_git(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
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
