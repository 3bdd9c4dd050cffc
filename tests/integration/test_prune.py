"""`adapeff prune` removes old files of runs, no results, and nothing that a job still needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.errors import JobError, SpecError
from adapeff.service.lanes import ANY, lane_of
from adapeff.service.store import jobs, results
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import Run
from tests.factories import queue_jobs, spec
from tests.integration.test_jobs import state_of
from tests.integration.test_steering import submit, with_source

Cli = Callable[..., None]
FILES = {"weights.safetensors": "weights", "predictions.jsonl.gz": "predictions", "samples.json.gz": "samples"}


@pytest.fixture
def database(any_database_url: str, cli: Cli) -> Iterator[Database]:
    """The database that `cli` uses, SQLite and PostgreSQL in turn."""
    opened = Database(any_database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield opened
    opened.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """The folder of artifacts that `cli` uses."""
    return tmp_path / "state" / "artifacts"


def run(database: Database, job_id: int, artifacts: Path, *, outcome: Any = "succeeded", days_ago: float = 0) -> Path:
    """A run that ended some days ago, with its files; returns its folder."""
    lanes = (lane_of(ANY), lane_of("cpu"))
    with database.session() as session:
        claim = jobs.claim_job(
            session, job_id, owner="w", slot="cpu:0", folder=str(artifacts / "runs"), lease_seconds=60, lanes=lanes
        )
    assert claim is not None
    folder = Path(claim.folder)
    folder.mkdir(parents=True)
    found = RunResults(environment={"device_name": "test"})
    found.take({"event": "measurement", "name": "accuracy", "value": 0.5, "unit": "1", "language": "en"})
    for file, name in FILES.items():
        (folder / file).write_text("x" * 1000)
        found.take({"event": "artifact", "name": name, "path": file, "sha256": "0" * 64, "bytes": 1000})
    for name in ("run.log", "events.jsonl", "job.json"):
        (folder / name).write_text("y" * 10)
    with database.session() as session:
        results.finish(session, claim, RunOutcome(outcome), found)
        ended = session.get_one(Run, claim.run_id)
        assert ended.finished_at is not None
        ended.finished_at -= timedelta(days=days_ago)
    return folder


def left(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


EVERYTHING = {*FILES, "run.log", "events.jsonl", "job.json"}


def test_only_old_files_of_the_kinds_are_removed_and_results_stay(
    database: Database, artifacts: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    old_id, new_id, failed_id, kept_id = queue_jobs(database, 4)
    old, new = run(database, old_id, artifacts, days_ago=31), run(database, new_id, artifacts, days_ago=29)
    failed = run(database, failed_id, artifacts, outcome="error", days_ago=40)

    cli("prune", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "removed": False,
        "older_than": "30d",
        "kinds": [
            {"kind": "predictions", "files": 1, "bytes": 1000},
            {"kind": "samples", "files": 1, "bytes": 1000},
            {"kind": "failed", "files": 6, "bytes": 3030},
        ],
    }
    assert left(old) == left(new) == left(failed) == EVERYTHING, "only listed"

    cli("prune", "--yes")

    assert left(old) == EVERYTHING - {"predictions.jsonl.gz", "samples.json.gz"}
    assert left(new) == EVERYTHING and not failed.exists()
    with database.session(read_only=True) as session:
        (measured,) = results.list_measurements(session, [1])[1]
        assert measured.value == 0.5
        assert [artifact.name for artifact in results.list_artifacts(session, 1)] == ["weights"]
    cli("prune", "--older-than", "12h", "--kind", "logs", "--yes")
    assert left(new) == EVERYTHING - {"run.log", "events.jsonl"}
    assert state_of(database, kept_id) == "queued"


def test_jobs_are_selected(database: Database, artifacts: Path, cli: Cli) -> None:
    (mine,), (other,) = submit(database, spec(0), name="mine"), submit(database, spec(1), name="other")
    folders = [run(database, job_id, artifacts, days_ago=1) for job_id in (mine, other)]

    cli("prune", "--older-than", "0d", "--kind", "samples", "--sweep", "mine", "--where", "seed=1", "--yes")
    assert left(folders[0]) == left(folders[1]) == EVERYTHING
    cli("prune", "--older-than", "0d", "--kind", "samples", "--sweep", "mine", "--yes")
    assert left(folders[0]) == EVERYTHING - {"samples.json.gz"} and left(folders[1]) == EVERYTHING


def test_weights_stay_while_a_job_needs_them_and_cannot_be_built_on_afterwards(
    database: Database, artifacts: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    source, needing = with_source(database)
    folder = run(database, source, artifacts, days_ago=1)

    cli("prune", "--older-than", "0d", "--kind", "weights", "--yes")
    assert "nothing to remove" in capsys.readouterr().err
    with database.session() as session:
        jobs.request_cancel(session, needing)
    cli("prune", "--older-than", "0d", "--kind", "weights", "--yes")
    assert left(folder) == EVERYTHING - {"weights.safetensors"}

    later = spec(2).model_copy(update={"sources": (spec(0, settings={"keep_weights": True}).job_hash,)})
    with pytest.raises(JobError, match=f"needs the weights of job {source}, which are no longer stored"):
        submit(database, later)


def test_files_of_running_jobs_and_outside_of_the_artifacts_stay(
    database: Database, artifacts: Path, tmp_path: Path, cli: Cli
) -> None:
    elsewhere, again = queue_jobs(database, 2)
    outside = run(database, elsewhere, tmp_path / "other", days_ago=9)
    first = run(database, again, artifacts, outcome="killed", days_ago=9)

    cli("prune", "--older-than", "0d", *(f"--kind={kind}" for kind in ("weights", "samples", "failed")), "--yes")

    assert left(outside) == left(first) == EVERYTHING


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--older-than", "soon"], "--older-than is 'soon'; expected hours, days or weeks such as 12h, 30d or 8w"),
        (["--kind", "sample"], "--kind is 'sample'; did you mean 'samples'"),
        (["--sweep", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_refused(cli: Cli, arguments: list[str], message: str) -> None:
    with pytest.raises((SpecError, JobError), match=message):
        cli("prune", *arguments)
