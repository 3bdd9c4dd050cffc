"""Count the FLOPs of each method's training step and time the steps, interleaved."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from adapeff.service import measurements as m
from adapeff.worker.devices.step_clocks import STEP_PHASES
from adapeff.worker.measure.flops import FlopCounter, Flops, draws_its_steps
from adapeff.worker.measure.interleave import interleave, per_block
from adapeff.worker.modeling.models import count_parameters
from adapeff.worker.profiling.bench import Bench, variant_of
from adapeff.worker.sensors.window import Window

StepSamples = dict[str, dict[str, list[list[float]]]]
"""Seconds by candidate, by phase, by block."""


def count_flops(bench: Bench) -> dict[str, Flops]:
    """Count the parameters and FLOPs of each method."""
    settings, log = bench.spec.settings, bench.log
    flops_by_method: dict[str, Flops] = {}
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length}
    with bench.clock.phase("count_flops"):
        for candidate in bench.candidates:
            counter = FlopCounter(candidate.model, candidate.method, bench.inputs)
            flops = flops_by_method[candidate.name] = counter.step(settings.batch, settings.length)
            variant: dict[str, Any] = {"variant": variant_of(candidate)}
            for phase, count in (("", flops.total), ("forward", flops.forward), ("backward", flops.backward)):
                log.measure(m.STEP_FLOPS, count, phase=phase, **where, **variant)
            uncounted = sorted(flops.uncounted)
            log.measure(m.FLOPS_UNCOUNTED, len(uncounted), reason=", ".join(uncounted), **variant)
            counts = count_parameters(candidate.model)
            log.measure(m.TRAINABLE_PARAMETERS_METHOD, counts.trainable_method, **variant)
            log.measure(m.TRAINABLE_PARAMETERS_HEAD, counts.trainable_head, **variant)
            log.measure(m.TOTAL_PARAMETERS, counts.total, **variant)
    return flops_by_method


def time_steps(bench: Bench, flops: Mapping[str, Flops], matmul_peak: float) -> StepSamples:
    """Time interleaved training steps; record latencies, ratios and achieved FLOP/s.

    Args:
        matmul_peak: the device's peak FLOP/s.
    """
    settings, log = bench.spec.settings, bench.log
    log.emit("stage", stage="steps")
    inputs = bench.inputs(settings.batch, settings.length)
    takes = {candidate.name: candidate.steps(inputs) for candidate in bench.candidates}
    bench.compile(bench.candidates, takes, phase="train", batch=settings.batch, length=settings.length)
    start = bench.sensor.read()
    with bench.clock.phase("steps"):
        taken = interleave(
            takes,
            blocks=settings.blocks,
            turn_seconds=settings.turn_seconds,
            seed=0,
            progress=bench.progress("training steps", settings.blocks),
        )
    window = Window(start, bench.sensor.read())
    seconds = {
        name: {
            phase: [[getattr(step, phase) for step in block] for block in blocks] for phase in (*STEP_PHASES, "total")
        }
        for name, blocks in taken.items()
    }
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length, "dtype": bench.precision}
    problems = window.problems()
    for candidate in bench.candidates:
        own, base = seconds[candidate.name], seconds[bench.reference.name]
        variant: dict[str, Any] = {"variant": variant_of(candidate)}
        for phase in ("", *STEP_PHASES):
            values, at = per_block(own[phase or "total"]), {"phase": phase, **where}
            log.measure(m.STEP_LATENCY_S, statistics.median(values), statistic="p50", **at, **variant)
            if candidate is not bench.reference:
                bench.ratio(m.STEP_RATIO, candidate, values, per_block(base[phase or "total"]), **at)
        step = statistics.median(per_block(own["total"]))
        achieved = flops[candidate.name].total / step
        log.measure(m.ACHIEVED_FLOPS, achieved, **where, **variant)
        log.measure(m.FLOPS_UTILISATION, achieved / matmul_peak, **where, **variant)
        samples = [value for block in own["total"] for value in block]
        drawn = draws_its_steps(candidate.method, candidate.model.encoder)
        bench.flag(candidate, problems, [] if drawn else samples, phase="train", **where)
    return seconds
