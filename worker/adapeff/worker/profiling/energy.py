"""Measure the energy of a training step above idle, with the methods interleaved."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from adapeff.service import measurements as m
from adapeff.worker.measure.interleave import interleave, per_block
from adapeff.worker.profiling.bench import Bench, variant_of
from adapeff.worker.profiling.candidates import Candidate
from adapeff.worker.sensors.window import Window, energy_above_idle

ENERGY_BLOCKS = 6
"""With fewer blocks, a bootstrap cannot give a 95 % interval."""


def measure_energy(bench: Bench, idle: Window | None) -> dict[str, list[list[float]]] | None:
    """Measure joules per training step above idle, in turns of `energy_seconds`; None without an energy counter."""
    settings, log = bench.spec.settings, bench.log
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length, "dtype": bench.precision}
    if idle is None:
        reason = bench.sensor.read().energy_reason
        for candidate in bench.candidates:
            log.measure(m.STEP_ENERGY_J, None, reason=reason, **where, variant=variant_of(candidate))
        return None
    log.emit("stage", stage="energy")
    inputs = bench.inputs(settings.batch, settings.length)

    unknown: dict[str, str] = {}

    def metered(candidate: Candidate) -> Callable[[int], list[float]]:
        take = candidate.steps(inputs)

        def turn(_: int) -> list[float]:
            start, steps = bench.sensor.read(), 0
            while (window := Window(start, bench.sensor.read())).seconds < settings.energy_seconds:
                steps += len(take(1))
            joules, why = energy_above_idle(window, idle)
            if joules is None:
                unknown[candidate.name] = why
            return [(joules or 0.0) / steps]

        return turn

    with bench.clock.phase("energy"):
        used = interleave(
            {candidate.name: metered(candidate) for candidate in bench.candidates},
            blocks=ENERGY_BLOCKS,
            turn_seconds=settings.energy_seconds,
            repetitions=1,
            seed=1,
            progress=bench.progress("energy", ENERGY_BLOCKS),
        )
    for candidate in bench.candidates:
        values, reason = per_block(used[candidate.name]), unknown.get(candidate.name, "")
        joules = None if reason else statistics.median(values)
        log.measure(m.STEP_ENERGY_J, joules, reason=reason, **where, variant=variant_of(candidate))
        if candidate is not bench.reference and not unknown:
            bench.ratio(m.ENERGY_RATIO, candidate, values, per_block(used[bench.reference.name]), **where)
    return used
