"""The functions for notebooks give the rows of the views; tests/e2e/test_same_numbers.py recomputes their figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapeff.service import api
from adapeff.service.errors import AdapeffError, SpecError
from adapeff.service.store.database import Database, upgrade
from tests.integration.stored import store_profile
from tests.integration.test_report import store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of two methods with three seeds each, and their profile."""
    url = f"sqlite:///{tmp_path / 'results.db'}"
    database = Database(url)
    upgrade(database)
    for method, score in (("full", 0.8), ("lora", 0.7)):
        for seed in range(3):
            store(database, method, seed, score + seed / 1000, 100)
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})
    database.close()
    return url


def test_records_are_the_rows_of_the_views(url: str) -> None:
    report = api.load_report(database_url=url)

    lora = next(row for row in api.records(report) if row["method"] == "lora")

    assert (lora["quality"], lora["train_time"], lora["verdict"]) == (pytest.approx(0.701), 0.7, "clearly below full")
    assert {row["method"] for row in api.records(report, "storage")} == {"full", "lora"}
    assert any(row["figure"] == "finding" for row in api.figures(report))
    assert len(api.records(api.load_report(database_url=url, where=["method=full"]))) == 1


def test_what_does_not_exist_is_said(url: str) -> None:
    with pytest.raises(AdapeffError, match="no sweep 'nope'"):
        api.load_report("nope", database_url=url)
    with pytest.raises(SpecError, match="no view 'qualty'; did you mean 'quality'"):
        api.records(api.load_report(database_url=url), "qualty")
