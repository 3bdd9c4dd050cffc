"""A training run: the stages of a job, from loading the model to its last measurement."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from adapeff.service import measurements as m
from adapeff.service.measured import Dimensions
from adapeff.service.plugins import catalog
from adapeff.service.specs.job import JobSpec
from adapeff.worker.devices.choice import choose_device
from adapeff.worker.devices.environment import environment
from adapeff.worker.devices.memory import Memory
from adapeff.worker.events import EventLog
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock, log_phases
from adapeff.worker.measure.flops import FlopCounter, draws_its_steps
from adapeff.worker.modeling.models import import_architecture
from adapeff.worker.sensors.window import Window, idle_window
from adapeff.worker.training.checkpoints import Checkpoints
from adapeff.worker.training.evaluate import Predictions
from adapeff.worker.training.forgetting import measure_forgetting
from adapeff.worker.training.learned import Bench
from adapeff.worker.training.load import Part, Prepared, prepare
from adapeff.worker.training.record import (
    describe_data,
    measure_data,
    measure_disturbance,
    measure_energy,
    measure_flops,
    measure_memory_breakdown,
    measure_parameters,
    measure_training,
    measure_tuning,
    measure_warmup,
    model_inputs,
    store_samples,
    store_weights,
)
from adapeff.worker.training.record_inference import (
    measure_latency,
    measure_mean_quality,
    measure_quality,
    measure_variants,
    predict,
    store_example_scores,
    store_predictions,
)
from adapeff.worker.training.tuning import answer_validation, learn


def run_job(
    spec: JobSpec,
    out: Path,
    *,
    device_name: str | None = None,
    data_root: Path | None = None,
    sources: Mapping[str, Path] | None = None,
    cache: Path | None = None,
    clock: PhaseClock | None = None,
    checkpoints: Callable[[Mapping[str, Any]], Checkpoints] | None = None,
) -> None:
    """Run a job and write every result to the event log in `out`.

    Args:
        clock: runs since the process started; a new one if None.
        sources: weights folder of each source job, by job hash.
        cache: folder of tokenised data, shared between runners.
        checkpoints: opens those of the job that were written on hardware and software like the given environment.

    Raises:
        AdapeffError: if the job, its data or its model is invalid.
        StoppedError: if it was asked to stop, and has written a checkpoint.
    """
    clock = clock or PhaseClock()
    log = EventLog(out)
    device = choose_device(device_name or spec.training.device)
    device.prepare(cpu_threads=spec.training.cpu_threads)
    precision = device.choose_precision(spec.training.precision)
    with clock.phase("load"):
        import_architecture(spec.model)
    random.seed(spec.seed)
    torch.manual_seed(spec.seed)
    memory, sensor = Memory(device), device.open_sensor()
    here = environment(device, precision)
    log.emit("environment", values=here)
    log.measure(m.LOAD_AVERAGE_1M, os.getloadavg()[0], phase="startup")
    bench = Bench(device, precision, clock, sensor, memory, log, out, checkpoints(here) if checkpoints else None)
    with clock.phase("idle"):
        idle = idle_window(sensor)

    log.emit("stage", stage="prepare")
    memory.start()
    tokens = TokenCache(cache)
    prepared = prepare(spec, device, clock, data_root, sources or {}, tokens)
    measure_parameters(log, prepared.model)
    measure_data(log, prepared, tokens)
    metric = catalog.get_metric(prepared.task.metric)
    log.emit(
        "resolved",
        model_revision=prepared.loaded.revision,
        metric=prepared.task.metric,
        source_language=prepared.task.source_language,
        metric_unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        **describe_data(prepared, data_root),
        **m.changed_versions("train"),
    )

    before: dict[str, dict[str, Predictions]] = {}
    if spec.base:
        choose(prepared, bench)
        before = test(prepared, bench)

    log.emit("stage", stage="train")
    memory.restart()
    learned = learn(spec, prepared, bench)
    trained = learned.result
    for name, (peak, reason) in memory.peaks().items():
        log.measure(m.MEASUREMENTS[name], peak, reason=reason, phase="train")
    measure_training(log, prepared, learned)
    with clock.phase("count_flops"):
        counters = [
            FlopCounter(prepared.model_of(part), prepared.method, model_inputs(prepared, part, device))
            for part in prepared.parts
        ]
        flops = measure_flops(log, prepared, trained, counters)
    measure_warmup(log, trained, flops)
    rates = (
        [step.total / max(1.0, count) for step, count in zip(trained.steps_taken, flops, strict=True)] if flops else []
    )
    drawn = draws_its_steps(prepared.method, prepared.model.encoder)
    measure_disturbance(log, "train", learned.window, [] if drawn else rates)
    measure_energy(log, learned, idle)
    measure_tuning(log, learned)
    with clock.phase("footprint"):
        measure_memory_breakdown(log, prepared, trained, device=device, precision=precision)
    store_weights(log, spec, prepared.model, out)

    log.emit("stage", stage="evaluate")
    for part, chosen in choose(prepared, bench):  # the last validation may have been of another state
        where: Dimensions = {"split": "validation", "language": part.task.source_language, "task": part.name}
        for name, value in chosen.items():
            log.measure(m.CHOSEN.of(name), value, **where)
    predictions = test(prepared, bench)
    with clock.phase("score"):
        for part in prepared.parts:
            measure_quality(log, part, predictions[part.name])
            store_example_scores(log, part.metric, predictions[part.name], task=part.name)
        if prepared.is_mixture:
            measure_mean_quality(log, prepared, predictions)
        if spec.base:
            measure_forgetting(log, prepared, before, predictions)
    store_predictions(log, predictions, out)

    log.emit("stage", stage="profile")
    log.measure(m.LOAD_AVERAGE_1M, os.getloadavg()[0], phase="profile")
    start = sensor.read()
    with clock.phase("profile"):
        samples = [
            cell
            for part in prepared.parts
            for cell in measure_latency(
                spec, prepared, part, log, prepared.model_of(part), device=device, precision=precision
            )
        ]
    measure_disturbance(log, "inference", Window(start, sensor.read()), [])
    if spec.measuring.variants:
        log.emit("stage", stage="variants")
        with clock.phase("variants"):
            for part in prepared.parts:
                samples += measure_variants(
                    spec, prepared, part, predictions[part.name], log, device=device, precision=precision
                )
    store_samples(log, trained, samples, out)
    log_phases(log, clock)


def choose(prepared: Prepared, bench: Bench) -> list[tuple[Part, dict[str, float]]]:
    """Have each family choose by validation data, with the weights as they are, what it has to choose."""
    with bench.clock.phase("validation"):
        choosing = [part for part in prepared.parts if part.family.chooses]
        return [(part, answer_validation(prepared, part, bench).chosen) for part in choosing]


def test(prepared: Prepared, bench: Bench) -> dict[str, dict[str, Predictions]]:
    """Predict the test data: task -> language -> predictions."""
    with bench.clock.phase("test"):
        return {
            part.name: predict(
                part, prepared.model_of(part), device=bench.device, precision=bench.precision, alive=bench.log.alive
            )
            for part in prepared.parts
        }
