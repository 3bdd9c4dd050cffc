"""Tasks on declared data sets: trained on one set in one language, tested on it or others in many."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from adapeff.service.errors import DataError
from adapeff.service.plugins.contracts import DataIdentity, Split, Task
from adapeff.service.specs.fingerprints import files_fingerprint
from adapeff.service.specs.job import canonical_json
from adapeff.worker.families.base import get_family
from adapeff.worker.families.rows import RowForm
from adapeff.worker.tasks.data_sets import SPLIT_EXAMPLE, DataSet
from adapeff.worker.tasks.files import FileForm


class DeclaredTask(Task):
    """Trained on one data set in one language, tested on it or on others in several."""

    parameters: ClassVar[frozenset[str]] = frozenset({"source_language"})

    train: DataSet
    tests: Mapping[str, DataSet]
    """Language -> the data set it is tested on."""
    merge: Mapping[str, str] = {}
    """Labels of a data set -> labels of the task."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.source_language not in self.train.languages:
            known = ", ".join(self.train.languages)
            raise ValueError(f"no training data in '{self.source_language}'; available: {known}")
        family = get_family(self.family)
        if faults := family.label_faults(self.labels):
            raise ValueError(next(iter(faults.values())))
        if family.has_labels:
            for data_set in self._sets:
                for label in data_set.labels:
                    if self.merge.get(label, label) not in self.labels:
                        raise ValueError(
                            f"label '{label}' of '{data_set.name}' is not one of the task's labels; add it to merge"
                        )
            if len(self.labels) < 2:
                raise ValueError(f"{len(self.labels)} label(s), expected at least two")
        for data_set in self._sets:
            for role, columns in data_set.needed_columns().items():
                if not columns:
                    raise ValueError(f"'{data_set.name}' declares no column for '{role}'")
        return self

    @cached_property
    def _sets(self) -> tuple[DataSet, ...]:
        """The data sets, the training's first."""
        return tuple({data_set.name: data_set for data_set in (self.train, *self.tests.values())}.values())

    def family_options(self) -> Mapping[str, Any]:
        """What the training data ask of the family."""
        return get_family(self.family).options(self.train)

    def available_languages(self, data_root: Path | None) -> tuple[str, ...]:
        """Languages with a test file in the local folders, or all without such a folder."""
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
            raise DataError(f"{root} contains no test file of '{self.name}'; expected {root}/{config}/test.jsonl")
        return there

    def _is_there(self, language: str, data_root: Path | None) -> bool:
        """Whether a language can be tested; a folder without the test file is an error."""
        data_set = self.tests[language]
        serving = data_set.serving(language, data_root)
        if "test" not in serving and serving and data_set.local_root(data_root) is not None:
            raise DataError(data_set.absent("test", language, data_root))
        return "test" in serving

    def untested(self, data_root: Path | None) -> tuple[str, ...]:
        """Languages without a folder in a local copy, and the folders there that belong to no language."""
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
        """Fingerprint the local files after reading them; without a local folder, name the hub's revision.

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
        if self.train.root is not None:  # a user's declaration is part of the data's meaning
            own: set[str] = {"family", "labels", "metric", "merge", "source_language"}
            read = {*FileForm.model_fields, *RowForm.model_fields, "group", "shares", "whole"}
            declared = [self.model_dump(mode="json", include=own), self.train.model_dump(mode="json", include=read)]
            declared[1] = {key: value for key, value in declared[1].items() if key not in _LATER or value not in _EMPTY}
            fingerprint = _sha256([fingerprint, declared, *self._held_out_otherwise(serving)])
        return DataIdentity(source="folder", fingerprint=fingerprint, test_fingerprint=tested)

    def _held_out_otherwise(self, serving: Mapping[Split, Any]) -> list[str]:
        """What decides which examples are trained on, besides files and declaration, in words for the fingerprint."""
        role = get_family(self.family).group_role
        by_role = role is not None and self.train.group is None and "validation" not in serving
        return [f"held out by {role}"] if by_role else []

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
        """Where selection data are held out of train, where files serve as another split, and how labels are read."""
        return (*self._split_remarks(data_root), *get_family(self.family).remarks(self.merge))

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
"""Fields newer than the first release: left out of fingerprints where they are empty."""
_EMPTY: tuple[Any, ...] = (None, [], {})


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
