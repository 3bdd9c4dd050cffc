"""`adapeff doctor`: check that this machine has what adapeff needs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table
from adapeff.cli.worker_client import WorkerClient
from adapeff.service.broker.queue import broker_problem, make_app
from adapeff.service.errors import AdapeffError, ResourceError, UnreachableError
from adapeff.service.masking import mask
from adapeff.service.paths import make_private
from adapeff.service.settings import Settings
from adapeff.service.store.database import current_revision, open_database

WORKER_PACKAGES = ("torch", "transformers", "peft", "datasets")
Check = tuple[str, str, str]
"""Name, state (ok, warn or fail), detail."""


def doctor(
    context: typer.Context,
    bench: Annotated[
        bool, typer.Option("--bench", help="Also measure the device's peak rates; takes a few seconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the database, broker, packages, devices, disk and data. Exits with 1 if something required is missing.

    Examples:

        adapeff doctor

        adapeff doctor --bench
    """
    invocation = Invocation.of(context)
    client = WorkerClient(invocation.child_environment())
    checks = [*_checks(invocation.settings, client)]
    if bench:
        checks += _device_peaks(client, invocation.settings.cores_per_slot)
    if as_json:
        print(
            json.dumps([{"check": name, "state": state, "detail": detail} for name, state, detail in checks], indent=1)
        )
    else:
        print_table("doctor", ["check", "", "detail"], checks)
    if any(state == "fail" for _, state, _ in checks):
        raise typer.Exit(1)


def _checks(settings: Settings, client: WorkerClient) -> Iterator[Check]:
    yield "python", "ok", f"{sys.version.split()[0]}, adapeff {version('adapeff')}"
    yield "database", *_ok_or_fail(lambda: _database(settings))
    yield "broker", *_ok_or_fail(lambda: _broker(settings))
    if settings.broker_url is not None and "@" not in settings.broker_url:
        yield (
            "redis password",
            "warn",
            "none in broker_url: anyone who can reach this Redis can submit jobs; set requirepass in Redis, and "
            "broker_url to redis://:PASSWORD@HOST",
        )
    for package in WORKER_PACKAGES:
        try:
            yield package, "ok", version(package)
        except PackageNotFoundError:
            advice = "this machine can submit and report, but not run jobs (pip install 'adapeff[worker]')"
            yield package, "warn", f"not installed: {advice}"
    yield "devices", *_devices(client)
    yield "artifacts", *_ok_or_fail(lambda: _artifacts(settings))
    if settings.data_root is None:
        yield "data_root", "ok", "not set: data sets are loaded from the hub"
    else:
        exists = settings.data_root.is_dir()
        yield "data_root", "ok" if exists else "fail", f"{settings.data_root}{'' if exists else ' is not a folder'}"


def _ok_or_fail(check: Callable[[], str]) -> tuple[str, str]:
    try:
        return "ok", check()
    except AdapeffError as error:
        return "fail", str(error)


def _database(settings: Settings) -> str:
    database = open_database(settings)
    revision = current_revision(database)
    database.close()
    return f"{mask(settings.database)}, revision {revision}"


def _broker(settings: Settings) -> str:
    if problem := broker_problem(make_app(settings)):
        raise UnreachableError(f"{mask(settings.broker)} cannot be reached: {problem}")
    return mask(settings.broker)


def _artifacts(settings: Settings) -> str:
    try:
        make_private(settings.artifacts)
        with tempfile.TemporaryFile(dir=settings.artifacts) as file:
            file.write(b"x")
    except OSError as error:
        raise ResourceError(
            f"{settings.artifacts} is not writable: {error.strerror}; set ADAPEFF_ARTIFACTS_URL to another folder"
        ) from error
    return f"{settings.artifacts}, {shutil.disk_usage(settings.artifacts).free / 2**30:.1f} GiB free"


def _devices(client: WorkerClient) -> tuple[str, str]:
    """The devices that a worker would use here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        gpus, warnings = client.devices()
    except AdapeffError as error:
        return "warn", f"devices are unknown: {error}"
    if gpus:
        return "ok", f"{len(gpus)} GPU ({', '.join(gpus)}); {cores} CPU cores"
    reason = f" ({warnings[-1]})" if warnings else ""
    return "warn" if warnings else "ok", f"no GPU that a worker could use{reason}; {cores} CPU cores"


def _device_peaks(client: WorkerClient, threads: int) -> list[Check]:
    """The peak rates that utilization is computed from."""
    try:
        peaks = client.device_peaks(threads)
    except AdapeffError as error:
        return [("bench", "fail", str(error))]
    return [(peak["check"], "ok", f"{peak['value'] / 1e9:.1f} G{peak['unit']} ({peak['where']})") for peak in peaks]
