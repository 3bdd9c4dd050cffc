"""`adapeff why`: what a job waits for, where it runs, or why it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import JobId, Json
from adapeff.cli.render.text import one_line
from adapeff.service.broker.queue import broker_problem, make_app
from adapeff.service.masking import mask
from adapeff.service.reporting.waiting import Explanation, Reason, explain_job
from adapeff.service.reporting.words import duration
from adapeff.service.settings import Settings

_STATES = {
    "queued": "is queued",
    "held": "is held",
    "running": "is running",
    "succeeded": "has succeeded",
    "failed": "has failed",
    "cancelled": "was cancelled",
}
"""What became of a job, by its state."""


def why(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Say what a job waits for, where it runs, or why it ended, and what to do.

    A queued job has a place among those that the same workers take, and an estimate if similar runs have finished.

    Example:

        adapeff why 12
    """
    invocation = Invocation.of(context)
    with invocation.database() as database, database.session(read_only=True) as session:
        found = explain_job(session, job)
    if found.needs_broker:
        found = _with_broker(found, invocation.settings)
    if as_json:
        document = asdict(found)
        del document["needs_broker"]
        print(json.dumps(document, indent=1))
        return
    print(one_line(f"job {found.job_id} ({found.label}) {_STATES.get(found.state, found.state)}"))
    for line in [*(reason.text for reason in found.reasons), *_expectations(found)]:
        print(one_line(f"- {line}"))
    for line in found.advice:
        print(one_line(f"to do: {line}"))


def _with_broker(found: Explanation, settings: Settings) -> Explanation:
    """Add that the broker cannot be reached, if so: then nobody hears of the job."""
    problem = broker_problem(make_app(settings))
    if not problem:
        return found
    text = f"the broker {mask(settings.broker)} cannot be reached from here: {problem}"
    return replace(
        found,
        reasons=[*(reason for reason in found.reasons if reason.kind != "soon"), Reason("broker", text)],
        advice=[*found.advice, "start the broker; workers send and receive again by themselves (`adapeff doctor`)"],
    )


def _expectations(found: Explanation) -> list[str]:
    """Its place and its times, as far as they are known."""
    lines = []
    if found.position is not None:
        starts = f", starts in about {duration(found.starts_in_s)}" if found.starts_in_s is not None else ""
        lines.append(f"number {found.position} in the queue{starts}")
    if found.takes_s is not None and found.state in ("queued", "held"):
        lines.append(f"takes about {duration(found.takes_s)}, judging by similar runs")
    if found.takes_s is not None and found.state == "running":
        lines.append(f"about {duration(found.takes_s)} left, judging by similar runs")
    return lines
