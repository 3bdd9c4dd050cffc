"""Tasks declared as data: sets of the Hugging Face hub (`hub.yaml`), and a user's own files, in the same words.

A hub set is looked for first as a local folder under the `data_root` setting, in the hub's columns and label encoding:
`<folder>/<config>/{train,validation,test}`, in any form that `files.py` reads. Without one the hub is asked.

What is tested on is never selected on: where a set has no labelled test split, its validation split is the test, and
the examples for selection are held out of train.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from adapeff.service.errors import DataError, NotHereError, first_line
from adapeff.service.plugins.contracts import DataIdentity, Split, Task
from adapeff.service.specs.fingerprints import files_fingerprint
from adapeff.service.specs.job import canonical_json
from adapeff.worker.tasks.files import (
    TEXT_ONLY,
    FileForm,
    Notes,
    Row,
    find_files,
    find_whole,
    form_of,
    other_files,
    read_rows,
)
from adapeff.worker.tasks.rows import RowForm, RowReader, bilou_twins, found_columns, is_plain, tag_fault

Files = tuple[Path, ...]
SPLIT_EXAMPLE = "{validation: 0.1, test: 0.2}"
ROW_ERRORS = 5
"""Rows of a file that are named when several are wrong."""
HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 1000
PARQUET_REVISION = "refs/convert/parquet"
"""Where the hub keeps Parquet copies of sets published as a loading script, which `datasets` no longer runs."""


class DataSet(RowForm):
    """One published data set, or a user's folder: where it is, how its rows read, what may be done with it."""

    name: str
    hub: str | None = None
    """Hub id."""
    revision: str | None = None
    """Commit; null until one was seen: then the branch as it stands is taken, and the run records its commit."""
    verified: bool = False
    """Whether `adapeff tasks verify` read this revision with this declaration."""
    script_only: bool = False
    """Published as a script: its Parquet copy is taken."""
    folder: str = ""
    """Below `data_root`."""
    root: Path | None = None
    """The folder itself, of a user's own data."""
    languages: Mapping[str, str]
    """Language -> the hub's configuration, which is also the sub-folder's name."""
    prefixes: Mapping[str, str] = {}
    """Language -> what its ids begin with, where one configuration holds several languages."""
    splits: Mapping[Split, str] = {"train": "train", "validation": "validation", "test": "test"}
    """The hub's labelled splits by what they serve as; without one for validation, it is held out of train."""
    hold_out: bool = False
    """Selection examples are held out of train even where a local copy has a validation file."""
    group: str | None = None
    """Column whose values stay together when examples are held out, such as the article of a question; of questions it
    is the context where none is named."""
    shares: Mapping[Split, float] = {}
    """Of one file that holds everything: the parts that serve as validation and test, drawn by label."""
    whole: str | None = None
    """The name of that file, in a language's folder; the only data file there if none is named."""
    licence: str
    non_commercial: bool = False
    notes: str = ""

    def record(self) -> dict[str, Any]:
        """What is declared, in JSON's types; whether its revision was seen is always said."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        return {**values, "revision": self.revision, "verified": self.verified}

    def local_root(self, data_root: Path | None) -> Path | None:
        """The local copy, if there is one."""
        if self.root is not None:
            return self.root
        folder = data_root / self.folder if data_root and self.folder else None
        return folder if folder is not None and folder.is_dir() else None

    def files(self, split: Split, language: str, root: Path) -> Files | None:
        """The local files of a split as they lie there."""
        folder = root / self.languages.get(language, language)
        if self.shares:
            whole = find_whole(folder, self.whole, root=root)
            return None if whole is None else (whole,)
        return find_files(folder, split, root=root)

    def serving(self, language: str, data_root: Path | None) -> dict[Split, Files | str]:
        """What serves as which split: files where there is a local copy, else names of the hub's splits."""
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
                return found  # the hub's set has a test split of its own, which is missing here
            found["test"] = found.pop("validation")
        return found

    def _is_labelled(self, files: Files) -> bool:
        """Whether it is not so that every row's label is -1, the hub's mark for none."""
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
        held_out = self._held_out([group for _, group in train])
        return [example for index, (example, _) in enumerate(train) if (index in held_out) == (split == "validation")]

    def _share(
        self, split: Split, language: str, data_root: Path | None, labels: Sequence[str], merge: Mapping[str, str]
    ) -> list[Any]:
        """The part of one file of everything that serves as a split, the same each time.

        Whole groups are dealt out, those of each label apart, to whichever split is furthest behind its share.
        """
        found = self._examples(self.serving(language, data_root), "train", language, data_root, labels, merge)
        groups: dict[Any, list[int]] = {}
        for index, (_, group) in enumerate(found):
            groups.setdefault(index if group is None else ("group", group), []).append(index)
        by_label: dict[Any, list[list[int]]] = {}
        for members in groups.values():
            by_label.setdefault(getattr(found[members[0]][0], "label", None), []).append(members)
        wanted = {"train": 1 - sum(self.shares.values()), **self.shares}
        draw = random.Random("split")
        dealt: dict[str, set[int]] = {name: set() for name in wanted}
        for label in sorted(by_label, key=str):
            of_label = by_label[label]
            draw.shuffle(of_label)
            had = dict.fromkeys(wanted, 0)
            for number, members in enumerate(of_label, start=1):
                behind = max(wanted, key=lambda name: wanted[name] * number - had[name])
                had[behind] += 1
                dealt[behind].update(members)
        if not dealt.get(split) or not dealt["train"]:
            raise DataError(
                f"'{self.name}' has {len(found)} examples, too few for a split of {dict(self.shares)}; raise the "
                "shares, or give each split a file"
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
        """Examples, each with what it must stay together with."""
        place = serving.get(split)
        if place is None:
            raise DataError(self._absent(split, language, data_root))
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
            raise DataError(f"{origin} holds no examples; expected at least one")
        return found

    def _absent(self, split: Split, language: str, data_root: Path | None) -> str:
        """That there is nothing for a split, and what lies there instead."""
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
        """What a person should know of the files that serve as a split."""
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

    def _group_of(self, row: Mapping[str, Any], where: str) -> str | int | None:
        if self.group is None:
            return str(row[str(self.columns.context)]) if self.family == "question_answering" else None
        if self.group not in row:
            raise DataError(f"{where}: no group column '{self.group}'; {found_columns(row)}")
        if not isinstance(row[self.group], str | int):
            raise DataError(f"{where}: the group '{self.group}' is {row[self.group]!r:.60}, expected text or a number")
        group: str | int = row[self.group]
        return group

    def _held_out(self, groups: Sequence[Any]) -> set[int]:
        """A tenth of the training examples, at most 1,000, by a fixed seed; whole groups where groups are declared."""
        size = len(groups)
        if size < 2:
            raise DataError(f"'{self.name}' has {size} training example, none can be held out for selection; add some")
        wanted = max(1, min(HELD_OUT_MOST, round(HELD_OUT_SHARE * size)))
        draw = random.Random(f"held out of {self.name}" if self.root is None else "held out")  # a place is no name
        if self.group is None and groups[0] is None:
            return set(draw.sample(range(size), wanted))
        members: dict[Any, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        if len(members) < 2:
            group = self.group or self.columns.context
            raise DataError(
                f"'{self.name}' has no two different values of '{group}', so nothing can be held out for "
                "selection; add a validation file, or name another column as group"
            )
        order = list(members)
        draw.shuffle(order)
        chosen: set[int] = set()
        for group in order[:-1]:
            if len(chosen) >= wanted:
                break
            chosen |= set(members[group])
        return chosen

    @property
    def asked_revision(self) -> str | None:
        """The commit or branch asked for; None for the main branch."""
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
            line = first_line(error)
            kind = DataError if is_reachable else NotHereError
            if not is_reachable:
                line = f"the hub cannot be reached, and it is not kept here: {line}"
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


class DeclaredTask(Task):
    """Trained on one data set in one language, tested on it or others in many."""

    parameters: ClassVar[frozenset[str]] = frozenset({"source_language"})

    train: DataSet
    tests: Mapping[str, DataSet]
    """Language -> the set it is tested on."""
    merge: Mapping[str, str] = {}
    """Labels of a data set -> labels of the task."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.source_language not in self.train.languages:
            known = ", ".join(self.train.languages)
            raise ValueError(f"no training data in '{self.source_language}'; there are: {known}")
        if self.family == "token_classification" and not is_plain(self.labels):
            for label in self.labels:
                if fault := tag_fault(label):
                    raise ValueError(fault)
        if self.family in ("sequence_classification", "token_classification"):
            for data_set in self._sets:
                for label in data_set.labels:
                    if self.merge.get(label, label) not in self.labels:
                        raise ValueError(f"label '{label}' of '{data_set.name}' is none of the task's; add it to merge")
            if len(self.labels) < 2:
                raise ValueError(f"{len(self.labels)} label(s), expected at least two")
        for data_set in self._sets:
            for need, columns in data_set.needed().items():
                if not columns:
                    raise ValueError(f"the columns of '{data_set.name}' name none for '{need}'")
        return self

    @cached_property
    def _sets(self) -> tuple[DataSet, ...]:
        """The data sets, the training's first."""
        return tuple({data_set.name: data_set for data_set in (self.train, *self.tests.values())}.values())

    @property
    def may_have_no_answer(self) -> bool:
        """Whether the training data say so."""
        return self.train.unanswerable == "predict"

    def available_languages(self, data_root: Path | None) -> tuple[str, ...]:
        """Those with a test file in the local folders, or all where there is no such folder."""
        if all(data_set.local_root(data_root) is None for data_set in self._sets):
            return self.languages
        if self.train.root is not None:  # a user's own: what is declared must be there
            for language in self.languages:
                if "test" not in self.train.serving(language, data_root):
                    place = self.train.root / self.train.languages[language] / "test.jsonl"
                    raise DataError(
                        f"'{self.name}' has no test data in '{language}'; expected {place} (or .csv, .tsv, .parquet); "
                        f"one file of everything is split with `split: {SPLIT_EXAMPLE}` in task.yaml"
                    )
            return self.languages
        there = tuple(language for language in self.languages if self._is_there(language, data_root))
        if not there:
            root = self.tests[self.languages[0]].local_root(data_root)
            config = self.tests[self.languages[0]].languages[self.languages[0]]
            raise DataError(f"{root} holds no test file of '{self.name}'; expected {root}/{config}/test.jsonl")
        return there

    def _is_there(self, language: str, data_root: Path | None) -> bool:
        """Whether a language can be tested; a folder of it that lacks the test file is a fault, not an absence."""
        data_set = self.tests[language]
        serving = data_set.serving(language, data_root)
        if "test" not in serving and serving and data_set.local_root(data_root) is not None:
            raise DataError(data_set._absent("test", language, data_root))
        return "test" in serving

    def untested(self, data_root: Path | None) -> tuple[str, ...]:
        """Languages without a folder in a local copy, and the folders there that are no language's."""
        found = []
        for data_set in self._sets:
            root = data_set.local_root(data_root)
            asked = [language for language, tested in self.tests.items() if tested.name == data_set.name]
            if root is None or data_set.root is not None or not asked:
                continue
            absent = [language for language in asked if not data_set.serving(language, data_root)]
            known = set(data_set.languages.values())
            strange = [place.name for place in sorted(root.iterdir()) if place.is_dir() and place.name not in known]
            if absent:
                folders = f"; folders there that no language has: {', '.join(strange[:8])}" if strange else ""
                found.append(f"not tested, since {root} has no data of them: {', '.join(absent)}{folders}")
        return tuple(found)

    def file_notes(self, split: Split, language: str, data_root: Path | None) -> tuple[str, ...]:
        """How the files of a split were read."""
        data_set = self.tests[language] if split == "test" else self.train
        return tuple(data_set.file_notes(split, language, data_root, labels=self.labels, merge=self.merge))

    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """Fingerprint the local files where the folder is there, after reading them; else name the hub's revision.

        Reading them all is quick, and finds a bad row before a job is queued rather than when it runs.
        """
        tested = self._tested_identity(languages, data_root)
        root = self.train.local_root(data_root)
        if root is None:
            return DataIdentity(source="hub", revision=self.train.asked_revision, test_fingerprint=tested)
        selecting: tuple[Split, ...] = ("train", "validation")
        for split in selecting:
            self.examples(split, self.source_language, data_root)
        serving = self.train.serving(self.source_language, data_root)
        files = [file for split in selecting if isinstance(place := serving.get(split), tuple) for file in place]
        fingerprint = files_fingerprint(root, set(files))
        if self.train.root is not None:  # a user's declaration is part of what the data mean
            own: set[str] = {"family", "labels", "metric", "merge", "source_language"}
            read = {*RowForm.model_fields, "group", "shares", "whole"}
            declared = [self.model_dump(mode="json", include=own), self.train.model_dump(mode="json", include=read)]
            declared[1] = {key: value for key, value in declared[1].items() if key not in _LATER or value not in _EMPTY}
            fingerprint = _sha256([fingerprint, declared, *self._held_out_otherwise(serving)])
        return DataIdentity(source="folder", fingerprint=fingerprint, test_fingerprint=tested)

    def _held_out_otherwise(self, serving: Mapping[Split, Any]) -> list[str]:
        """What else decides which examples are trained on than files and declaration, in words for the fingerprint."""
        by_context = self.family == "question_answering" and self.train.group is None and "validation" not in serving
        return ["held out by context"] if by_context else []

    def _tested_identity(self, languages: Sequence[str], data_root: Path | None) -> str | None:
        parts: list[tuple[str, str]] = []
        for data_set in self._sets:
            here = [language for language in languages if self.tests[language].name == data_set.name]
            root = data_set.local_root(data_root)
            if here and root is not None:
                for language in here:
                    self.examples("test", language, data_root)
                places = [data_set.serving(language, data_root)["test"] for language in here]
                files = {file for place in places if isinstance(place, tuple) for file in place}
                fingerprint = files_fingerprint(root, files)
                own = data_set.root is not None
                parts.append((data_set.name, _sha256([fingerprint, self.further_metrics]) if own else fingerprint))
            elif here and (data_set is not self.train or self.train.local_root(data_root) is not None):
                parts.append((data_set.name, f"{data_set.hub}@{data_set.asked_revision or 'main'}"))
        if len(parts) == 1 and parts[0][0] == self.train.name:
            return parts[0][1]
        return _sha256(parts) if parts else None

    def examples(self, split: Split, language: str, data_root: Path | None) -> Sequence[Any]:
        """Read one split, in the data's order."""
        data_set = self.tests[language] if split == "test" else self.train
        return data_set.read(split, language, data_root, labels=self.labels, merge=self.merge)

    def record(self) -> dict[str, Any]:
        """The task with each of its data sets once."""
        on = {
            data_set.name: [lang for lang, d in self.tests.items() if d.name == data_set.name]
            for data_set in self._sets
        }
        return {
            **super().record(),
            "train": self.train.name,
            "tests": {name: languages for name, languages in on.items() if languages},
            "data_sets": {data_set.name: data_set.record() for data_set in self._sets},
        }

    def remarks(self, data_root: Path | None) -> tuple[str, ...]:
        """Where selection data are held out of train, where files serve as another split, and how tags are read."""
        return (*self._split_remarks(data_root), *self._tag_remarks())

    def _tag_remarks(self) -> tuple[str, ...]:
        twins = [label for label in self.merge if self.merge[label] == bilou_twins(self.merge).get(label)]
        return ("BILOU tags are read as their BIOES twins: L- as E-, U- as S-",) if twins else ()

    def _split_remarks(self, data_root: Path | None) -> tuple[str, ...]:
        if self.train.shares:
            parts = ", ".join(f"{share:.0%} {split}" for split, share in self.train.shares.items())
            return (f"one file is split: {parts}, the rest is train; the same draw each time, labels in their shares",)
        root = self.train.local_root(data_root)
        serving = self.train.serving(self.source_language, data_root)
        found = []
        if "validation" not in serving and "train" in serving:
            found.append("selection examples are held out of train, since no validation split is left for that")
        instead = [language for language in self.tests if self._is_tested_by_validation(language, root, data_root)]
        if instead:
            where = "" if len(self.tests) == 1 else f" in {', '.join(instead)}"
            found.append(f"the validation split is the test{where}")
        return ("; ".join(found),) if found else ()

    def _is_tested_by_validation(self, language: str, root: Path | None, data_root: Path | None) -> bool:
        if self.tests[language].name != self.train.name:
            return False
        test = self.train.serving(language, data_root).get("test")
        as_named = "test" if root is None else self.train.files("test", language, root)
        return test is not None and test != as_named

    def hub_sources(self) -> tuple[tuple[str, str | None], ...]:
        """The declared data sets and revisions."""
        return tuple((data_set.hub, data_set.asked_revision) for data_set in self._sets if data_set.hub)

    def resolved_revisions(self, data_root: Path | None) -> dict[str, str]:
        """The commits of those that are not local."""
        return {
            str(data_set.hub): data_set.resolved_revision(next(iter(data_set.languages)))
            for data_set in self._sets
            if data_set.local_root(data_root) is None
        }


_LATER = {*FileForm.model_fields, "ignore_labels", "shares", "whole"}
"""What a declaration could not say in the first release: left out of fingerprints where it says nothing."""
_EMPTY: tuple[Any, ...] = (None, [], {})


def _several(faults: Sequence[str], origin: str) -> str:
    """Some faults of a file in one line: the first whole, of the others where they are and what."""
    others = [fault.removeprefix(f"{origin}, ") for fault in faults[1:ROW_ERRORS]]
    more = "; and more" if len(faults) > ROW_ERRORS else ""
    return "; ".join([faults[0], *others]) + more


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
