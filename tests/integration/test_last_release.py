"""A database written by the last release gives the same figures after its migration.

`last_release/database.sql.gz` was written by adapeff 0.1.0 at 1d33f39: 21 training jobs (three families, inference
variants, a tuned method, a repeat) and a profile; `report.json.gz` is what `adapeff report --all --json` printed then.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapeff.service.reporting.profiles import profile_rows
from adapeff.service.reporting.report import Report, build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.specs.profile import read_spec
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database, upgrade

RELEASE = Path(__file__).parent / "last_release"
REWORDED = {
    "measured beside another run of the same host": "measured next to another run on the same host",
    "optimiser": "optimizer",
}
NEW_FIGURES = {
    *("break_even_tasks", "verdict", "finding", "difference", "difference_examples", "difference_p_holm"),
    *("train_ratio_paired", "latency_ratio_paired", "seeds_needed"),
}


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Database]:
    """The last release's database, migrated."""
    file = tmp_path / "adapeff.db"
    with sqlite3.connect(file) as written:
        written.executescript(gzip.decompress((RELEASE / "database.sql.gz").read_bytes()).decode())
    written.close()
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    yield database
    database.close()


def figures(report: Report) -> list[dict[str, Any]]:
    """What `adapeff report --json` prints."""
    return [*report_rows(report), *profile_rows(report.profiles)]


def test_report_of_the_last_releases_database_has_the_same_figures(upgraded: Database) -> None:
    text = gzip.decompress((RELEASE / "report.json.gz").read_bytes()).decode()
    for old, new in REWORDED.items():
        text = text.replace(old, new)

    with upgraded.session(read_only=True) as session:
        printed = json.loads(json.dumps(figures(build_report(session))))

    expected = json.loads(text)
    assert len(expected) > 400
    assert [row for row in printed if row["figure"] not in NEW_FIGURES] == expected


def test_jobs_of_the_last_release_keep_their_identity_and_get_a_kind(upgraded: Database) -> None:
    with upgraded.session(read_only=True) as session:
        jobs = job_queries.list_jobs(session)

        kinds = [job.kind for job in jobs]
        assert (kinds.count("train"), kinds.count("profile")) == (21, 1)
        assert {job.kind for job in jobs if job.spec["kind"] == "profile"} == {"profile"}
        assert [read_spec(job.spec).job_hash for job in jobs] == [job.job_hash for job in jobs]
