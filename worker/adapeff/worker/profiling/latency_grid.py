"""Time forward passes over a grid of shapes, and throughput as the batch grows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from adapeff.service import measurements as m
from adapeff.worker.devices.precision import served_in
from adapeff.worker.measure.interleave import interleave, per_block
from adapeff.worker.measure.latency import Latency, log_latency
from adapeff.worker.profiling.bench import Bench, variant_of
from adapeff.worker.profiling.candidates import Candidate, variants
from adapeff.worker.sensors.window import Window

MIN_BLOCKS = 5
MAX_BLOCKS = 200
SATURATED = 1.05
"""Throughput is saturated if doubling the batch raises it by less than this factor."""
LARGEST_THROUGHPUT_BATCH = 4096


@dataclass(frozen=True)
class CellSamples:
    """Seconds of forward passes of one shape: by candidate, by block."""

    batch: int
    length: int
    samples: dict[str, list[list[float]]]


@dataclass(frozen=True)
class ThroughputSamples:
    """Seconds of one method's forward passes of one shape."""

    method: str
    batch: int
    length: int
    samples: list[float]


def time_latency(bench: Bench) -> list[CellSamples] | None:
    """Forward passes of every candidate and inference variant, interleaved, for each shape; None if there are none."""
    settings, log = bench.spec.settings, bench.log
    grid = bench.device.latency_grid
    batches = grid.batches if settings.latency_batches is None else settings.latency_batches
    lengths = [n for n in settings.latency_lengths or grid.lengths if n <= bench.bare.max_positions]
    if not batches:
        return None
    log.emit("stage", stage="latency")
    with bench.clock.phase("load"):
        kept = [
            variant
            for method in (bench.spec.methods if settings.variants else ())
            for variant in variants(method, bench.bare, device=bench.device, precision=bench.precision)
        ]
    serving = [*bench.candidates, *(candidate for candidate, _ in kept)]
    with served_in(bench.precision, [candidate.model for candidate in serving]):
        return [_time_cell(bench, serving, batch, length) for batch, length in product(batches, lengths)]


def _time_cell(bench: Bench, serving: Sequence[Candidate], batch: int, length: int) -> CellSamples:
    settings, log = bench.spec.settings, bench.log
    inputs = bench.inputs(batch, length)
    takes = {candidate.label: candidate.forwards(inputs) for candidate in serving}
    bench.compile(serving, takes, phase="inference", batch=batch, length=length)
    with bench.clock.phase("latency"):
        once = min(sum(takes[bench.reference.label](1)) for _ in range(2))
        start = bench.sensor.read()
        turn = max(once, settings.latency_seconds / 20)
        blocks = min(MAX_BLOCKS, max(MIN_BLOCKS, round(settings.latency_seconds / turn)))
        samples = interleave(
            takes,
            blocks=blocks,
            turn_seconds=turn,
            seed=batch * length,
            progress=bench.progress(f"latency of {batch} x {length}", blocks),
        )
        problems = Window(start, bench.sensor.read()).problems()
        where: dict[str, Any] = {"batch": batch, "length": length, "dtype": bench.precision}
        base = per_block(samples[bench.reference.label])
        for candidate in serving:
            seconds = samples[candidate.label]
            cell = Latency([], [value for block in seconds for value in block])
            log_latency(log, cell, **where, variant=variant_of(candidate))
            bench.flag(candidate, problems, per_block(seconds), phase="inference", **where)
            if candidate is not bench.reference:
                bench.ratio(m.LATENCY_RATIO, candidate, per_block(seconds), base, **where)
    return CellSamples(batch, length, samples)


def find_throughput(bench: Bench) -> list[ThroughputSamples]:
    """Examples per second as the batch doubles, until it gains less than 5 % twice."""
    length, log = bench.spec.settings.length, bench.log
    tried: list[ThroughputSamples] = []
    models = [candidate.model for candidate in bench.candidates]
    with bench.clock.phase("throughput"), served_in(bench.precision, models):
        for candidate in bench.candidates:
            batch, best, flat = 1, 0.0, 0
            while flat < 2 and batch <= LARGEST_THROUGHPUT_BATCH:
                try:
                    take = candidate.forwards(bench.inputs(batch, length))
                    seconds = take(4)[1:]
                except (RuntimeError, MemoryError) as error:
                    if not bench.device.is_out_of_memory(error):
                        raise
                    break
                rate = batch / statistics.median(seconds)
                tried.append(ThroughputSamples(candidate.name, batch, length, seconds))
                where: dict[str, Any] = {"batch": batch, "length": length, "dtype": bench.precision}
                log.measure(m.THROUGHPUT, rate, phase="saturation", **where, variant=variant_of(candidate))
                flat = flat + 1 if rate < best * SATURATED else 0
                best = max(best, rate)
                batch *= 2
            log.measure(m.THROUGHPUT_SATURATED, best, length=length, variant=variant_of(candidate))
    return tried
