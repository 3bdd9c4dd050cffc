"""Run the stages of a profile job in order and store their raw samples."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adapeff.service import measurements as m
from adapeff.service.errors import ModelError
from adapeff.service.specs.profile import ProfileSpec
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import choose_device
from adapeff.worker.devices.environment import environment
from adapeff.worker.events import EventLog
from adapeff.worker.measure.clocks import PhaseClock, log_phases
from adapeff.worker.measure.device_peaks import copy_bytes_per_s, matmul_flops_per_s
from adapeff.worker.profiling.bench import Bench
from adapeff.worker.profiling.candidates import BareModel, load_bare, make_candidate
from adapeff.worker.profiling.energy import measure_energy
from adapeff.worker.profiling.latency_grid import CellSamples, ThroughputSamples, find_throughput, time_latency
from adapeff.worker.profiling.memory_probe import largest_batch, run_probe
from adapeff.worker.profiling.steps import StepSamples, count_flops, time_steps
from adapeff.worker.sensors.window import idle_window

logger = logging.getLogger("adapeff.runner")


@dataclass(frozen=True)
class Samples:
    """The raw samples of a profile; None: that stage measured nothing."""

    ceiling_matmul_flops_per_s: float
    step_seconds: StepSamples
    step_energy_j: dict[str, list[list[float]]] | None
    latency_s: list[CellSamples] | None
    throughput_s: list[ThroughputSamples] | None


def run_profile(
    spec: ProfileSpec, job: Path, out: Path, *, device_name: str | None = None, clock: PhaseClock | None = None
) -> None:
    """Run a profile job and write every result to the event log in `out`.

    Args:
        clock: runs since the process started; a new one if None.
        job: the file `spec` was read from, for the processes that measure memory.

    Raises:
        AdapeffError: if the job or its model is invalid.
    """
    clock, log, settings = clock or PhaseClock(), EventLog(out), spec.settings
    device = choose_device(device_name or settings.device)
    device.prepare(cpu_threads=settings.cpu_threads)
    precision = device.choose_precision(settings.precision)
    torch.manual_seed(0)
    log.emit("environment", values=environment(device, precision))
    log.emit("stage", stage="prepare")
    sensor = device.open_sensor()
    with clock.phase("idle"):
        idle = idle_window(sensor)
    with clock.phase("load"):
        bare = load_bare(spec.model)
        _check_lengths(spec, bare)
    if settings.memory or settings.largest_batch:  # before this process takes any of the device's memory
        with clock.phase("memory"):
            _measure_memory(spec, job, log, device, precision)
    with clock.phase("load"):
        bare.encoder.to(device.torch_device)
        candidates = [make_candidate(method, bare, device=device, precision=precision) for method in spec.methods]
    log.emit(
        "resolved",
        model_revision=bare.revision,
        random_weights=not bare.has_weights,
        **m.changed_versions("profile"),
    )
    bench = Bench(spec, device, precision, log, clock, sensor, bare, candidates)
    matmul_peak = _measure_device_peaks(bench)
    flops = count_flops(bench)
    samples = Samples(
        ceiling_matmul_flops_per_s=matmul_peak,
        step_seconds=time_steps(bench, flops, matmul_peak),
        step_energy_j=measure_energy(bench, idle),
        latency_s=time_latency(bench),
        throughput_s=find_throughput(bench) if settings.throughput else None,
    )
    _store_samples(samples, log, out)
    log_phases(log, clock)


def _check_lengths(spec: ProfileSpec, bare: BareModel) -> None:
    for name, asked in (
        ("length", spec.settings.length),
        *(("latency_lengths", length) for length in spec.settings.latency_lengths or ()),
    ):
        if asked > bare.max_positions:
            raise ModelError(
                f"{name} is {asked}, but model '{spec.model}' takes {bare.max_positions} tokens; set {name} lower"
            )


def _measure_device_peaks(bench: Bench) -> float:
    """Measure the device's peak rates and return its peak FLOP/s."""
    with bench.clock.phase("ceilings"):
        matmul_peak = matmul_flops_per_s(bench.device, bench.precision)
        bench.log.measure(m.PEAK_MATMUL, matmul_peak, dtype=bench.precision)
        bench.log.measure(m.PEAK_COPY, copy_bytes_per_s(bench.device))
    return matmul_peak


def _measure_memory(spec: ProfileSpec, job: Path, log: EventLog, device: Device, precision: str) -> None:
    """Peaks and parts of each method's step, and the largest batch that fits, in separate processes."""
    settings = spec.settings
    log.emit("stage", stage="memory")
    where: dict[str, Any] = {"phase": "train", "batch": settings.batch, "length": settings.length}
    for number, method in enumerate(map(str, spec.methods)):
        variant: dict[str, Any] = {"variant": {"method": method}}
        logger.info("memory of %s", method)
        if settings.memory:
            probed = run_probe(job, number, settings.batch, device, precision)
            if probed["outcome"] == "oom":
                raise ModelError(f"a step of {method} does not fit into memory; use a smaller batch")
            for name, (peak, reason) in probed["peaks"].items():
                log.measure(m.MEASUREMENTS[name], peak, reason=reason, **where, **variant)
            for part, size in probed["parts"].items():
                log.measure(m.MEMORY_BYTES, size, **where, variant={"method": method, "part": part})
        if settings.largest_batch:
            limit = settings.memory_limit or device.available_memory()
            fits, too_large = largest_batch(job, number, device, precision, limit=limit, start=settings.batch)
            reason = f"{too_large} is too large" if too_large else "none was too large"
            log.measure(m.LARGEST_BATCH, fits, reason=reason, length=settings.length, **variant)


def _store_samples(samples: Samples, log: EventLog, out: Path) -> None:
    file = out / "samples.json.gz"
    measured = {name: value for name, value in asdict(samples).items() if value is not None}
    with gzip.open(file, "wt", encoding="utf-8") as text:
        json.dump({"format": 2, **measured}, text)
    log.artifact("samples", file)
