"""The jobs that a command is about: named by id, or selected by sweep and conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from adapeff.cli import completion
from adapeff.service.errors import JobError
from adapeff.service.reporting.selection import Selection
from adapeff.service.specs.profile import read_spec
from adapeff.service.store import job_queries, sweeps

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

OfSweep = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        help="Select the jobs of this sweep, by its name or the id of one submission.",
        autocompletion=completion.sweep_names,
    ),
]
JobsWhere = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE",
        help="Select the jobs with this model, task, method or seed, such as method=lora* or seed!=0; repeatable.",
    ),
]


@dataclass(frozen=True)
class Choice:
    """The jobs that a command is about."""

    named: list[int]
    selected: list[int]
    """Those of a sweep or condition."""

    @property
    def ids(self) -> list[int]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.named, *self.selected]))


def choose(
    session: Session,
    verb: str,
    *,
    named: Sequence[int] | None,
    sweep: str | None,
    where: Sequence[str] | None,
    states: Sequence[str],
) -> Choice:
    """The named jobs, and those in some states that a sweep or conditions select.

    Args:
        verb: what is to be done with them, for the message.

    Raises:
        JobError: if none is named and nothing selects any, or if there is no such sweep.
    """
    if sweep is None and not where:
        if not named:
            raise JobError(f"no job to {verb} is given; name job ids, or select jobs with --sweep or --where")
        return Choice(list(named), [])
    sweep_ids = sweeps.find_sweep_ids(session, sweep) if sweep is not None else None
    found = [job.id for job in job_queries.list_jobs(session, sweep_ids=sweep_ids, states=states)]
    return Choice(list(named or []), only_where(session, found, where))


def only_where(session: Session, job_ids: list[int], where: Sequence[str] | None) -> list[int]:
    """Those of the jobs that meet the conditions.

    Raises:
        SpecError: if a condition is malformed, or is about finished runs.
    """
    if not where:
        return job_ids
    selection = Selection.parse(where)
    return [job.id for job in job_queries.list_jobs(session, ids=job_ids) if selection.matches_job(read_spec(job.spec))]
