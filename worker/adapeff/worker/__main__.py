"""`python -m adapeff.worker VERB`: what the command line needs of the worker, in processes of its own.

daemon [--devices D]         serve the queue until a signal says stop
sweep ID [--devices D]       run the jobs of one sweep, then end
devices                      say which GPUs a worker would use, one JSON object each
count --model M METHOD ...   say what each method would train on a model, one JSON object a line
validate TASK [--model M]    look a task's data over, one JSON object per split and language
bench [--threads N]          measure the peak rates of the device: matrix products and copying, one JSON object each
init FILE                    write a task.yaml from what a data file shows; answers with what it says
verify [DATA_SET ...]        read the hub's data sets as they are declared, pin what was read; one JSON object each
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from adapeff.service.errors import AdapeffError, ConfigError, ExitCode
from adapeff.service.settings import load_settings
from adapeff.service.store.database import open_database


def main() -> int:
    """Run a verb; expected errors are one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker")
    verbs = parser.add_subparsers(dest="verb", required=True)
    daemon = verbs.add_parser("daemon", help="serve the queue until a signal says stop")
    sweep = verbs.add_parser("sweep", help="run the jobs of one sweep, then end")
    sweep.add_argument("sweep_id", type=int)
    for verb in (daemon, sweep):
        verb.add_argument("--devices", default="auto")
        verb.add_argument("--quiet", action="store_true", help="warnings only")
        verb.add_argument("--stop-with-stdin", action="store_true", help="hand back and stop when stdin ends")
    verbs.add_parser("devices", help="say which GPUs a worker would use, in JSON lines")
    count = verbs.add_parser("count", help="say what each method would train on a model, in JSON lines")
    count.add_argument("--model", required=True)
    count.add_argument("methods", nargs="+")
    validate = verbs.add_parser("validate", help="look a task's data over, in JSON lines")
    validate.add_argument("task")
    validate.add_argument("--model")
    validate.add_argument("--max-length", type=int)
    init = verbs.add_parser("init", help="write a task.yaml from what a data file shows")
    init.add_argument("file")
    bench = verbs.add_parser("bench", help="measure what the device can do at most, in JSON lines")
    bench.add_argument("--threads", type=int, default=1)
    verify = verbs.add_parser("verify", help="read and pin the hub's data sets, in JSON lines")
    verify.add_argument("data_sets", nargs="*")
    parser.set_defaults(quiet=False)
    arguments = parser.parse_args()
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        level=logging.WARNING if arguments.quiet else logging.INFO,
    )
    for talkative in ("alembic", "celery", "kombu"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        if arguments.verb == "devices":
            return _devices()
        _check_packages()
        if arguments.verb == "count":
            return _count(arguments.model, arguments.methods)
        if arguments.verb == "validate":
            return _validate(arguments.task, arguments.model, arguments.max_length)
        if arguments.verb == "init":
            return _init(arguments.file)
        if arguments.verb == "bench":
            return _bench(arguments.threads)
        if arguments.verb == "verify":
            return _verify(arguments.data_sets)
        sweep_id = arguments.sweep_id if arguments.verb == "sweep" else None
        return _daemon(arguments.devices, sweep_id, stop_with_stdin=arguments.stop_with_stdin)
    except AdapeffError as error:
        print(f"adapeff: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _check_packages() -> None:
    if missing := [package for package in ("torch", "transformers", "peft") if find_spec(package) is None]:
        raise ConfigError(f"work needs {', '.join(missing)}, not installed here; run pip install 'adapeff[worker]'")


def _count(model: str, methods: list[str]) -> int:
    from adapeff.worker.modeling.counting import count_methods

    for answer in count_methods(model, methods):
        print(json.dumps(answer), flush=True)
    return ExitCode.OK


def _validate(written: str, model: str | None, max_length: int | None) -> int:
    from adapeff.service.plugins.catalog import get_task
    from adapeff.service.plugins.references import parse_plugin
    from adapeff.service.specs.job import Training
    from adapeff.worker.tasks.validation import look_over

    reference = parse_plugin(written)
    task = get_task(reference.name, reference.parameters)
    settings = Training(learning_rate=1, max_length=max_length or task.max_length or 128)
    count_tokens = None
    if model is not None:
        from adapeff.worker.families.token_counts import token_counter

        count_tokens = token_counter(task, model, settings)
    for answer in look_over(
        task, load_settings().values.data_root, count_tokens=count_tokens, max_length=settings.max_length
    ):
        print(json.dumps(answer), flush=True)
    return ExitCode.OK


def _init(file: str) -> int:
    from adapeff.worker.tasks.init import write

    place, made = write(Path(file))
    print(json.dumps({"file": str(place), "task": made}), flush=True)
    return ExitCode.OK


def _bench(threads: int) -> int:
    from adapeff.worker.devices.choice import choose_device
    from adapeff.worker.measure.device_peaks import copy_bytes_per_s, matmul_flops_per_s

    device = choose_device("any")
    device.prepare(cpu_threads=threads)
    name = device.environment()["device_name"]
    where = name if device.is_asynchronous else f"{name}, {threads} thread(s)"
    for precision in dict.fromkeys(("fp32", device.choose_precision("auto"))):
        rate = matmul_flops_per_s(device, precision)
        print(json.dumps({"check": f"matrix product {precision}", "value": rate, "unit": "FLOP/s", "where": where}))
    rate = copy_bytes_per_s(device)
    print(json.dumps({"check": "memory copy", "value": rate, "unit": "B/s", "where": where}), flush=True)
    return ExitCode.OK


def _verify(names: list[str]) -> int:
    from adapeff.service.errors import UnknownNameError
    from adapeff.worker.tasks.hub import VERIFIED, hub_data_sets
    from adapeff.worker.tasks.verification import verify

    known = hub_data_sets()
    for name in names:
        if name not in known:
            raise UnknownNameError("data set", name, known)
    for answer in verify([known[name] for name in names or known], VERIFIED):
        print(json.dumps(answer), flush=True)
    return ExitCode.OK


def _devices() -> int:
    from adapeff.worker.daemon.slots import usable_accelerators

    for uuid, name in usable_accelerators():
        print(json.dumps({"uuid": uuid, "name": name}), flush=True)
    return ExitCode.OK


def _daemon(devices: str, sweep_id: int | None, *, stop_with_stdin: bool) -> int:
    from adapeff.worker.daemon.consumer import Consumer
    from adapeff.worker.daemon.slots import open_slots
    from adapeff.worker.daemon.worker import Worker

    os.umask(0o077)  # what a worker makes is this user's
    settings = load_settings().values
    slots = open_slots(devices, cores_per_slot=settings.cores_per_slot, lock_dir=settings.lock_dir)
    database = open_database(settings, connections=len(slots) + 3)
    logging.getLogger("adapeff").info("slots: %s", ", ".join(slot.name for slot in slots))
    worker = Worker(settings, database, slots) if sweep_id is not None else Consumer(settings, database, slots)
    if stop_with_stdin:
        worker.stop_with(sys.stdin.buffer)
    worker.serve() if isinstance(worker, Consumer) else worker.work_off(sweep_id or 0)
    database.close()
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
