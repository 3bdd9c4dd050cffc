"""Plain records, such as a method or a task, as JSON or as tables on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapeff.cli.render.tables import print_table


def print_records(title: str, records: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print records as a table of the given columns, or in full as JSON."""
    if as_json:
        print(json.dumps(records, indent=1))
        return
    headings = [column.replace("_", " ") for column in columns]
    print_table(title, headings, [[_text(record[column]) for column in columns] for record in records])


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one record: its `name` as the title, and a row for every other field that is not empty."""
    if as_json:
        print(json.dumps(record, indent=1))
        return
    fields = {key: value for key, value in record.items() if key != "name" and value not in (None, "", {}, [])}
    print_table(str(record["name"]), ["", ""], [[key.replace("_", " "), _text(value)] for key, value in fields.items()])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        if all(isinstance(item, str) for item in value.values()):
            is_identity = all(key == item for key, item in value.items())
            return ", ".join(value if is_identity else [f"{key}: {item}" for key, item in value.items()])
        return "\n".join(f"{key} = {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
