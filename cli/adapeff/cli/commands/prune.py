"""`adapeff prune`: remove old files of runs."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.job_choice import JobsWhere, OfSweep, only_where
from adapeff.cli.messages import note
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table
from adapeff.service.errors import SpecError, suggest
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.selection import parse_age
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.pruning import KINDS, list_old_files, remove_files


def prune(
    context: typer.Context,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only files of runs that ended longer ago: 12h, 30d, 8w, or 0d.")
    ] = "30d",
    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"Which files: {', '.join(KINDS)}; repeatable; default: all but weights and logs."),
    ] = None,
    sweep: OfSweep = None,
    where: JobsWhere = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them; without it, they are only listed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old files of runs that have ended; without --yes, only say what would be removed. All results stay.

    Weights that a queued or running job builds on stay too.

    Examples:

        adapeff prune

        adapeff prune --older-than 7d --kind samples --kind predictions --yes

        adapeff prune --sweep demo --older-than 0d --kind weights --yes
    """
    kinds = kind or [name for name in KINDS if name not in ("weights", "logs")]
    for name in kinds:
        if name not in KINDS:
            raise SpecError(f"--kind is '{name}'; {suggest(name, KINDS)}")
    age = _age(older_than)
    invocation = Invocation.of(context)
    with invocation.database() as database:
        with database.session(read_only=True) as session:
            job_ids = None
            if sweep is not None or where:
                sweep_ids = sweeps.find_sweep_ids(session, sweep) if sweep is not None else None
                chosen = [job.id for job in job_queries.list_jobs(session, sweep_ids=sweep_ids)]
                job_ids = only_where(session, chosen, where)
            artifacts = invocation.settings.artifacts
            files = list_old_files(session, artifacts, older_than=age, kinds=kinds, job_ids=job_ids)
        numbers = Counter(file.kind for file in files)
        sizes: Counter[str] = Counter()
        for file in files:
            sizes[file.kind] += file.bytes
        if yes:
            with database.session() as session:
                sizes = remove_files(session, files)
    if as_json:
        rows = [{"kind": name, "files": numbers[name], "bytes": sizes[name]} for name in kinds]
        print(json.dumps({"removed": yes, "older_than": older_than, "kinds": rows}))
        return
    shown = [[name, str(numbers[name]), format_value(sizes[name], "B"), KINDS[name]] for name in kinds if numbers[name]]
    if not shown:
        kept = f"no run that ended more than {older_than} ago has such files ({', '.join(kinds)}) in {artifacts}"
        note(f"nothing to remove: {kept}")
        return
    print_table("removed" if yes else "would remove", ["kind", "files", "size", "what"], shown)
    if not yes:
        note("nothing was removed; add --yes to remove them")


def _age(text: str) -> timedelta:
    age = parse_age(text)
    if age is None:
        raise SpecError(f"--older-than is '{text}'; expected hours, days or weeks such as 12h, 30d or 8w")
    return age
