"""`adapeff submit`: store a sweep's jobs and put them on the queue."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import DataRoot, Force, Json, Methods, Models, Overrides, Seeds, SweepFile, Tasks, overrides
from adapeff.cli.progress import raise_for_failures, wait_for
from adapeff.cli.render.tables import print_table
from adapeff.cli.submission import counted, describe, expand_sweep, note_held, send, store
from adapeff.service.reporting.variation import in_words, settings_of, varied_settings
from adapeff.service.specs.hub import current_revisions
from adapeff.service.specs.profile import AnySpec, ProfileSpec
from adapeff.service.specs.sweep_file import SweepSpec
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.job_queries import states_by_hash


def submit(
    context: typer.Context,
    sweep: SweepFile,
    given: Overrides = None,
    models: Models = None,
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    data_root: DataRoot = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the jobs and their expected time; store nothing.")
    ] = False,
    force: Force = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Hold the new jobs: nobody runs them until `adapeff release`.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every job has ended; exits with 4 if one failed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a sweep's jobs on the queue. Jobs already finished or queued are not duplicated.

    Examples:

        adapeff submit demo --dry-run

        adapeff submit my.yaml --methods 'full,lora[rank=8,alpha=16]' --seeds 0,1,2

        adapeff submit my.yaml -s epochs=1 -s learning_rate='[1e-4,3e-4]' --wait
    """
    invocation = Invocation.of(context, data_root=data_root)
    settings = invocation.settings
    spec, jobs = expand_sweep(sweep, overrides(given, models, tasks, methods, seeds), settings)
    with invocation.database() as database:
        if dry_run:
            _print_plan(database, spec, jobs, force=force, as_json=as_json)
            return
        submission = store(database, spec, jobs, settings, force=force, held=hold)
        if as_json:
            answer = {"sweep": submission.sweep_id, "jobs": submission.job_ids, "created": submission.created}
            print(json.dumps(answer))
        else:
            print(describe(spec, jobs, submission))
        note_held(database, spec, submission)
        send(database, settings)
        if wait:
            wait_for(database, submission.job_ids)
            raise_for_failures(database, submission.job_ids)


def _print_plan(database: Database, spec: SweepSpec, jobs: list[AnySpec], *, force: bool, as_json: bool) -> None:
    revisions = {} if force else current_revisions(jobs)
    with database.session(read_only=True) as session:
        jobs = sweeps.plan(session, jobs, force=force, hub_revisions=revisions)
        states = states_by_hash(session, [job.job_hash for job in jobs])
        seconds = sweeps.estimate_seconds(session, jobs)
    specs = [job.model_dump(mode="json") for job in jobs]
    varied = varied_settings(specs)
    rows: list[dict[str, Any]] = [
        {
            **job.columns,
            "learning_rate": None if isinstance(job, ProfileSpec) else job.training.learning_rate,
            "repeat": job.repeat,
            "settings": {key: value for key, value in settings_of(stored).items() if key in varied},
            "state": states.get(job.job_hash, "new"),
            "estimated_s": estimate,
            "job_hash": job.job_hash,
        }
        for job, estimate, stored in zip(jobs, seconds, specs, strict=True)
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_table(
        f"{spec.name}: {counted(jobs)}, nothing stored",
        ["model", "task", "method", "settings", "seed", "repeat", "lr", "state", "estimate"],
        [
            [
                row["model"],
                row["task"],
                row["method"],
                in_words(row["settings"]),
                "" if row["learning_rate"] is None else str(row["seed"]),
                str(row["repeat"] or ""),
                "" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
                row["state"],
                "unknown" if row["estimated_s"] is None else f"{row['estimated_s']:.0f} s",
            ]
            for row in rows
        ],
    )
    to_do = [row for row in rows if row["state"] in ("new", "queued")]
    estimates = [row["estimated_s"] for row in to_do if row["estimated_s"] is not None]
    if not to_do:
        note("nothing to do: every job has finished or is running")
    elif len(estimates) == len(to_do):
        note(f"about {sum(estimates) / 60:.1f} minutes on one slot for {len(to_do)} jobs, judging by similar runs")
    else:
        unknown = len(to_do) - len(estimates)
        note(f"time unknown for {unknown} of {len(to_do)} jobs: no similar run has finished yet")
