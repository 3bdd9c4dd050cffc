"""`adapeff submit`: store a sweep's jobs and put them on the queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapeff.cli import context
from adapeff.cli.options import DataRoot, Force, Json, Methods, Models, Overrides, Seeds, SweepFile, Tasks, overrides

if TYPE_CHECKING:
    from adapeff.service.settings import Settings
    from adapeff.service.specs.job import JobSpec
    from adapeff.service.specs.sweep_file import SweepSpec
    from adapeff.service.store.database import Database
    from adapeff.service.store.sweeps import Submission


def submit(
    sweep: SweepFile,
    given: Overrides = None,
    models: Models = None,
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    data_root: DataRoot = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the jobs and the time expected; store nothing.")
    ] = False,
    force: Force = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended; exit 4 if one failed.")] = False,
    as_json: Json = False,
) -> None:
    """Put a sweep's jobs on the queue; those that have a result or wait already are not made twice.

    Examples:

        adapeff submit demo --dry-run

        adapeff submit my.yaml --methods 'full,lora[rank=8,alpha=16]' --seeds 0,1,2

        adapeff submit my.yaml -s epochs=1 -s learning_rate='[1e-4,3e-4]' --wait
    """
    context.set_flags(data_root=data_root)
    settings = context.settings().values
    spec, jobs = expand_sweep(sweep, overrides(given, models, tasks, methods, seeds), settings)
    with context.database() as database:
        if dry_run:
            _print_plan(database, spec, jobs, force=force, as_json=as_json)
            return
        stored = store(database, spec, jobs, settings, force=force)
        if as_json:
            answer = {"sweep": stored.sweep_id, "jobs": stored.job_ids, "created": stored.created}
            print(json.dumps(answer))
        else:
            print(describe(spec, stored))
        send(database, settings)
        if wait:
            from adapeff.cli.progress import raise_for_failures, wait_for

            wait_for(database, stored.job_ids)
            raise_for_failures(database, stored.job_ids)


def expand_sweep(sweep: str, changes: list[str], settings: Settings) -> tuple[SweepSpec, list[JobSpec]]:
    """The sweep and its jobs."""
    from adapeff.service.plugins import catalog
    from adapeff.service.specs.expansion import expand
    from adapeff.service.specs.sweep_file import find_sweep, load_sweep

    spec = load_sweep(find_sweep(sweep), changes)
    jobs = expand(spec, data_root=settings.data_root)
    if settings.data_root is not None:
        for task in dict.fromkeys(str(job.task) for job in jobs if job.data.source == "hub"):
            context.note(f"'{task}' is not under {settings.data_root}: its data come from the hub when a job runs")
    for named in {str(job.task): job.task for job in jobs}.values():
        for note in catalog.get_task(named.name, named.parameters).untested(settings.data_root):
            context.note(f"'{named.name}': {note}")
    return spec, jobs


def store(
    database: Database, spec: SweepSpec, jobs: list[JobSpec], settings: Settings, *, force: bool = False
) -> Submission:
    """Store the jobs; nothing is sent before this is committed."""
    from adapeff.service.specs.hub import current_revisions
    from adapeff.service.store import sweeps

    revisions = {} if force else current_revisions(jobs)
    return database.retried(
        lambda session: sweeps.submit(
            session, spec, jobs, max_failures=settings.max_failures, force=force, hub_revisions=revisions
        )
    )


def send(database: Database, settings: Settings) -> None:
    """Send what is committed and unsent.

    Raises:
        UnreachableError: if the broker is away; a worker will send the jobs later.
    """
    from adapeff.service.broker.queue import make_app, send_unsent
    from adapeff.service.errors import UnreachableError

    try:
        send_unsent(database, make_app(settings))
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. The jobs are stored; any worker sends them when the broker is back"
        ) from error


def describe(spec: SweepSpec, stored: Submission) -> str:
    """One line on what submitting came to."""
    known = len(stored.job_ids) - len(stored.created)
    parts = [f"{len(stored.created)} new" if stored.created else "", f"{known} known already" if known else ""]
    return f"sweep {stored.sweep_id} '{spec.name}': {len(stored.job_ids)} jobs ({', '.join(filter(None, parts))})"


def _print_plan(database: Database, spec: SweepSpec, jobs: list[JobSpec], *, force: bool, as_json: bool) -> None:
    from adapeff.service.reporting.variation import in_words, settings_of, varied_settings
    from adapeff.service.specs.hub import current_revisions
    from adapeff.service.store import sweeps
    from adapeff.service.store.job_queries import states_by_hash

    revisions = {} if force else current_revisions(jobs)
    with database.session(read_only=True) as session:
        jobs = [sweeps.plan_repeat(session, job, force=force, hub_revisions=revisions) for job in jobs]
        states = states_by_hash(session, [job.job_hash for job in jobs])
        seconds = sweeps.estimate_seconds(session, jobs)
    specs = [job.model_dump(mode="json") for job in jobs]
    varied = varied_settings(specs)
    rows: list[dict[str, Any]] = [
        {
            "model": str(job.model),
            "task": str(job.task),
            "method": str(job.method),
            "seed": job.seed,
            "learning_rate": job.training.learning_rate,
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
    from adapeff.cli.render.tables import print_table

    print_table(
        f"{spec.name}: {len(rows)} jobs, nothing stored",
        ["model", "task", "method", "settings", "seed", "repeat", "lr", "state", "estimate"],
        [
            [r["model"], r["task"], r["method"], in_words(r["settings"]), str(r["seed"]), str(r["repeat"] or ""),
             f"{r['learning_rate']:g}", r["state"],
             "unknown" if r["estimated_s"] is None else f"{r['estimated_s']:.0f} s"]
            for r in rows
        ],
    )  # fmt: skip
    to_do = [r for r in rows if r["state"] in ("new", "queued")]
    known = [r["estimated_s"] for r in to_do if r["estimated_s"] is not None]
    if not to_do:
        context.note("nothing to do: every job has run or is running")
    elif len(known) == len(to_do):
        context.note(
            f"about {sum(known) / 60:.1f} minutes of one slot for {len(to_do)} jobs, by earlier runs like them"
        )
    else:
        context.note(f"time unknown for {len(to_do) - len(known)} of {len(to_do)} jobs: no run like them has finished")
