"""What `tasks init` shows the families of a data file, so that one of them recognises it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LABELS = 50
_ABSENT = ("", "nan", "none", "null", "n/a")
"""Content of a label column where there is no label."""


@dataclass(frozen=True)
class Table:
    """The rows of a file, and which of its columns have the usual name of a role."""

    columns: Sequence[str]
    rows: Sequence[tuple[Mapping[str, Any], str]]
    """Each with its place in the file, for error messages."""
    by_role: Mapping[str, str | None]

    def values(self, column: str) -> list[Any]:
        """All values of a column."""
        return [values.get(column) for values, _ in self.rows]

    def named(self, *roles: str) -> dict[str, str]:
        """The roles that a column is named after."""
        return {role: column for role in roles if (column := self.by_role.get(role)) is not None}

    def label_column(self) -> str | None:
        """The column named after labels, else the one with the fewest values that repeat."""
        if (named := self.by_role["label"]) is not None:
            return named
        distinct = {column: len({str(value) for value in self.values(column)}) for column in self.columns}
        most = min(MAX_LABELS, max(2, len(self.rows) // 2))
        few = [column for column in self.columns if 1 < distinct[column] <= most]
        return min(few, key=distinct.__getitem__, default=None)

    def text_columns(self, label: str | None) -> dict[str, str] | None:
        """The columns of one text or a pair, next to the label's: by name, else the longest texts."""
        texts = [
            column
            for column in self.columns
            if column != label and all(isinstance(value, str) for value in self.values(column))
        ]
        longest = max(texts, key=lambda column: sum(map(len, self.values(column))), default=None)
        text = self.by_role["text"] or longest
        return None if text is None or text == label else {"text": text, **self.named("text_pair")}

    def present(self, column: str) -> list[Any]:
        """The values of a label column that are labels."""
        return [value for value in self.values(column) if not is_absent(value)]

    def absent(self, column: str) -> dict[str, Any]:
        """The keys of a task.yaml for values that mean a missing label."""
        values = self.values(column)
        written = sorted({str(value) for value in values if is_absent(value) and value is not None})
        return {
            **({"ignore_labels": written} if written else {}),
            **({"unlabelled": True} if None in values else {}),
        }


def is_absent(value: Any) -> bool:
    """Whether a value of a label column means that there is no label."""
    return str(value).strip().lower() in _ABSENT


def label_names(found: Sequence[str]) -> list[str]:
    """Names for labels: as they are, but numbers from 0 get a name, and others are written without decimals."""
    if not all(re.fullmatch(r"-?\d+(\.0*)?", name) for name in found):
        return list(found)
    whole = sorted({int(float(name)) for name in found})
    return [f"label_{number}" for number in whole] if whole == list(range(len(whole))) else list(map(str, whole))
