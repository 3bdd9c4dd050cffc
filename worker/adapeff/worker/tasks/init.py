"""Write a task.yaml from a data file: a first draft, to be reviewed.

Columns are recognised by their names if these are usual, else by their content: a label repeats, a text is long.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from adapeff.service.errors import DataError, SpecError
from adapeff.service.plugins import catalog
from adapeff.worker.families.base import get_family
from adapeff.worker.families.drafts import Table
from adapeff.worker.tasks.files import FileForm, split_of
from adapeff.worker.tasks.own import FILE_NAME, load_own_task
from adapeff.worker.tasks.read_files import Notes, read_rows

LOOKED_AT = 100_000
_PARTS = ("split", "fold", "set", "subset", "partition")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "label": (
        *("label", "labels", "class", "category", "target", "sentiment", "stars", "rating", "gold_label", "intent"),
        *("answerkey", "y"),
    ),
    "score": ("score", "similarity_score", "relatedness_score"),
    "text": ("text", "sentence", "review", "premise", "sentence1", "question1", "content", "body", "tweet", "message"),
    "text_pair": ("text_pair", "hypothesis", "sentence2", "question2"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "upos", "ner"),
    "question": ("question",),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers",),
    "answer_text": ("answer", "answer_text"),
    "answer_start": ("answer_start",),
    "choices": ("choices", "options", "endings"),
    "id": ("id", "idx", "guid", "uid"),
}


def draft(file: Path) -> dict[str, Any]:
    """The content of a task.yaml for a file.

    Raises:
        DataError: if it cannot be read, or no family recognises it.
    """
    rows = list(islice(read_rows([file], FileForm(), Notes()), LOOKED_AT))
    if not rows:
        raise DataError(f"{file} contains no rows; expected at least one")
    columns = list(rows[0].values)
    by_role = {
        role: next((column for column in columns if column.lower() in names), None) for role, names in _NAMES.items()
    }
    made = _recognised(Table(columns, rows, by_role), file)
    if by_role["id"] is not None and len({str(row.values.get(by_role["id"])) for row in rows}) == len(rows):
        made["columns"] = {"id": by_role["id"], **made["columns"]}
    made["unused"] = [column for column in columns if column not in str(made["columns"])]
    if split_of(file) is None:
        made |= {"file": file.name, "split": {"validation": 0.1, "test": 0.2}}
    return made


def _recognised(table: Table, file: Path) -> dict[str, Any]:
    """The draft of the first family that recognises the file."""
    families = [get_family(name) for name in catalog.families()]
    for family in sorted(families, key=lambda family: family.drafted_last):
        if (made := family.draft(table)) is not None:
            return {"family": family.name, **made}
    raise DataError(
        f"{file} shows no text with a label: its columns are {', '.join(table.columns[:12])}; "
        f"write {FILE_NAME} by hand (see docs/tasks.md)"
    )


def write(file: Path) -> tuple[Path, dict[str, Any]]:
    """Write the draft next to the file, if it can be read back; returns its place and content.

    Raises:
        SpecError: if there is a task.yaml already, or the draft cannot be read back.
        DataError: as `draft`.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}; name a data file, such as reviews.csv")
    place = file.parent / FILE_NAME
    if place.exists():
        raise SpecError(f"{place} already exists; move it, or edit it by hand")
    made = draft(file)
    head = (
        f"# A draft by `adapeff tasks init` from the first rows of {file.name}: review it.\n"
        f"# The family is {made['family']}: {get_family(made['family']).summary}.\n"
        "# Labels that the data number from 0 are in that order; give them names. All keys: docs/tasks.md.\n"
    )
    if parts := [column for column in made.pop("unused") if column.lower() in _PARTS]:
        head += f"# The column '{parts[0]}' is not used: to keep its parts, write each into a file of its own.\n"
    place.write_text(head + yaml.safe_dump(made, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        load_own_task(str(place))
    except (SpecError, DataError):
        place.unlink()
        raise
    return place, made
