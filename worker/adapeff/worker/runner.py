"""Run one job: `python -m adapeff.worker.runner job.json --out DIR`.

Needs neither database nor queue, only torch, transformers and peft. It writes `events.jsonl` (see `events.py`) and the
artifacts to DIR and logs to stderr. The exit code is 0 on success and 1 if the job failed; the last event contains the
reason.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import random
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError

from adapeff.service import measurements as m
from adapeff.service.errors import (
    AdapeffError,
    NotHereError,
    ResourceError,
    SpecError,
    UnknownNameError,
    first_line,
    first_problem,
)
from adapeff.service.masking import mask
from adapeff.service.measured import Dimensions
from adapeff.service.plugins import catalog
from adapeff.service.specs.fingerprints import file_fingerprint
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import AnySpec, ProfileSpec, read_spec
from adapeff.worker.devices.choice import choose_device, out_of_memory
from adapeff.worker.devices.environment import environment
from adapeff.worker.devices.locks import occupy
from adapeff.worker.devices.memory import Memory
from adapeff.worker.events import DISK_FAILED, WAITING, EventLog
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock, log_phases
from adapeff.worker.measure.flops import FlopCounter, draws_its_steps
from adapeff.worker.modeling.models import import_architecture
from adapeff.worker.modeling.weights import WEIGHTS
from adapeff.worker.profiling.profiler import run_profile
from adapeff.worker.sensors.window import Window, idle_window
from adapeff.worker.training.evaluate import Predictions
from adapeff.worker.training.forgetting import measure_forgetting
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
from adapeff.worker.training.tuning import Bench, answer_validation, learn

logger = logging.getLogger("adapeff.runner")


def run_job(
    spec: JobSpec,
    out: Path,
    *,
    device_name: str | None = None,
    data_root: Path | None = None,
    sources: Mapping[str, Path] | None = None,
    cache: Path | None = None,
    clock: PhaseClock | None = None,
) -> None:
    """Run a job and write every result to the event log in `out`.

    Args:
        clock: runs since the process started; a new one if None.
        sources: weights folder of each source job, by job hash.
        cache: folder of tokenised data, shared between runners.

    Raises:
        AdapeffError: if the job, its data or its model is invalid.
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
    log.emit("environment", values=environment(device, precision))
    log.measure(m.LOAD_AVERAGE_1M, os.getloadavg()[0], phase="startup")
    bench = Bench(device, precision, clock, sensor, memory, log, out)
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
            part.name: predict(part, prepared.model_of(part), device=bench.device, precision=bench.precision)
            for part in prepared.parts
        }


def ending(error: BaseException) -> tuple[str, str]:
    """Return the outcome and one-line message of a run that ends with an exception."""
    if isinstance(error, AdapeffError):
        return "error", mask(str(error)).strip()
    line = first_line(error)
    if out_of_memory(error):
        return "oom", f"out of memory ({line}); use a smaller batch_size or max_length"
    return "error", f"{type(error).__name__}: {line}"


_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.EFBIG, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
}


def is_of_the_host(error: BaseException) -> bool:
    """Whether the error is this host's fault, not the job's: something is missing, or the disk fails."""
    if isinstance(error, ResourceError | UnknownNameError | ImportError):
        return True
    if isinstance(error, OSError):
        return error.errno in _OF_THE_DISK
    return any(f"(os error {number})" in str(error) for number in _OF_THE_DISK)  # how Rust libraries report them


def main() -> int:
    """Parse the command line, run the job and write its outcome as the last event."""
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker.runner", description="Run one job, alone.")
    parser.add_argument("job", type=Path, help="the job's specification, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for events and artifacts")
    parser.add_argument("--device", choices=sorted(catalog.devices()), help="default: the job's device")
    parser.add_argument("--data-root", type=Path, help="folder of local data sets")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="JOB_HASH[@SHA256]=FOLDER",
        help="folder with the weights of a source job, and their expected hash; repeatable",
    )
    parser.add_argument("--cache", type=Path, help="folder of tokenised data, shared by runners; may be emptied")
    parser.add_argument("--locks", type=Path, help="folder of the host's locks (default: the host's standard one)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    os.umask(0o077)  # a run's files are private to this user
    arguments.out.mkdir(parents=True, exist_ok=True)
    clock, log = PhaseClock(), EventLog(arguments.out)
    try:
        spec = _read_spec(arguments.job)
        sources = dict(_read_source(text) for text in arguments.source)
        if arguments.device is not None and spec.device not in ("any", arguments.device):
            raise SpecError(f"the job requests device: {spec.device}, but --device is {arguments.device}")
        with ExitStack() as locks:
            with clock.phase("wait"):
                device, alone = choose_device(arguments.device or spec.device).identity(), isinstance(spec, ProfileSpec)
                waiting: dict[str, Any] = {"waiting": lambda: _tell_waiting(log), "folder": arguments.locks}
                locks.enter_context(occupy(device, alone=alone, **waiting))
            if isinstance(spec, ProfileSpec):
                run_profile(spec, arguments.job, arguments.out, device_name=arguments.device, clock=clock)
            else:
                run_job(
                    spec,
                    arguments.out,
                    device_name=arguments.device,
                    data_root=arguments.data_root,
                    sources=sources,
                    cache=arguments.cache,
                    clock=clock,
                )
    except KeyboardInterrupt:
        return _end(log, 130, outcome="cancelled", message="interrupted")
    except Exception as error:
        outcome, message = ending(error)
        logger.log(logging.ERROR, "%s", message, exc_info=None if isinstance(error, AdapeffError) else error)
        return _end(log, 1, outcome=outcome, message=message, not_here=is_of_the_host(error))
    return _end(log, 0, outcome="succeeded", message="")


def _end(log: EventLog, code: int, **values: Any) -> int:
    """Write the last event and return the exit code, which replaces the event if it cannot be written."""
    try:
        log.emit("end", **values)
    except OSError as error:
        logger.error("cannot write the run's last event: %s", error)  # noqa: TRY400 - the message is enough
        return DISK_FAILED
    return code


def _read_source(text: str) -> tuple[str, Path]:
    """Parse JOB_HASH[@SHA256]=FOLDER into a job hash and the folder of its weights.

    Raises:
        SpecError: if the weights do not match the hash.
    """
    name, _, folder = text.partition("=")
    job_hash, _, digest = name.partition("@")
    weights = Path(folder) / WEIGHTS
    if digest and weights.is_file() and file_fingerprint(weights) != digest:
        raise SpecError(
            f"the weights of source job {job_hash[:12]} in {weights} have changed since its run stored them; "
            "restore them, or rerun that job (adapeff submit --force)"
        )
    return job_hash, Path(folder)


def _tell_waiting(log: EventLog) -> None:
    logger.info("waiting: a profile uses its device alone, so it waits for other runs, and they for it")
    log.emit("stage", stage=WAITING)


def _read_spec(path: Path) -> AnySpec:
    try:
        return read_spec(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SpecError(f"cannot read job file {path}: {error.strerror}") from error
    except ValidationError as error:
        raise NotHereError(
            f"{path} is not a job specification that this adapeff can read: {first_problem(error)}"
        ) from error
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{path} is not a job specification: it is not a JSON object ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
