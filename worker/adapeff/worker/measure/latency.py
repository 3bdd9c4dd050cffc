"""Latency of forward passes, dropout off: on fixed shapes, and on examples in their own lengths."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from adapeff.service import measurements as m
from adapeff.service.statistics.summaries import median_interval
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.precision import served_in
from adapeff.worker.events import EventLog
from adapeff.worker.families.encoding import Encoded, collate
from adapeff.worker.measure.clocks import timed
from adapeff.worker.modeling.models import TaskModel

WARMUP_ITERATIONS = 3
MIN_SAMPLES = 5
MAX_SAMPLES = 1000
P99_NEEDS = 200


@dataclass(frozen=True)
class Latency:
    """Raw seconds of forward passes; warm-up iterations are kept separately."""

    warmup: list[float]
    samples: list[float]

    def percentile(self, percent: int) -> float:
        """A percentile over the samples, by linear interpolation."""
        return percentile(self.samples, percent)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which `percent` % of the samples lie, interpolated linearly (as numpy's default does).

    Raises:
        ValueError: if there are no samples.
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    if len(samples) == 1 or percent == 50:
        return statistics.median(samples)
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def forward_seconds(model: TaskModel, inputs: Mapping[str, torch.Tensor], device: Device) -> float:
    """Seconds of one forward pass; the caller sets the evaluation and inference modes."""
    batch = dict(inputs)
    return timed(lambda: model(batch), device)


def time_forward(
    model: TaskModel,
    inputs: Iterator[Mapping[str, torch.Tensor]],
    *,
    seconds: float,
    device: Device,
    precision: str,
) -> Latency:
    """Time forward passes, dropout off, until the budget is used, after warm-up.

    Args:
        inputs: one batch after the other, on the device.
        seconds: time budget; at least 5 samples are taken, at most 1,000.
        precision: the weights' while it is timed.
    """
    model.eval()
    with served_in(precision, [model]), torch.inference_mode():
        warmup = [forward_seconds(model, next(inputs), device) for _ in range(WARMUP_ITERATIONS)]
        samples: list[float] = []
        while len(samples) < MIN_SAMPLES or (sum(samples) < seconds and len(samples) < MAX_SAMPLES):
            samples.append(forward_seconds(model, next(inputs), device))
    return Latency(warmup, samples)


def traffic(data: Encoded, batch: int, device: Device) -> Iterator[Mapping[str, torch.Tensor]]:
    """The items of a split in an order drawn once, `batch` at a time, without end: lengths as they come."""
    order = list(range(len(data)))
    random.Random(0).shuffle(order)
    items = cycle(order)
    while True:
        drawn = list(islice(items, batch))
        yield collate(data, drawn, multiple=device.shape_multiple).to(device.torch_device).inputs


def log_latency(
    log: EventLog, cell: Latency, *, batch: int, length: int, dtype: str, variant: Mapping[str, Any], task: str = ""
) -> None:
    """Write a cell's percentiles, the 95 % interval of its median, and its throughput."""
    where: dict[str, Any] = {"phase": "inference", "batch": batch, "length": length, "dtype": dtype, "task": task}
    where |= {"variant": dict(variant)} if variant else {}
    for percent in (50, 95):
        log.measure(m.LATENCY_S, cell.percentile(percent), statistic=f"p{percent}", **where)
    for side, value in zip(("low", "high"), median_interval(cell.samples), strict=True):
        log.measure(m.LATENCY_S, value, statistic=f"p50_{side}", **where)
    enough = len(cell.samples) >= P99_NEEDS
    reason = "" if enough else f"{len(cell.samples)} samples; a p99 needs {P99_NEEDS}"
    log.measure(m.LATENCY_S, cell.percentile(99) if enough else None, reason=reason, statistic="p99", **where)
    log.measure(m.THROUGHPUT, batch / cell.percentile(50), statistic="p50", **where)
