"""Write an export as CSV, JSON or Parquet while it is read."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from adapeff.cli.render.text import spreadsheet_cell
from adapeff.service.errors import ConfigError
from adapeff.service.reporting.export import Export, ExportColumn

_REMEMBERED = 2000
"""Cells whose text is kept: names and dimensions of measurements repeat in every run."""
_ROW_GROUP = 10_000
"""Rows of a row group of a Parquet file, at least."""
Write = Callable[[str], Any]


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A file next to `out` that replaces it at the end, so that a failed export leaves no part of one; a device stays.

    The new file has the permissions of any new file.
    """
    if out.exists() and not out.is_file():
        yield out
        return
    target = out.resolve()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Layout:
    """Where the cells of a row go in a text format."""

    cell: Callable[[Any], str]
    shared: str
    """A row's beginning, with `%s` for each cell that it shares with the others of its group."""
    own: str
    """The rest, with `%s` for each other cell."""
    opening: str
    between: str
    closing: str
    empty: str
    """The text of no rows."""


def write_csv(export: Export, write: Write) -> int:
    """Write CSV with a heading, or nothing if there are no rows. Returns the number of rows.

    Cells are escaped so that no spreadsheet reads them as formulas.
    """
    shared = ",".join("%s" for _ in export.shared)
    own = "".join(",%s" for _ in export.own) + "\n"
    heading = ",".join(_csv_cell(column.name) for column in export.columns) + "\n"
    return _write_text(export, write, _Layout(_csv_cell, shared, own, heading, "", "", empty=""))


def write_json(export: Export, write: Write) -> int:
    """Write a JSON list of objects. Returns the number of rows."""
    shared = ",\n".join(_json_member(column) for column in export.shared)
    own = "".join(f",\n{_json_member(column)}" for column in export.own)
    return _write_text(
        export, write, _Layout(json.dumps, f" {{\n{shared}", f"{own}\n }}", "[\n", ",\n", "\n]\n", empty="[]\n")
    )


def _json_member(column: ExportColumn) -> str:
    return f"  {json.dumps(column.name).replace('%', '%%')}: %s"


def _csv_cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow((spreadsheet_cell(value), ""))
    return line.getvalue()[:-2]


def _write_text(export: Export, write: Write, layout: _Layout) -> int:
    cell = layout.cell
    remembered = lru_cache(_REMEMBERED, typed=True)(cell)
    count = 0
    for shared, rows in export.groups:
        if not rows:
            continue
        start = layout.shared % tuple(map(cell, shared))
        lines = [
            # floats seldom repeat, and 0.0 and -0.0 are equal
            start + layout.own % tuple([cell(v) if type(v) is float else remembered(v) for v in row])
            for row in rows
        ]
        write(layout.between if count else layout.opening)
        write(layout.between.join(lines))
        count += len(rows)
    write(layout.closing if count else layout.empty)
    return count


def write_parquet(export: Export, out: Path) -> int:
    """Write a Parquet file, a row group at a time. Returns the number of rows.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:  # pyarrow is an optional dependency
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError("parquet needs pyarrow; run pip install 'adapeff[parquet]'") from error
    types = {
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "text": pyarrow.string(),
    }
    schema = pyarrow.schema([(column.name, types[column.kind]) for column in export.columns])
    is_text = [column.kind == "text" for column in export.columns]
    gathered: list[list[Any]] = [[] for _ in export.columns]
    split, count = len(export.shared), 0
    with parquet.ParquetWriter(out, schema) as writer:

        def flush() -> None:
            arrays = [
                pyarrow.array(map(_text, values) if text else values, field.type)
                for values, field, text in zip(gathered, schema, is_text, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            for values in gathered:
                values.clear()

        for shared, rows in export.groups:
            for values, value in zip(gathered, shared, strict=False):
                values.extend([value] * len(rows))
            for values, column in zip(gathered[split:], zip(*rows, strict=True), strict=False):
                values.extend(column)
            count += len(rows)
            if len(gathered[0]) >= _ROW_GROUP:
                flush()
        flush()
    return count


def _text(value: Any) -> str | None:
    """A cell of a column of text: a setting may be a number in one job and a name in another."""
    return value if value is None or type(value) is str else str(value)
