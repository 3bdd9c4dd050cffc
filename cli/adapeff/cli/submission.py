"""Submit a sweep: expand it into jobs, store them, put them on the queue."""

from __future__ import annotations

from collections.abc import Sequence

from adapeff.cli.messages import note
from adapeff.service.broker.queue import make_app, send_unsent
from adapeff.service.errors import UnreachableError
from adapeff.service.plugins import catalog
from adapeff.service.settings import Settings
from adapeff.service.specs.auto_profile import profiles_of
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.hub import current_revisions
from adapeff.service.specs.profile import AnySpec, ProfileSpec
from adapeff.service.specs.sweep_file import SweepSpec, find_sweep, load_sweep
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.sweeps import Submission


def expand_sweep(sweep: str, changes: list[str], settings: Settings) -> tuple[SweepSpec, list[AnySpec]]:
    """The sweep and its jobs, profiles last, with notes about their data on stderr.

    Args:
        sweep: a file, or the name of a ready-made sweep.
        changes: overrides, each `key=value`.
    """
    spec = load_sweep(find_sweep(sweep), changes)
    if "profile" not in spec.model_fields_set:
        spec = spec.model_copy(update={"profile": settings.profile})
    jobs = expand(spec, data_root=settings.data_root)
    if settings.data_root is not None:
        for task in dict.fromkeys(str(job.task) for job in jobs if job.data.source == "hub"):
            note(f"'{task}' is not under {settings.data_root}; its data will be loaded from the hub when a job runs")
    for reference in {str(job.task): job.task for job in jobs}.values():
        for warning in catalog.get_task(reference.name, reference.parameters).untested(settings.data_root):
            note(f"'{reference.name}': {warning}")
    return spec, [*jobs, *profiles_of(spec, jobs)]


def store(
    database: Database,
    spec: SweepSpec,
    jobs: list[AnySpec],
    settings: Settings,
    *,
    force: bool = False,
    held: bool = False,
) -> Submission:
    """Store the jobs and commit; they are sent afterwards."""
    revisions = {} if force else current_revisions(jobs)
    return database.retried(
        lambda session: sweeps.submit(
            session, spec, jobs, max_failures=settings.max_failures, force=force, held=held, hub_revisions=revisions
        )
    )


def note_held(database: Database, spec: SweepSpec, submission: Submission) -> None:
    """Say how many jobs of a submission nobody runs until someone releases a job."""
    with database.session(read_only=True) as session:
        held = job_queries.count_held_back(session, submission.job_ids)
    if held:
        are = "1 job is held or needs one that is" if held == 1 else f"{held} jobs are held or need one that is"
        note(f"{are}; release with `adapeff release --sweep {spec.name}`, `adapeff why JOB` names the one")


def send(database: Database, settings: Settings) -> None:
    """Send the committed jobs that have not been sent yet.

    Raises:
        UnreachableError: if the broker cannot be reached; a worker will send the jobs later.
    """
    try:
        send_unsent(database, make_app(settings))
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. The jobs are stored; any worker will send them once the broker can be reached"
        ) from error


def describe(spec: SweepSpec, jobs: list[AnySpec], submission: Submission) -> str:
    """Describe a submission in one line, with the number of new jobs."""
    new, total = len(submission.created), len(submission.job_ids)
    parts = [f"{new} new" if new else "", f"{total - new} already submitted" if new < total else ""]
    return f"sweep {submission.sweep_id} '{spec.name}': {counted(jobs)} ({', '.join(filter(None, parts))})"


def counted(jobs: Sequence[AnySpec]) -> str:
    """How many jobs and profiles there are, in words."""
    profiles = sum(isinstance(job, ProfileSpec) for job in jobs)
    trained = f"{len(jobs) - profiles} jobs"
    return f"{trained} and {profiles} profile{'s' if profiles > 1 else ''}" if profiles else trained
