"""Which repeat a submission means when branches on the hub move."""

from __future__ import annotations

from adapeff.service.specs.hub import moving_sources
from adapeff.service.specs.job import JobSpec
from adapeff.service.store import job_creation, results, sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from tests.factories import claimer, spec

OLD, NEW = "a" * 40, "b" * 40


def finished(database: Database, job: JobSpec, **resolved: str) -> None:
    """Store the job as done with these revisions."""
    with database.session() as session:
        (job_id,), _ = job_creation.create_jobs(session, [job], priority=5, max_failures=3)
    claim = claimer(database)(job_id)
    assert claim is not None
    with database.session() as session:
        results.finish(session, claim, RunOutcome("succeeded", resolved=resolved), RunResults())


def planned(database: Database, job: JobSpec, **revisions: str) -> int:
    """The repeat that submitting means."""
    with database.session() as session:
        return sweeps.plan_repeat(session, job, force=False, hub_revisions=revisions).repeat


def test_model_and_data_by_branch_are_asked_for_and_commits_are_not() -> None:
    branch = spec(tasks=["sst2"], models=["org/model"])
    pinned = spec(tasks=["offline_nli"], models=[f"org/model@{OLD}"])

    assert moving_sources(branch) == [("models/org/model", "main"), ("datasets/stanfordnlp/sst2", "main")]
    assert moving_sources(pinned) == []


def test_moved_branch_means_a_new_repeat_once_and_then_that_one() -> None:
    database = Database("sqlite://")
    upgrade(database)
    job = spec(tasks=["sst2"], models=["org/model"])
    moved = {"datasets/stanfordnlp/sst2@main": NEW, "models/org/model@main": OLD}
    finished(database, job, model_revision=OLD, data_revision=OLD)

    assert planned(database, job) == 0
    assert planned(database, job, **{**moved, "datasets/stanfordnlp/sst2@main": OLD}) == 0
    assert planned(database, job, **moved) == 1
    finished(database, job.model_copy(update={"repeat": 1}), model_revision=OLD, data_revision=NEW)
    assert planned(database, job, **moved) == 1
    database.close()


def test_unknown_revision_is_no_reason_to_run_again() -> None:
    database = Database("sqlite://")
    upgrade(database)
    job = spec(tasks=["sst2"], models=["org/model"])
    finished(database, job, model_revision="unknown", data_revision="a-hash-of-another-kind")

    assert planned(database, job, **{"models/org/model@main": NEW, "datasets/stanfordnlp/sst2@main": NEW}) == 0
    database.close()
