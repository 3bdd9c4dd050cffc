"""The tables of an older database become those of a mixture's members, and back, without losing a whole job's row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from adapeff.service.store.database import Database, current_revision, downgrade, upgrade
from tests.integration.test_database import empty_url, store_as_first_release

__all__ = ["empty_url"]

KEYS = {"measurements": "id", "curves": "run_id, name", "example_scores": "run_id, language"}
Row = dict[str, Any]


@pytest.fixture
def before(empty_url: str) -> Iterator[Database]:
    """A database of revision 0004 with jobs, runs, measurements, curves and scores by example."""
    database = Database(empty_url)
    upgrade(database, "0001")
    store_as_first_release(database)
    upgrade(database, "0004")
    with database.session() as session:
        for run_id in (1, 2):
            session.execute(
                text("INSERT INTO curves (run_id, name, points) VALUES (:run, 'train_loss', '[[1, 0.7]]')"),
                {"run": run_id},
            )
            for language in ("en", "de"):
                session.execute(
                    text(
                        "INSERT INTO example_scores (run_id, language, metric, packed)"
                        " VALUES (:run, :language, 'accuracy', :packed)"
                    ),
                    {"run": run_id, "language": language, "packed": bytes([run_id, 0, 255])},
                )
    yield database
    database.close()


def rows(database: Database) -> dict[str, list[Row]]:
    """What the tables hold, without the new column."""
    with database.session(read_only=True) as session:
        found = {
            table: [dict(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY {key}")).mappings()]
            for table, key in KEYS.items()
        }
    return {table: [{k: v for k, v in row.items() if k != "task"} for row in of] for table, of in found.items()}


def copy_as_member(database: Database, table: str, task: str) -> None:
    """Store the table's rows again, as those of a member."""
    columns = ", ".join(column for column in rows(database)[table][0] if column != "id")
    with database.session() as session:
        session.execute(
            text(f"INSERT INTO {table} ({columns}, task) SELECT {columns}, :task FROM {table} WHERE task = ''"),
            {"task": task},
        )


def test_every_row_of_before_is_of_the_whole_job(before: Database) -> None:
    expected = rows(before)
    assert {table: len(of) for table, of in expected.items()} == {"measurements": 3, "curves": 2, "example_scores": 4}

    upgrade(before)

    assert rows(before) == expected
    with before.session(read_only=True) as session:
        for table in KEYS:
            assert session.scalars(text(f"SELECT DISTINCT task FROM {table}")).all() == [""]
    with before.engine.connect() as connection:
        (index,) = inspect(connection).get_indexes("measurements")[:1]
        assert (index["name"], index["column_names"]) == ("ix_measurements_name_value", ["name", "value"])


@pytest.mark.parametrize("table", KEYS)
def test_members_have_rows_beside_the_whole_jobs_and_none_twice(before: Database, table: str) -> None:
    upgrade(before)

    copy_as_member(before, table, "sst2")
    copy_as_member(before, table, "offline_sentiment[difficulty=0.5]")

    for task in ("sst2", ""):
        with pytest.raises(IntegrityError):
            copy_as_member(before, table, task)


def test_rows_still_go_with_their_run(before: Database) -> None:
    upgrade(before)
    for table in KEYS:
        copy_as_member(before, table, "sst2")

    with before.session() as session:
        session.execute(text("DELETE FROM runs WHERE id = 1"))

    assert [len(of) for of in rows(before).values()] == [0, 2, 4]


def test_going_back_keeps_exactly_what_was_there_before(before: Database) -> None:
    expected = rows(before)
    upgrade(before)
    for table in KEYS:
        copy_as_member(before, table, "sst2")

    downgrade(before, "0004")

    assert rows(before) == expected
    with before.engine.connect() as connection:
        assert all("task" not in {c["name"] for c in inspect(connection).get_columns(table)} for table in KEYS)
    upgrade(before)
    assert rows(before) == expected


def test_an_upgrade_that_fails_changes_nothing(before: Database) -> None:
    expected = rows(before)
    with before.session() as session:  # the last of the three tables cannot be altered
        session.execute(text("ALTER TABLE curves RENAME TO elsewhere"))

    with pytest.raises(Exception, match="curves"):
        upgrade(before)

    with before.session() as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO curves"))
    assert current_revision(before) == "0004"
    assert rows(before) == expected
    with before.engine.connect() as connection:
        assert "task" not in {column["name"] for column in inspect(connection).get_columns("measurements")}
