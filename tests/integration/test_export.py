"""Exports: the same text as when all rows were held in memory, complete, and written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pyarrow import parquet

from adapeff.cli.export_files import replacing, write_csv, write_json, write_parquet
from adapeff.service.reporting.export import Export, ExportColumn, Group, What, open_export
from adapeff.service.store.database import Database
from tests.factories import queue_jobs
from tests.integration.test_last_release import upgraded

__all__ = ["upgraded"]

RELEASED = {
    ("csv", None): "e8f7241f7a24a79283934c468cb92155e82cf87d1b7985cef905d83cde8237a6",
    ("json", None): "64d2fcb108c940336672d4254c318ed81db54669db524bcf27499ca82202d7dc",
    ("csv", 1): "d8039d0c2e50aca9eab51f388e2c7548d1a04f627eb52d164a9cf44f8767e944",
    ("json", 1): "5570a624617c3be07e4146bc6ec7ff53e6cf19e945007c99b2041be671861af8",
}
"""SHA-256 of the exports of the last release's database, of all jobs and of sweep 1, by the code before this one."""


def text_of(export: Export, form: str) -> str:
    text = io.StringIO()
    {"csv": write_csv, "json": write_json}[form](export, text.write)
    return text.getvalue()


@pytest.mark.parametrize(("form", "sweep"), RELEASED)
def test_the_text_of_an_export_has_not_changed(upgraded: Database, form: str, sweep: int | None) -> None:
    with upgraded.session(read_only=True) as session:
        text = text_of(open_export(session, sweep_ids=None if sweep is None else [sweep]), form)

    assert hashlib.sha256(text.encode()).hexdigest() == RELEASED[form, sweep]


@pytest.mark.parametrize("what", get_args(What))
def test_every_format_holds_the_same_rows(upgraded: Database, what: What, tmp_path: Path) -> None:
    with upgraded.session(read_only=True) as session:
        records = list(open_export(session, what).records())
        texts = {form: text_of(open_export(session, what), form) for form in ("csv", "json")}
        count = write_parquet(open_export(session, what), tmp_path / "x.parquet")

    assert records and count == len(records)
    assert json.loads(texts["json"]) == records
    read = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [list(row) for row in read] == [list(row) for row in records]
    assert [row["job_hash"] for row in read] == [row["job_hash"] for row in records]
    stored = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in stored] == [
        {key: str(float(value) if is_number(key, value) else value) for key, value in row.items()} for row in records
    ]


def is_number(name: str, value: Any) -> bool:
    return name in ("step", "value", "epochs") and value is not None


def test_an_export_of_jobs_curves_and_environments_is_complete(upgraded: Database) -> None:
    with upgraded.session(read_only=True) as session:
        found = {what: list(open_export(session, what).records()) for what in get_args(What)}

    jobs = {row["id"]: row for row in found["jobs"]}
    assert len(jobs) == 22
    assert {row["state"] for row in jobs.values()} == {"succeeded"}
    assert json.loads(jobs[1]["spec"])["training"]["learning_rate"]
    run_ids = {row["run_id"] for row in found["measurements"]}
    assert {row["id"] for row in found["environments"]} == run_ids
    assert "torch" in json.loads(found["environments"][0]["values"])
    points = [row["value"] for row in found["curves"] if (row["run_id"], row["name"]) == (1, "validation_accuracy")]
    (best,) = [
        row["value"]
        for row in found["measurements"]
        if (row["run_id"], row["name"], row["split"]) == (1, "accuracy", "validation")
    ]
    assert max(points) == best


def test_jobs_without_a_run_are_exported_as_jobs_only(any_database_url: str) -> None:
    database = Database(any_database_url)
    queue_jobs(database, 2)

    with database.session(read_only=True) as session:
        states = [row["state"] for row in open_export(session, "jobs").records()]
        texts = [text_of(open_export(session, "measurements"), form) for form in ("csv", "json")]
    database.close()

    assert states == ["queued", "queued"]
    assert texts == ["", "[]\n"]


def test_cells_keep_their_type_and_cannot_be_formulas(tmp_path: Path) -> None:
    values = ["=1+1", "a,b", 'say "x"', "", None, 1, True]
    columns = (ExportColumn("100% sure", "text"), ExportColumn("size", "text"), ExportColumn("value", "number"))

    def export() -> Export:
        rows: Iterator[Group] = (Group((value,), [(value, 0.0), (value, -0.0)]) for value in values)
        return Export(columns[:1], columns[1:], rows)

    read = list(csv.reader(io.StringIO(text_of(export(), "csv"))))
    assert read[0] == ["100% sure", "size", "value"]
    assert [row[1] for row in read[1::2]] == ["'=1+1", "a,b", 'say "x"', "", "", "1", "True"]
    assert [row[2] for row in read[1:3]] == ["0.0", "-0.0"]
    assert [(row["100% sure"], row["size"]) for row in json.loads(text_of(export(), "json"))[::2]] == [
        (value, value) for value in values
    ]
    write_parquet(export(), tmp_path / "x.parquet")
    assert parquet.read_table(tmp_path / "x.parquet")["size"].to_pylist()[::2] == [
        None if value is None else str(value) for value in values
    ]


def test_export_to_a_device_writes_to_it() -> None:
    with replacing(Path("/dev/null")) as file:
        assert file == Path("/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_failed_export_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    out = folder / "x.csv"
    out.write_text("before")

    with pytest.raises(RuntimeError, match="the server went away"), replacing(out) as file:
        file.write_text("half")
        raise RuntimeError("the server went away")
    assert [path.name for path in folder.iterdir()] == ["x.csv"]
    assert out.read_text() == "before"

    with replacing(out) as file:
        file.write_text("whole")
    assert [path.name for path in folder.iterdir()] == ["x.csv"]
    assert out.read_text() == "whole"
