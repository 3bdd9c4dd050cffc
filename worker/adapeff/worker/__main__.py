"""`python -m adapeff.worker VERB`: the commands that the CLI runs in the worker, each in a separate process.

`VERBS` lists the verbs. Answers are JSON lines on stdout, one object each; the log and errors go to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from adapeff.service.errors import AdapeffError, ConfigError, ExitCode, UnknownNameError
from adapeff.service.plugins.catalog import get_task
from adapeff.service.plugins.plugin_reference import parse_plugin, split_list
from adapeff.service.settings import load_settings
from adapeff.service.specs.job import Training
from adapeff.service.store.database import open_database
from adapeff.worker.daemon.consumer import Consumer
from adapeff.worker.daemon.fork_server import ForkServer
from adapeff.worker.daemon.limits import Limits, parse_duration
from adapeff.worker.daemon.log_format import JsonFormatter
from adapeff.worker.daemon.slots import open_slots, usable_accelerators
from adapeff.worker.daemon.supervisor import runner_environment
from adapeff.worker.daemon.worker import Worker
from adapeff.worker.tasks.hub import VERIFIED, hub_data_sets
from adapeff.worker.tasks.init import write
from adapeff.worker.tasks.validation import check_task
from adapeff.worker.tasks.verification import verify

Answers = Iterable[dict[str, Any]]
_W = TypeVar("_W", bound=Worker)
_NEEDED = ("torch", "transformers", "peft")
_VERBOSE = ("alembic", "celery", "kombu")
"""Libraries that log more than an operator needs."""


def main() -> int:
    """Run a verb; expected errors are one line on stderr."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        level=logging.WARNING if arguments.quiet else logging.INFO,
    )
    for library in _VERBOSE:
        logging.getLogger(library).setLevel(logging.WARNING)
    verb = VERBS[arguments.verb]
    try:
        if verb.needs_torch:
            _check_packages()
        for answer in verb.run(arguments):
            print(json.dumps(answer), flush=True)
    except AdapeffError as error:
        print(f"adapeff: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK


def _check_packages() -> None:
    if missing := [package for package in _NEEDED if find_spec(package) is None]:
        raise ConfigError(f"running jobs needs {', '.join(missing)}, not installed; run pip install 'adapeff[worker]'")


def _daemon(arguments: Namespace) -> Answers:
    with _worker(Consumer, arguments) as worker:
        worker.serve()
    return ()


def _sweep(arguments: Namespace) -> Answers:
    with _worker(Worker, arguments) as worker:
        worker.run_sweep(arguments.sweep_id)
    return ()


@contextmanager
def _worker(kind: type[_W], arguments: Namespace) -> Iterator[_W]:
    """Build a worker on the requested devices."""
    os.umask(0o077)  # files of a worker are its user's alone
    settings = load_settings().values
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    limits = Limits(
        drain=arguments.drain,
        max_jobs=arguments.max_jobs,
        seconds=parse_duration(arguments.until) if arguments.until is not None else None,
    )
    slots = open_slots(
        arguments.devices,
        cores_per_slot=settings.cores_per_slot,
        lock_dir=settings.lock_dir,
        wait=arguments.wait_for_device,
    )
    database = open_database(settings, connections=len(slots) + 3)
    logging.getLogger("adapeff").info("slots: %s", ", ".join(slot.name for slot in slots))
    environment = runner_environment(os.environ, split_list(settings.runner_environment))
    with closing(database), ForkServer(environment) if settings.fork_server else nullcontext() as fork_server:
        worker = kind(settings, database, slots, fork_server, limits)
        if arguments.stop_with_stdin:
            worker.stopping.with_parent(sys.stdin.buffer)
        yield worker


def _devices(_: Namespace) -> Answers:
    for uuid, name in usable_accelerators():
        yield {"uuid": uuid, "name": name}


# Modules that load torch are imported in the functions that need them: other verbs start without it, and on a machine
# that lacks torch the error says what to install.


def _count(arguments: Namespace) -> Answers:
    from adapeff.worker.modeling.counting import count_methods

    yield from count_methods(arguments.model, arguments.methods)


def _validate(arguments: Namespace) -> Answers:
    reference = parse_plugin(arguments.task)
    task = get_task(reference.name, reference.parameters)
    settings = Training(learning_rate=1, max_length=arguments.max_length or task.max_length or 128)
    count_tokens = None
    if arguments.model is not None:
        from adapeff.worker.families.token_counts import token_counter

        count_tokens = token_counter(task, arguments.model, settings)
    yield from check_task(
        task, load_settings().values.data_root, count_tokens=count_tokens, max_length=settings.max_length
    )


def _init(arguments: Namespace) -> Answers:
    file, task = write(arguments.file)
    yield {"file": str(file), "task": task}


def _bench(arguments: Namespace) -> Answers:
    from adapeff.worker.devices.choice import choose_device
    from adapeff.worker.measure.device_peaks import copy_bytes_per_s, matmul_flops_per_s

    device = choose_device("any")
    device.prepare(cpu_threads=arguments.threads)
    name = device.environment()["device_name"]
    where = name if device.is_asynchronous else f"{name}, {arguments.threads} thread(s)"
    for precision in dict.fromkeys(("fp32", device.choose_precision("auto"))):
        rate = matmul_flops_per_s(device, precision)
        yield {"check": f"matrix product {precision}", "value": rate, "unit": "FLOP/s", "where": where}
    yield {"check": "memory copy", "value": copy_bytes_per_s(device), "unit": "B/s", "where": where}


def _verify(arguments: Namespace) -> Answers:
    known = hub_data_sets()
    for name in arguments.data_sets:
        if name not in known:
            raise UnknownNameError("data set", name, known)
    yield from verify([known[name] for name in arguments.data_sets or known], VERIFIED)


@dataclass(frozen=True)
class Verb:
    """A verb of `python -m adapeff.worker`."""

    help: str
    run: Callable[[Namespace], Answers]
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name or flag -> the options of argparse's `add_argument`."""
    needs_torch: bool = True


_WORKER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "--devices": {"default": "auto", "help": "as for `adapeff worker`"},
    "--quiet": {"action": "store_true", "help": "log warnings and errors only"},
    "--wait-for-device": {"action": "store_true", "help": "wait until no other worker holds the devices"},
    "--stop-with-stdin": {"action": "store_true", "help": "return running jobs to the queue and stop when stdin ends"},
}
_LIMITS: dict[str, dict[str, Any]] = {
    "--drain": {"action": "store_true", "help": "stop when the queue is empty"},
    "--max-jobs": {"type": int, "help": "stop after this many runs"},
    "--until": {"help": "stop within this time, such as 3h55m"},
}
VERBS = {
    "daemon": Verb("serve the queue until a signal or a limit stops it", _daemon, {**_WORKER_ARGUMENTS, **_LIMITS}),
    "sweep": Verb("run the jobs of one sweep, then exit", _sweep, {"sweep_id": {"type": int}, **_WORKER_ARGUMENTS}),
    "devices": Verb("list the GPUs that a worker would use", _devices, needs_torch=False),
    "count": Verb(
        "count the parameters that each method would train on a model",
        _count,
        {"--model": {"required": True}, "methods": {"nargs": "+"}},
    ),
    "validate": Verb(
        "check a task's data, per split and language",
        _validate,
        {"task": {}, "--model": {}, "--max-length": {"type": int}},
    ),
    "init": Verb("draft a task.yaml for a data file", _init, {"file": {"type": Path}}),
    "bench": Verb("measure the device's peak rates", _bench, {"--threads": {"type": int, "default": 1}}),
    "verify": Verb("compare data sets on the hub with their declarations", _verify, {"data_sets": {"nargs": "*"}}),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker")
    parser.set_defaults(quiet=False, drain=False, max_jobs=None, until=None)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb_parser = verbs.add_parser(name, help=verb.help, description=verb.help)
        for argument, options in verb.arguments.items():
            verb_parser.add_argument(argument, **options)
    return parser


if __name__ == "__main__":
    sys.exit(main())
