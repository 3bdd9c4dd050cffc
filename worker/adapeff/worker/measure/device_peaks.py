"""Measure a device's peak FLOP/s and memory bandwidth, the references for utilisation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adapeff.worker.devices.base import Device
from adapeff.worker.measure.clocks import timed

_SECONDS = 1.0
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_flops_per_s(device: Device, precision: str) -> float:
    """FLOP/s of the fastest of many products of two square matrices of n rows (2 n^3 FLOPs; the backend gives n)."""
    size = device.peak_matmul_size
    a, b = (torch.randn(size, size, device=device.torch_device, dtype=_TYPES[precision]) for _ in range(2))
    product = torch.empty_like(a)
    return float(2 * size**3 / _fastest(lambda: torch.mm(a, b, out=product), device))


def copy_bytes_per_s(device: Device) -> float:
    """Bytes read and written per second by the fastest of many copies (the backend gives the size)."""
    count = device.peak_copy_floats
    source = torch.randn(count, device=device.torch_device)
    target = torch.empty_like(source)
    return 2 * 4 * count / _fastest(lambda: target.copy_(source), device)


def _fastest(action: Callable[[], object], device: Device) -> float:
    times: list[float] = []
    while len(times) < 5 or sum(times) < _SECONDS:
        times.append(timed(action, device))
    return min(times)
