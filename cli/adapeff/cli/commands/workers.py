"""`adapeff workers`: which workers are alive, and what each runs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table
from adapeff.service.reporting.words import duration, stage_in_words
from adapeff.service.store.workers import WorkerView, list_workers

GONE_WITHIN = timedelta(days=1)


def workers(context: typer.Context, as_json: Json = False) -> None:
    """List the workers that are alive and what each runs, then those that stopped or fell silent in the last day.

    A worker that was killed, or whose host is down, is gone once it has not reported for a minute (`lease_seconds`).

    Example:

        adapeff workers
    """
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        found = list_workers(session, gone_within=GONE_WITHIN)
    if as_json:
        print(json.dumps([_document(view) for view in found], indent=1))
        return
    alive = [view for view in found if view.state == "alive"]
    slots = sum(len(view.record.slots) for view in alive)
    busy = sum(len(view.runs) for view in alive)
    title = f"{len(alive)} alive, {busy} of {slots} slots busy" if alive else "no worker is alive"
    headings = ["host", "state", "slots", "runs", "for", "version", "last heard", "started (UTC)", "worker"]
    if found:
        print_table(title, headings, [_row(view) for view in found])
    else:
        print(title)
    if not alive:
        note("start one with `adapeff worker`")


def _row(view: WorkerView) -> list[str]:
    record = view.record
    runs = [
        f"{run.slot}: job {run.job_id} ({run.label}), {stage_in_words(run.stage, run.progress)}" for run in view.runs
    ]
    idle = "idle" if view.state == "alive" else ""
    return [
        record.host,
        view.state,
        ", ".join(record.slots),
        "\n".join(runs) or idle,
        "queue" if record.sweep_id is None else f"sweep {record.sweep_id}",
        record.version,
        f"{duration(view.silent_seconds)} ago",
        f"{view.started_at:%Y-%m-%d %H:%M}",
        record.name,
    ]


def _document(view: WorkerView) -> dict[str, Any]:
    record = view.record
    return {
        "worker": record.name,
        "host": record.host,
        "state": view.state,
        "device": record.device,
        "slots": list(record.slots),
        "sweep": record.sweep_id,
        "version": record.version,
        "started_at": view.started_at.isoformat(),
        "heartbeat_at": view.heartbeat_at.isoformat(),
        "stopped_at": view.stopped_at.isoformat() if view.stopped_at else None,
        "runs": [
            {
                "job": run.job_id,
                "label": run.label,
                "slot": run.slot,
                "stage": run.stage,
                "progress": dict(run.progress or {}),
                "started_at": run.started_at.isoformat(),
            }
            for run in view.runs
        ],
    }
