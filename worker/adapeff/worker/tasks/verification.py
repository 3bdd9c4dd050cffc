"""Read the hub's data sets as they are declared, and pin the commits that were read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapeff.service.errors import DataError, first_line
from adapeff.service.specs.hub import current_commit
from adapeff.worker.families.rows import RowReader
from adapeff.worker.tasks.data_sets import DataSet

ROWS = 20


def verify(data_sets: Sequence[DataSet], verified: Path) -> Iterator[dict[str, Any]]:
    """For each data set its commit now, and what is wrong with the first rows of every split in every language.

    A hub id all of whose data sets read well is pinned in the file `verified`.

    Raises:
        DataError: if the hub cannot be reached, or the file cannot be written.
    """
    faults: dict[str, list[str]] = {}
    commits: dict[str, str] = {}
    for data_set in data_sets:
        hub = str(data_set.hub)
        commit = current_commit(f"datasets/{hub}", data_set.asked_revision or "main")
        if commit is None:
            raise DataError(
                f"the hub does not say which commit '{hub}' is at; check the connection, and HF_HUB_OFFLINE"
            )
        found = list(_faults(data_set.model_copy(update={"revision": commit})))
        faults.setdefault(hub, []).extend(found)
        commits[hub] = commit
        yield {"data_set": data_set.name, "hub": hub, "commit": commit, "before": data_set.revision, "faults": found}
    _pin({hub: commit for hub, commit in commits.items() if not faults[hub]}, verified)


def _faults(data_set: DataSet) -> Iterator[str]:
    import datasets

    for language in data_set.languages:
        for split in dict.fromkeys(data_set.splits.values()):
            where = f"{language}/{split}"
            if split == data_set.splits.get("train") and language != next(iter(data_set.languages)):
                continue  # test languages need have no training data
            positional, named = data_set.hub_arguments(split, language)
            try:
                rows = datasets.load_dataset(*positional, **{**named, "split": split.partition("[")[0]}, streaming=True)
                read = _read(data_set, itertools.islice(rows, ROWS), where)
            except DataError as error:
                yield str(error)
            except Exception as error:  # noqa: BLE001 - what `datasets` raises is not documented
                yield f"{where}: {type(error).__name__}: {first_line(error)}"
            else:
                if not read:
                    yield f"{where}: no rows"


def _read(data_set: DataSet, rows: Iterator[Mapping[str, Any]], where: str) -> int:
    reader = RowReader(data_set, data_set.labels, {}, origin=f"{data_set.name}/{where}", text_only=False)
    number = 0
    for number, row in enumerate(rows, start=1):
        reader.read(row, number)
    return number


def _pin(commits: Mapping[str, str], verified: Path) -> None:
    known = json.loads(verified.read_text(encoding="utf-8")) if verified.is_file() else {}
    text = json.dumps({**known, **commits}, indent=1, sort_keys=True) + "\n"
    try:
        verified.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"what was verified cannot be kept in {verified}: {error.strerror}; it is:\n{text}") from error
