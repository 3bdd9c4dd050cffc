"""What a device can do at most: products of matrices, and copying memory. Utilisation is stated against these."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from adapeff.worker.measure.clocks import synchronize

_SECONDS = 1.0
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_flops_per_s(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest of many products of two square matrices (2 n^3 FLOPs; n = 1536 on a CPU, 8192 on a GPU)."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=_TYPES[precision]) for _ in range(2))
    made = torch.empty_like(a)
    return float(2 * size**3 / _fastest(lambda: torch.mm(a, b, out=made), device))


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written per second by the fastest of many copies (of 128 MiB on a CPU, 1 GiB on a GPU)."""
    count = 2**28 if device.type == "cuda" else 2**25
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / _fastest(lambda: target.copy_(source), device)


def _fastest(action: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    while len(times) < 5 or sum(times) < _SECONDS:
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
