"""Which runs `report --where` selects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from adapeff.service.errors import SpecError
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.selection import Selection
from adapeff.service.store.database import Database
from adapeff.service.store.tables import Run
from tests.integration.test_report import store


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    opened = Database(any_database_url)
    yield opened
    opened.close()


def selected(database: Database, *where: str) -> set[str]:
    """Task, method and seed of the selected runs."""
    options = Options(selection=Selection.parse(where))
    with database.session(read_only=True) as session:
        tables = build_report(session, options=options).tables
    return {f"{table.task} {row.method} {seed}" for table in tables for row in table.rows for seed in row.seeds}


def test_conditions_narrow_the_report_in_all_of_their_forms(database: Database) -> None:
    for method in ("full", "lora", "lora[rank=4]", "houlsby"):
        for seed in (0, 1):
            store(database, method, seed, 0.8, 100)
    store(database, "full", 0, 0.8, 100, tasks=["offline_nli"])

    assert selected(database, "task=offline_nli") == {"offline_nli full 0"}
    assert selected(database, "method=lora*", "seed=1") == {
        "offline_sentiment lora 1", "offline_sentiment lora[rank=4] 1",
    }  # fmt: skip
    assert selected(database, "method=lora[rank=4],houlsby", "seed=0") == {
        "offline_sentiment lora[rank=4] 0", "offline_sentiment houlsby 0",
    }  # fmt: skip
    assert selected(database, "method!=lora,houlsby", "seed!=1") == {"offline_sentiment full 0", "offline_nli full 0"}
    assert selected(database, "model=org/*", "task=*nli", "device=Test*") == {"offline_nli full 0"}
    assert selected(database, "method=LORA") == set()


def test_since_counts_from_the_end_of_runs(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.8, 100)
    with database.session() as session:
        session.query(Run).order_by(Run.id).first().finished_at = datetime.now(UTC) - timedelta(days=10)  # type: ignore[union-attr]

    assert selected(database, "since=7d") == {"offline_sentiment lora 0"}
    assert len(selected(database, "since=2w")) == len(selected(database, "since=2020-01-31")) == 2


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("tsk=sst2", "unknown key 'tsk'; did you mean 'task'"),
        ("lora", "--where is 'lora'; expected KEY=VALUE"),
        ("method=", "expected KEY=VALUE"),
        ("since=soon", "expected a date such as 2026-01-31"),
        ("since!=7d", "since takes ="),
    ],
)
def test_what_is_no_condition_is_said(where: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Selection.parse([where])
