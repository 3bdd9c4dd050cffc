"""Data sets declared as data: sets of the Hugging Face hub (`hub.yaml`) and users' own files, in the same terms.

A hub set is first looked for as a local folder under the `data_root` setting, in the hub's columns and label encoding:
`<folder>/<config>/{train,validation,test}`, in any form that `read_files.py` reads. Otherwise it comes from the hub.

What is tested on is never selected on: where a set has no labelled test split, its validation split is the test, and
the examples for selection are held out of train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapeff.service.errors import DataError, NotHereError
from adapeff.service.masking import mask
from adapeff.service.plugins.contracts import Split
from adapeff.worker.families.base import get_family
from adapeff.worker.families.rows import RowForm, RowReader
from adapeff.worker.families.values import found_columns
from adapeff.worker.tasks.files import TEXT_ONLY, FileForm, find_files, find_whole, form_of, other_files
from adapeff.worker.tasks.read_files import Notes, Row, read_rows
from adapeff.worker.tasks.splits import dealt_out, held_out

Files = tuple[Path, ...]
SPLIT_EXAMPLE = "{validation: 0.1, test: 0.2}"
ROW_ERRORS = 5
"""How many wrong rows of a file are named."""
PARQUET_REVISION = "refs/convert/parquet"
"""Where the hub keeps Parquet copies of sets published as a loading script, which `datasets` no longer runs."""


class DataSet(RowForm, FileForm):
    """One published data set, or a user's folder: where it is, how its rows are read, how it may be used."""

    name: str
    hub: str | None = None
    """Hub id."""
    revision: str | None = None
    """Commit; null until one was seen: then the branch's current commit is used, and the run records it."""
    verified: bool = False
    """Whether `adapeff tasks verify` read this revision with this declaration."""
    script_only: bool = False
    """Published as a script: its Parquet copy is used."""
    folder: str = ""
    """Below `data_root`."""
    root: Path | None = None
    """The folder itself, of a user's own data."""
    languages: Mapping[str, str]
    """Language -> the hub's configuration, which is also the sub-folder's name."""
    prefixes: Mapping[str, str] = {}
    """Language -> what its ids begin with, where one configuration holds several languages."""
    splits: Mapping[Split, str] = {"train": "train", "validation": "validation", "test": "test"}
    """Split -> the hub's labelled split that serves as it; without validation, examples are held out of train."""
    hold_out: bool = False
    """Selection examples are held out of train even where a local copy has a validation file."""
    group: str | None = None
    """Column whose values stay together when examples are held out, such as the article of a question; for questions
    the default is the context."""
    shares: Mapping[Split, float] = {}
    """The shares of one file with all the data that serve as validation and test, drawn by label."""
    whole: str | None = None
    """The name of that file, in a language's folder; by default the only data file there."""
    licence: str
    non_commercial: bool = False
    notes: str = ""

    def record(self) -> dict[str, Any]:
        """The declaration, in JSON's types; always with its revision and whether it was verified."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        return {**values, "revision": self.revision, "verified": self.verified}

    def local_root(self, data_root: Path | None) -> Path | None:
        """The local copy, if there is one."""
        if self.root is not None:
            return self.root
        folder = data_root / self.folder if data_root and self.folder else None
        return folder if folder is not None and folder.is_dir() else None

    def files(self, split: Split, language: str, root: Path) -> Files | None:
        """The local files of a split by their names."""
        folder = root / self.languages.get(language, language)
        if self.shares:
            whole = find_whole(folder, self.whole, root=root)
            return None if whole is None else (whole,)
        return find_files(folder, split, root=root)

    def serving(self, language: str, data_root: Path | None) -> dict[Split, Files | str]:
        """What serves as each split: files if there is a local copy, else names of the hub's splits."""
        root = self.local_root(data_root)
        if root is None:
            return dict(self.splits)
        every: tuple[Split, ...] = ("train", "validation", "test")
        found: dict[Split, Files | str] = {
            split: files for split in every if (files := self.files(split, language, root)) is not None
        }
        if self.shares:
            return {split: files for split, files in found.items() if split == "train" or split in self.shares}
        if self.hold_out:
            found.pop("validation", None)
        test = found.get("test")
        if "validation" in found and (not isinstance(test, tuple) or not self._is_labelled(test)):
            if test is None and self.root is None and self.splits.get("test") == "test" and "test" in self.splits:
                return found  # the hub's data set has a separate test split, which is missing here
            found["test"] = found.pop("validation")
        return found

    def _is_labelled(self, files: Files) -> bool:
        """Whether some label is not -1, the hub's mark for no label."""
        labels = (row.values.get(self.columns.label or "") for row in read_rows(files, self))
        return (first := next(labels, None)) != -1 or any(label != -1 for label in (first, *labels))

    def read(
        self, split: Split, language: str, data_root: Path | None, *, labels: Sequence[str], merge: Mapping[str, str]
    ) -> list[Any]:
        """The examples that serve as a split, in the data's order.

        Raises:
            DataError: if there are none, or a row is not as declared.
        """
        serving = self.serving(language, data_root)
        if self.shares and isinstance(serving.get("train"), tuple):
            return self._share(split, language, data_root, labels, merge)
        if split == "test" or (split in serving and "validation" in serving):
            return [example for example, _ in self._examples(serving, split, language, data_root, labels, merge)]
        train = self._examples(serving, "train", language, data_root, labels, merge)
        seed = f"held out of {self.name}" if self.root is None else "held out"  # a folder's place is not its identity
        chosen = held_out(self.name, [group for _, group in train], column=self.group_column, seed=seed)
        return [example for index, (example, _) in enumerate(train) if (index in chosen) == (split == "validation")]

    def _share(
        self, split: Split, language: str, data_root: Path | None, labels: Sequence[str], merge: Mapping[str, str]
    ) -> list[Any]:
        """The part of one file of everything that serves as a split, the same each time."""
        found = self._examples(self.serving(language, data_root), "train", language, data_root, labels, merge)
        dealt = dealt_out(found, self.shares, get_family(self.family).dealt_by)
        if not dealt.get(split) or not dealt["train"]:
            shares = ", ".join(f"{name} {share:g}" for name, share in self.shares.items())
            raise DataError(
                f"'{self.name}' has {len(found)} examples, too few to split into {shares} and train; raise the shares, "
                "or give each split a file"
            )
        return [example for index, (example, _) in enumerate(found) if index in dealt[split]]

    def _examples(
        self,
        serving: Mapping[Split, Files | str],
        split: Split,
        language: str,
        data_root: Path | None,
        labels: Sequence[str],
        merge: Mapping[str, str],
        notes: Notes | None = None,
    ) -> list[tuple[Any, Any]]:
        """Examples, each with the group it must stay together with."""
        place = serving.get(split)
        if place is None:
            raise DataError(self.absent(split, language, data_root))
        is_local = isinstance(place, tuple)
        origin = str(place[0]) if isinstance(place, tuple) and len(place) == 1 else f"{self.name}/{language}/{split}"
        text_only = isinstance(place, tuple) and form_of(place[0], self) in TEXT_ONLY
        reader = RowReader(self, labels, merge, origin=origin, text_only=text_only)
        rows = read_rows(place, self, notes) if isinstance(place, tuple) else self._hub_rows(place, language)
        prefix = self.prefixes.get(language)
        found: list[tuple[Any, Any]] = []
        faults: list[str] = []
        for number, (row, where) in enumerate(rows, start=1):
            if prefix is not None and not str(row.get("id", "")).startswith(prefix):
                continue
            try:
                example = reader.read(row, number, where)
                group = self._group_of(row, f"{origin}, {where}") if split == "train" and example is not None else None
            except DataError as error:
                faults.append(str(error))
                if len(faults) > ROW_ERRORS or not is_local:
                    break
                continue
            if example is not None:
                found.append((example, group))
        if faults:
            raise DataError(_several(faults, origin))
        if notes is not None and reader.left_out:
            notes.add(f"{reader.left_out} row(s) are left out: they have no label or answer, as declared")
        if not found:
            raise DataError(f"{origin} contains no examples; expected at least one")
        return found

    def absent(self, split: Split, language: str, data_root: Path | None) -> str:
        """An error message: there are no data for a split, and what is there instead."""
        folder = (self.local_root(data_root) or Path()) / self.languages.get(language, language)
        others = other_files(folder)
        there = f"; there are: {', '.join(others[:5])}" if others else ""
        if self.root is not None and not self.shares:
            there += f"; one file of everything is split with `split: {SPLIT_EXAMPLE}` in task.yaml"
        return (
            f"'{self.name}' has no {split} data in '{language}'; "
            f"expected {folder / split}.jsonl (or .csv, .tsv, .parquet, .json, .conll){there}"
        )

    def file_notes(
        self, split: Split, language: str, data_root: Path | None, *, labels: Sequence[str], merge: Mapping[str, str]
    ) -> list[str]:
        """What users should know about the files that serve as a split."""
        serving = self.serving(language, data_root)
        of = split if split in serving and not (split == "train" and self.shares) else "train"
        root = self.local_root(data_root)
        if root is None or not isinstance(serving.get(of), tuple):
            return []
        notes = Notes()
        with suppress(DataError):
            self._examples(serving, of, language, data_root, labels, merge, notes)
        folder = root / self.languages.get(language, language)
        if split == "train" and not self.shares and (others := other_files(folder)):
            notes.add(f"not used: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}")
        return notes.all()

    @property
    def group_column(self) -> str | None:
        """The column whose values stay together: the declared one, else the one that the family names."""
        role = get_family(self.family).group_role
        return self.group or (getattr(self.columns, role) if role else None)

    def _group_of(self, row: Mapping[str, Any], where: str) -> str | int | None:
        if self.group is None:
            return str(row[self.group_column]) if self.group_column is not None else None
        if self.group not in row:
            raise DataError(f"{where}: no group column '{self.group}'; {found_columns(row)}")
        if not isinstance(row[self.group], str | int):
            raise DataError(f"{where}: the group '{self.group}' is {row[self.group]!r:.60}, expected text or a number")
        group: str | int = row[self.group]
        return group

    @property
    def asked_revision(self) -> str | None:
        """The requested commit or branch; None for the main branch."""
        return self.revision or (PARQUET_REVISION if self.script_only else None)

    def hub_arguments(self, split: str, language: str) -> tuple[list[str | None], dict[str, Any]]:
        """How `datasets.load_dataset` is called for a split."""
        config = self.languages[language]
        if self.script_only:
            files = {"data_files": {split: f"{config}/{split}/*.parquet"}, "verification_mode": "no_checks"}
            return [self.hub], {**files, "split": split, "revision": self.asked_revision}
        return [self.hub, config], {"split": split, "revision": self.asked_revision}

    def _hub_rows(self, split: str, language: str) -> Iterator[Row]:
        import datasets

        from adapeff.worker.hub_access import prepare_hub

        is_reachable = prepare_hub()
        positional, named = self.hub_arguments(split, language)
        try:
            rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(*positional, **named)
        except Exception as error:
            line = mask((str(error).splitlines() or [""])[0])
            kind = DataError if is_reachable else NotHereError
            if not is_reachable:
                line = f"the hub cannot be reached, and no copy is cached: {line}"
            raise kind(
                f"data set '{self.hub}' cannot be loaded from the hub ({type(error).__name__}: {line}); check the "
                f"connection, or put it under data_root as {self.folder}/{self.languages[language]}/{split}.jsonl"
            ) from error
        for number, row in enumerate(rows, start=1):
            yield Row(row, f"row {number}")

    def resolved_revision(self, language: str) -> str:
        """The commit of the hub's data set, as `datasets` resolved it."""
        import datasets

        from adapeff.worker.hub_access import prepare_hub

        prepare_hub()
        positional, named = self.hub_arguments(self.splits.get("train", "test"), language)
        for key in ("split", "verification_mode"):
            named.pop(key, None)
        return str(datasets.load_dataset_builder(*positional, **named).hash)


def _several(faults: Sequence[str], origin: str) -> str:
    """Some faults of a file in one line: the first in full, the others without the file."""
    others = [fault.removeprefix(f"{origin}, ") for fault in faults[1:ROW_ERRORS]]
    more = "; and more" if len(faults) > ROW_ERRORS else ""
    return "; ".join([faults[0], *others]) + more
