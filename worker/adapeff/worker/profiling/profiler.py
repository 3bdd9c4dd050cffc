"""Run a profile job: time methods by turns on one model and shape, count their FLOPs, measure their memory."""

from __future__ import annotations

import gzip
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adapeff.service.errors import ModelError
from adapeff.service.reporting.statistics import paired_ratio
from adapeff.service.specs.profile import ProfileSpec
from adapeff.worker.devices.environment import (
    choose_device,
    choose_precision,
    environment,
    out_of_memory,
    prepare_device,
    served_in,
)
from adapeff.worker.events import EventLog
from adapeff.worker.measure.clocks import STEP_PHASES, PhaseClock
from adapeff.worker.measure.device_peaks import copy_bytes_per_s, matmul_flops_per_s
from adapeff.worker.measure.flops import FlopCounter, Flops, draws_its_steps
from adapeff.worker.measure.interleave import interleave, per_block
from adapeff.worker.measure.latency import Latency, log_latency
from adapeff.worker.modeling.models import count_parameters
from adapeff.worker.profiling.candidates import BareModel, Candidate, load_bare, make_candidate, variants
from adapeff.worker.profiling.memory_probe import available_memory, largest_batch, run_probe
from adapeff.worker.sensors.host import (
    Sensor,
    Window,
    energy_above_idle,
    idle_window,
    open_sensor,
    sample_problems,
)
from adapeff.worker.training.train import LOG_EVERY_SECONDS

logger = logging.getLogger("adapeff.runner")

GRIDS = {"cpu": ((1, 8), (16, 32, 64, 128)), "cuda": ((1, 8, 32), (16, 32, 64, 128, 256, 512))}
"""Latency grids by device: batch sizes, lengths."""
MIN_BLOCKS = 5
MAX_BLOCKS = 200
ENERGY_BLOCKS = 6
"""Fewer give a bootstrap over blocks no 95 % interval."""
MAX_COMPILATIONS = 100_000
SATURATED = 1.05
"""Throughput that rises by less than this factor when the batch doubles is saturated."""
LARGEST_THROUGHPUT_BATCH = 4096


@dataclass
class _Profile:
    spec: ProfileSpec
    out: Path
    device: torch.device
    precision: str
    log: EventLog
    clock: PhaseClock
    sensor: Sensor
    bare: BareModel
    candidates: list[Candidate]
    samples: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> Candidate:
        return self.candidates[0]

    def inputs(self, batch: int, length: int) -> dict[str, torch.Tensor]:
        return self.bare.batch(batch, length, self.device)

    def progress(self, what: str, blocks: int) -> Callable[[int, float], None]:
        told = time.monotonic()

        def tell(block: int, eta: float) -> None:
            nonlocal told
            if time.monotonic() - told >= LOG_EVERY_SECONDS or block == blocks:
                told = time.monotonic()
                self.log.emit("progress", of=what, block=block, blocks=blocks, eta_s=round(eta, 1))
                logger.info("%s: block %d of %d, %.0f s to go", what, block, blocks, eta)

        return tell


def run_profile(
    spec: ProfileSpec, job: Path, out: Path, *, device_name: str | None = None, clock: PhaseClock | None = None
) -> None:
    """Run a profile job to its end; every result goes to the event log in `out`.

    Args:
        clock: has run since the process began; one is made where none is given.
        job: the file `spec` was read from, for the processes that measure memory.

    Raises:
        AdapeffError: for whatever is wrong with the job or its model.
    """
    clock, log, settings = clock or PhaseClock(), EventLog(out), spec.settings
    device = choose_device(device_name or settings.device)
    prepare_device(device)
    precision = choose_precision(settings.precision, device)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(settings.cpu_threads)
    log.emit("environment", values=environment(device, precision))
    log.emit("stage", stage="prepare")
    sensor = open_sensor(device)
    with clock.phase("idle"):
        idle = idle_window(sensor)
    with clock.phase("load"):
        bare = load_bare(spec.model)
        _check_lengths(spec, bare)
    if settings.memory or settings.largest_batch:  # before this process takes any of the device's memory
        with clock.phase("memory"):
            _memory(spec, job, log, device, precision)
    with clock.phase("load"):
        bare.encoder.to(device)
        candidates = [make_candidate(method, bare, device=device, precision=precision) for method in spec.methods]
    log.emit("resolved", model_revision=bare.revision, random_weights=not bare.has_weights)
    profile = _Profile(spec, out, device, precision, log, clock, sensor, bare, candidates)
    _ceilings(profile)
    flops = _count(profile)
    _steps(profile, flops)
    _energy(profile, idle)
    _latency(profile)
    if settings.throughput:
        _throughput(profile)
    _store_samples(profile)
    wall = clock.wall()
    for name, seconds in clock.seconds.items():
        log.measure("phase_s", seconds, "s", phase=name)
    log.measure("phase_s", max(0.0, wall - sum(clock.seconds.values())), "s", phase="unattributed")
    log.measure("wall_s", wall, "s")


def _check_lengths(spec: ProfileSpec, bare: BareModel) -> None:
    for name, asked in (
        ("length", spec.settings.length),
        *(("latency_lengths", length) for length in spec.settings.latency_lengths or ()),
    ):
        if asked > bare.max_positions:
            raise ModelError(
                f"{name} is {asked}, but model '{spec.model}' takes {bare.max_positions} tokens; set {name} lower"
            )


def _of(candidate: Candidate) -> dict[str, Any]:
    return {"method": candidate.name, **candidate.variant}


def _ceilings(profile: _Profile) -> None:
    with profile.clock.phase("ceilings"):
        matmul = matmul_flops_per_s(profile.device, profile.precision)
        profile.log.measure("ceiling_matmul_flops_per_s", matmul, "1/s", dtype=profile.precision)
        profile.log.measure("ceiling_copy_bytes_per_s", copy_bytes_per_s(profile.device), "B/s")
        profile.samples["ceiling_matmul_flops_per_s"] = matmul


def _count(profile: _Profile) -> dict[str, Flops]:
    """Parameters and FLOPs of each method."""
    settings, log, found = profile.spec.settings, profile.log, {}
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length}
    with profile.clock.phase("count_flops"):
        for candidate in profile.candidates:
            counter = FlopCounter(candidate.model, candidate.method, profile.inputs)
            flops = found[candidate.name] = counter.step(settings.batch, settings.length)
            of: dict[str, Any] = {"variant": _of(candidate)}
            for phase, count in (("", flops.total), ("forward", flops.forward), ("backward", flops.backward)):
                log.measure("step_flops", count, "1", phase=phase, **where, **of)
            uncounted = sorted(flops.uncounted)
            log.measure("flops_uncounted_operations", len(uncounted), "1", reason=", ".join(uncounted), **of)
            counts = count_parameters(candidate.model)
            log.measure("trainable_parameters_method", counts.trainable_method, "1", **of)
            log.measure("trainable_parameters_head", counts.trainable_head, "1", **of)
            log.measure("total_parameters", counts.total, "1", **of)
    return found


def _memory(spec: ProfileSpec, job: Path, log: EventLog, device: torch.device, precision: str) -> None:
    """Peaks and parts of each method's step, and the largest batch that fits, in processes of their own."""
    settings = spec.settings
    log.emit("stage", stage="memory")
    where: dict[str, Any] = {"phase": "train", "batch": settings.batch, "length": settings.length}
    for number, method in enumerate(map(str, spec.methods)):
        of: dict[str, Any] = {"variant": {"method": method}}
        logger.info("memory of %s", method)
        if settings.memory:
            found = run_probe(job, number, settings.batch, device, precision)
            if found["outcome"] == "oom":
                raise ModelError(f"a step of {method} does not fit into memory; use a smaller batch")
            for name, (peak, reason) in found["peaks"].items():
                log.measure(name, peak, "B", reason=reason, **where, **of)
            for part, size in found["parts"].items():
                log.measure("memory_bytes", size, "B", **where, variant={"method": method, "part": part})
        if settings.largest_batch:
            limit = settings.memory_limit or available_memory(device)
            fits, too_large = largest_batch(job, number, device, precision, limit=limit, start=settings.batch)
            reason = f"{too_large} is too large" if too_large else "none was too large"
            log.measure("largest_batch", fits, "1", reason=reason, length=settings.length, **of)


def _compile(
    profile: _Profile, candidates: Sequence[Candidate], takes: Mapping[str, Callable[[int], Any]], **where: Any
) -> None:
    """Where the profile asks for it, let torch.compile make each candidate's code for a shape; what that takes."""
    if not profile.spec.settings.compile:
        return
    # Each shape, mode and candidate is a compilation of its own; beyond its limit dynamo would fall back to eager.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MAX_COMPILATIONS
    with profile.clock.phase("compile"):
        for candidate in candidates:
            candidate.model.compile(dynamic=False)
            start = time.perf_counter()
            takes[candidate.label](1)
            seconds = time.perf_counter() - start
            profile.log.measure("compile_s", seconds, "s", **where, variant=_of(candidate))


def _steps(profile: _Profile, flops: Mapping[str, Flops]) -> None:
    """Training steps by turns: times, ratios, and what they achieve."""
    settings, log = profile.spec.settings, profile.log
    log.emit("stage", stage="steps")
    inputs = profile.inputs(settings.batch, settings.length)
    takes = {candidate.name: candidate.steps(inputs) for candidate in profile.candidates}
    _compile(profile, profile.candidates, takes, phase="train", batch=settings.batch, length=settings.length)
    start = profile.sensor.read()
    with profile.clock.phase("steps"):
        taken = interleave(
            takes,
            blocks=settings.blocks,
            turn_seconds=settings.turn_seconds,
            seed=0,
            progress=profile.progress("training steps", settings.blocks),
        )
    window = Window(start, profile.sensor.read())
    seconds = {
        name: {
            phase: [[getattr(step, phase) for step in block] for block in blocks] for phase in (*STEP_PHASES, "total")
        }
        for name, blocks in taken.items()
    }
    profile.samples["step_seconds"] = seconds
    ceiling = profile.samples["ceiling_matmul_flops_per_s"]
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length, "dtype": profile.precision}
    problems = window.problems()
    for candidate in profile.candidates:
        own, base = seconds[candidate.name], seconds[profile.reference.name]
        of: dict[str, Any] = {"variant": _of(candidate)}
        for phase in ("", *STEP_PHASES):
            values, at = per_block(own[phase or "total"]), {"phase": phase, **where}
            log.measure("step_latency_s", statistics.median(values), "s", statistic="p50", **at, **of)
            if candidate is not profile.reference:
                _ratio(profile, "step_ratio", candidate, values, per_block(base[phase or "total"]), **at)
        step = statistics.median(per_block(own["total"]))
        achieved = flops[candidate.name].total / step
        log.measure("achieved_flops_per_s", achieved, "1/s", **where, **of)
        log.measure("flops_utilisation", achieved / ceiling, "1", **where, **of)
        samples = [value for block in own["total"] for value in block]
        drawn = draws_its_steps(candidate.method, candidate.model.encoder)
        _flag(profile, candidate, problems, [] if drawn else samples, phase="train", **where)


def _flag(
    profile: _Profile, candidate: Candidate, problems: Sequence[str], samples: Sequence[float], **where: Any
) -> None:
    """What is known against figures: of the time they were taken in, and by the samples themselves."""
    told = [*problems, *sample_problems(samples)]
    variant = _of(candidate)
    profile.log.measure("disturbance", len(told), "1", reason="; ".join(told), **where, variant=variant)


def _ratio(
    profile: _Profile, name: str, candidate: Candidate, of: Sequence[float], to: Sequence[float], **where: Any
) -> None:
    found = paired_ratio(of, to)
    variant = {**_of(candidate), "reference": profile.reference.name}
    for statistic, value in (("ratio", found.ratio), ("low", found.low), ("high", found.high)):
        profile.log.measure(name, value, "1", statistic=statistic, variant=variant, **where)


def _energy(profile: _Profile, idle: Window | None) -> None:
    """Joules of a training step above idle, in turns of 10 s or more."""
    settings, log = profile.spec.settings, profile.log
    where: dict[str, Any] = {"batch": settings.batch, "length": settings.length, "dtype": profile.precision}
    if idle is None:
        reason = profile.sensor.read().energy_reason
        for candidate in profile.candidates:
            log.measure("step_energy_j", None, "J", reason=reason, **where, variant=_of(candidate))
        return
    log.emit("stage", stage="energy")
    inputs = profile.inputs(settings.batch, settings.length)

    unknown: dict[str, str] = {}

    def metered(candidate: Candidate) -> Callable[[int], list[float]]:
        take = candidate.steps(inputs)

        def turn(_: int) -> list[float]:
            start, steps = profile.sensor.read(), 0
            while (window := Window(start, profile.sensor.read())).seconds < settings.energy_seconds:
                steps += len(take(1))
            joules, why = energy_above_idle(window, idle)
            if joules is None:
                unknown[candidate.name] = why
            return [(joules or 0.0) / steps]

        return turn

    with profile.clock.phase("energy"):
        used = interleave(
            {candidate.name: metered(candidate) for candidate in profile.candidates},
            blocks=ENERGY_BLOCKS,
            turn_seconds=settings.energy_seconds,
            repetitions=1,
            seed=1,
            progress=profile.progress("energy", ENERGY_BLOCKS),
        )
    profile.samples["step_energy_j"] = used
    for candidate in profile.candidates:
        values, reason = per_block(used[candidate.name]), unknown.get(candidate.name, "")
        joules = None if reason else statistics.median(values)
        log.measure("step_energy_j", joules, "J", reason=reason, **where, variant=_of(candidate))
        if candidate is not profile.reference and not unknown:
            _ratio(profile, "energy_ratio", candidate, values, per_block(used[profile.reference.name]), **where)


def _latency(profile: _Profile) -> None:
    """Forward passes of every candidate and way of serving by turns, cell by cell of the grid."""
    settings, log = profile.spec.settings, profile.log
    default_batches, default_lengths = GRIDS[profile.device.type]
    batches = default_batches if settings.latency_batches is None else settings.latency_batches
    lengths = [n for n in settings.latency_lengths or default_lengths if n <= profile.bare.max_positions]
    if not batches:
        return
    log.emit("stage", stage="latency")
    with profile.clock.phase("load"):
        kept = [
            variant
            for method in (profile.spec.methods if settings.variants else ())
            for variant in variants(method, profile.bare, device=profile.device, precision=profile.precision)
        ]
    serving = [*profile.candidates, *(candidate for candidate, _ in kept)]
    profile.samples["latency_s"] = []
    with served_in(profile.precision, [candidate.model for candidate in serving]):
        _latency_cells(profile, serving, product(batches, lengths))


def _latency_cells(profile: _Profile, serving: Sequence[Candidate], cells: Iterable[tuple[int, int]]) -> None:
    settings, log = profile.spec.settings, profile.log
    for batch, length in cells:
        inputs = profile.inputs(batch, length)
        takes = {candidate.label: candidate.forwards(inputs) for candidate in serving}
        _compile(profile, serving, takes, phase="inference", batch=batch, length=length)
        with profile.clock.phase("latency"):
            once = min(sum(takes[profile.reference.label](1)) for _ in range(2))
            start = profile.sensor.read()
            turn = max(once, settings.latency_seconds / 20)
            blocks = min(MAX_BLOCKS, max(MIN_BLOCKS, round(settings.latency_seconds / turn)))
            taken = interleave(
                takes,
                blocks=blocks,
                turn_seconds=turn,
                seed=batch * length,
                progress=profile.progress(f"latency of {batch} x {length}", blocks),
            )
            problems = Window(start, profile.sensor.read()).problems()
            profile.samples["latency_s"].append({"batch": batch, "length": length, "samples": taken})
            for candidate in serving:
                seconds = taken[candidate.label]
                cell = Latency([], [value for block in seconds for value in block])
                where: dict[str, Any] = {"batch": batch, "length": length, "dtype": profile.precision}
                log_latency(log, cell, **where, variant=_of(candidate))
                _flag(profile, candidate, problems, per_block(seconds), phase="inference", **where)
                if candidate is not profile.reference:
                    base = per_block(taken[profile.reference.label])
                    _ratio(profile, "latency_ratio", candidate, per_block(seconds), base, **where)


def _throughput(profile: _Profile) -> None:
    """Examples per second as the batch doubles, until it gains less than 5 % twice."""
    length, log = profile.spec.settings.length, profile.log
    tried = profile.samples["throughput_s"] = []
    models = [candidate.model for candidate in profile.candidates]
    with profile.clock.phase("throughput"), served_in(profile.precision, models):
        for candidate in profile.candidates:
            batch, best, flat = 1, 0.0, 0
            while flat < 2 and batch <= LARGEST_THROUGHPUT_BATCH:
                try:
                    take = candidate.forwards(profile.inputs(batch, length))
                    seconds = take(4)[1:]
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    break
                rate = batch / statistics.median(seconds)
                tried.append({"method": candidate.name, "batch": batch, "length": length, "samples": seconds})
                where: dict[str, Any] = {"batch": batch, "length": length, "dtype": profile.precision}
                log.measure(
                    "throughput_samples_per_s", rate, "1/s", phase="saturation", **where, variant=_of(candidate)
                )
                flat = flat + 1 if rate < best * SATURATED else 0
                best = max(best, rate)
                batch *= 2
            log.measure("throughput_saturated_samples_per_s", best, "1/s", length=length, variant=_of(candidate))


def _store_samples(profile: _Profile) -> None:
    file = profile.out / "samples.json.gz"
    with gzip.open(file, "wt", encoding="utf-8") as text:
        json.dump({"format": 2, **profile.samples}, text)
    profile.log.artifact("samples", file)
