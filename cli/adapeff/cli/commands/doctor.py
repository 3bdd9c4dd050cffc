"""`adapeff doctor`: is everything there that the work needs?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from adapeff.cli import invocation as context
from adapeff.cli.options import Json


def doctor(
    bench: Annotated[
        bool, typer.Option("--bench", help="Also measure what the device can do at most; takes some seconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check database, broker, packages, devices, disk and data; exits with 1 if something needed for work is missing.

    Examples:

        adapeff doctor

        adapeff doctor --bench
    """
    found = [{"check": name, "state": state, "detail": detail} for name, state, detail in _checks()]
    found += _ceilings() if bench else []
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        from adapeff.cli.render.tables import print_table

        print_table("doctor", ["check", "", "detail"], [list(row.values()) for row in found])
    if any(row["state"] == "fail" for row in found):
        raise typer.Exit(1)


def _checks() -> Iterator[tuple[str, str, str]]:
    settings = context.settings().values
    yield "python", "ok", f"{sys.version.split()[0]}, adapeff {version('adapeff')}"
    yield "database", *_guard(lambda: _database(settings))
    yield "broker", *_guard(lambda: _broker(settings))
    if settings.broker_url is not None and "@" not in settings.broker_url:
        yield (
            "redis password",
            "warn",
            "none in broker_url: whoever reaches this Redis can send and take jobs; set requirepass, and "
            "redis://:PASSWORD@HOST",
        )
    for package in ("torch", "transformers", "peft", "datasets"):
        try:
            yield package, "ok", version(package)
        except PackageNotFoundError:
            yield (
                package,
                "warn",
                "not installed: this machine can submit and report, not work (pip install 'adapeff[worker]')",
            )
    yield "devices", *_devices()
    yield "artifacts", *_guard(lambda: _artifacts(settings))
    if settings.data_root is None:
        yield "data_root", "ok", "not set: data come from the hub"
    else:
        there = settings.data_root.is_dir()
        yield "data_root", "ok" if there else "fail", f"{settings.data_root}{'' if there else ' is no folder'}"


def _ceilings() -> list[dict[str, str]]:
    """The ceilings that utilisation is stated against, measured by the worker's side."""
    threads = str(context.settings().values.cores_per_slot)
    command = [sys.executable, "-m", "adapeff.worker", "bench", "--threads", threads]
    done = subprocess.run(command, capture_output=True, text=True, env=context.child_environment())
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["the worker said nothing"])[-1]
        return [{"check": "bench", "state": "fail", "detail": said.removeprefix("adapeff: ")}]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        {"check": row["check"], "state": "ok", "detail": f"{row['value'] / 1e9:.1f} G{row['unit']} ({row['where']})"}
        for row in rows
    ]


def _guard(check: Callable[[], str]) -> tuple[str, str]:
    from adapeff.service.errors import AdapeffError

    try:
        return "ok", check()
    except AdapeffError as error:
        return "fail", str(error)


def _database(settings: Any) -> str:
    from adapeff.service.settings import mask
    from adapeff.service.store.database import current_revision, open_database

    database = open_database(settings)
    revision = current_revision(database)
    database.close()
    return f"{mask(settings.database)}, revision {revision}"


def _broker(settings: Any) -> str:
    from adapeff.service.broker.queue import broker_problem, make_app
    from adapeff.service.errors import UnreachableError
    from adapeff.service.settings import mask

    if problem := broker_problem(make_app(settings)):
        raise UnreachableError(f"{mask(settings.broker)} cannot be reached: {problem}")
    return mask(settings.broker)


def _artifacts(settings: Any) -> str:
    from adapeff.service.errors import ResourceError
    from adapeff.service.settings import make_private

    try:
        make_private(settings.artifacts)
        with tempfile.TemporaryFile(dir=settings.artifacts) as file:
            file.write(b"x")
    except OSError as error:
        raise ResourceError(
            f"{settings.artifacts} cannot be written: {error.strerror}; set ADAPEFF_ARTIFACTS_URL"
        ) from error
    return f"{settings.artifacts}, {shutil.disk_usage(settings.artifacts).free / 2**30:.1f} GiB free"


def _devices() -> tuple[str, str]:
    """What a worker would use here, as the worker's side says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    command = [sys.executable, "-m", "adapeff.worker", "devices"]
    done = subprocess.run(command, capture_output=True, text=True, env=context.child_environment())
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        return "warn", f"devices are unknown: {said[-1] if said else 'the worker said nothing'}"
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    if not names:
        warning = f" ({said[-1].partition('WARNING ')[2]})" if said and "WARNING " in said[-1] else ""
        return "warn" if warning else "ok", f"no GPU that a worker could use{warning}; {cores} CPU cores"
    return "ok", f"{len(names)} GPU ({', '.join(names)}); {cores} CPU cores"
