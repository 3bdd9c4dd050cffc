"""`adapeff sweeps`: list, show and remove submitted sweeps."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import Json
from adapeff.cli.render.tables import print_table
from adapeff.service.errors import SpecError
from adapeff.service.reporting.numbers import format_value
from adapeff.service.store import sweeps
from adapeff.service.store.sweep_removal import Removal, plan_removal, remove, remove_folders

Name = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep's name (all its submissions) or the id of one submission.",
        autocompletion=completion.sweep_names,
    ),
]

app = typer.Typer(name="sweeps", help="List, show and remove submitted sweeps.", no_args_is_help=True)


@app.command("ls")
def list_sweeps(context: typer.Context, as_json: Json = False) -> None:
    """List the sweeps by name, with the ids of their submissions and the states of their jobs.

    A name selects all submissions under it: `adapeff status NAME`, `report NAME`, `cancel --sweep NAME`. An id selects
    that submission alone.

    Example:

        adapeff sweeps ls
    """
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        records = sweeps.list_sweeps(session)
    if as_json:
        rows = [
            {
                "name": record.name,
                "submissions": record.submissions,
                "jobs": record.states,
                "last_submitted": record.last_submitted.isoformat(),
            }
            for record in records
        ]
        print(json.dumps(rows, indent=1))
        return
    print_table(
        "sweeps" if records else "no sweeps yet",
        ["sweep", "submissions", "jobs", "last submitted (UTC)"],
        [
            [
                record.name,
                ", ".join(map(str, record.submissions)),
                ", ".join(f"{count} {state}" for state, count in sorted(record.states.items())),
                f"{record.last_submitted:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )


@app.command("show")
def show_sweep(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a sweep: its submissions as they were written, the states of its jobs, and the hosts that ran them.

    Example:

        adapeff sweeps show demo
    """
    with Invocation.of(context).database() as database, database.session(read_only=True) as session:
        found = sweeps.describe_sweep(session, sweeps.find_sweep_ids(session, name))
    submissions: list[dict[str, Any]] = [
        {"id": number, "submitted": moment.isoformat(timespec="seconds"), "spec": spec}
        for number, moment, spec in found.submissions
    ]
    if as_json:
        print(json.dumps({"submissions": submissions, "jobs": found.states, "hosts": found.hosts}, indent=1))
        return
    rows = [
        [str(one["id"]), one["submitted"], key, json.dumps(value, ensure_ascii=False)]
        for one in submissions
        for key, value in one["spec"].items()
        if value not in (None, "", [], {})
    ]
    print_table(f"sweep {name}", ["submission", "submitted", "key", "value"], rows)
    states = ", ".join(f"{count} {state}" for state, count in sorted(found.states.items()))
    hosts = ", ".join(f"{host} ({count})" for host, count in sorted(found.hosts.items()))
    print_table("", ["", ""], [["jobs", states], ["runs on", hosts or "none yet"]])


@app.command("rm")
def remove_sweep(
    context: typer.Context,
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a sweep, and the jobs, results and files that no other sweep or job needs.

    Jobs that are queued or running must be cancelled first.

    Examples:

        adapeff sweeps rm demo --dry-run

        adapeff sweeps rm demo --yes
    """
    invocation = Invocation.of(context)
    with invocation.database() as database:
        with database.session(read_only=True) as session:
            removal = plan_removal(session, sweeps.find_sweep_ids(session, name))
        note(_describe(name, removal, dry_run=dry_run))
        if not dry_run:
            if not yes:
                _ask(name)  # outside of any transaction: workers go on meanwhile
            with database.session() as session:
                remove(session, removal)
        folders = 0 if dry_run else remove_folders(removal.folders, invocation.settings.artifacts)
    if as_json:
        print(json.dumps({**asdict(removal), "removed": not dry_run, "folders_removed": folders}))


def _describe(name: str, removal: Removal, *, dry_run: bool) -> str:
    kept = f"; {removal.kept_jobs} jobs stay, because others need them" if removal.kept_jobs else ""
    return (
        f"{'would remove' if dry_run else 'removing'} sweep '{name}': {len(removal.sweep_ids)} submissions, "
        f"{len(removal.job_ids)} jobs, {removal.runs} runs, {format_value(removal.artifact_bytes, 'B')} of files{kept}"
    )


def _ask(name: str) -> None:
    """Ask on a terminal; elsewhere, --yes is required.

    Raises:
        SpecError: without a terminal.
    """
    if not sys.stdin.isatty():
        raise SpecError(f"removing '{name}' cannot be undone; add --yes, or look first with --dry-run")
    typer.confirm("Remove them?", abort=True, err=True)
