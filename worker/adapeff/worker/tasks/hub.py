"""Tasks declared as data: a Hugging Face hub data set, or a local folder in the same schema.

A local folder is looked for first, under the `data_root` setting: `<folder>/<config>/{train,validation,test}.jsonl`,
one JSON object a line with the hub's columns and label encoding. Without one the hub is asked, through `datasets`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapeff.service.errors import DataError
from adapeff.service.fingerprints import files_fingerprint
from adapeff.service.plugins import DataIdentity, Example, Split, Task

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 1000


class HubTask(Task):
    """A sequence classification data set of the hub, or its copy in a local folder."""

    hub_id: str
    folder: str
    configs: Mapping[str, str]
    """Language -> the hub's configuration, which is also the sub-folder's name."""
    revision: str | None = None
    text_column: str
    text_pair_column: str | None = None
    label_column: str = "label"

    def available_languages(self, data_root: Path | None) -> tuple[str, ...]:
        """Those with a test file in the local folder, or all where there is no such folder."""
        root = self._root(data_root)
        if root is None:
            return self.languages
        there = tuple(language for language in self.languages if self._file(root, "test", language).is_file())
        if not there:
            raise DataError(
                f"{root} holds no test file of '{self.name}'; expected {self._file(root, 'test', 'LANGUAGE')}"
            )
        return there

    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """Fingerprint the local files where the folder is there, after reading them; else name the hub's revision.

        Reading them all is quick, and finds a bad row before a job is queued rather than when it runs.
        """
        root = self._root(data_root)
        if root is None:
            return DataIdentity(source="hub", revision=self.revision)
        selecting: tuple[Split, ...] = ("train", "validation")
        for split in selecting:
            self.examples(split, self.source_language, data_root)
        for language in languages:
            self.examples("test", language, data_root)
        source_is_labelled = self._test_is_labelled(self.source_language, data_root)
        training = ("train", "validation") if source_is_labelled else ("train",)
        testing = [
            self._file(root, "test" if self._test_is_labelled(language, data_root) else "validation", language)
            for language in languages
        ]
        return DataIdentity(
            source="folder",
            fingerprint=files_fingerprint(root, [self._file(root, split, self.source_language) for split in training]),
            test_fingerprint=files_fingerprint(root, testing),
        )

    def examples(self, split: Split, language: str, data_root: Path | None) -> list[Example]:
        """Read one split, in file order.

        Where the official test split carries no labels (-1 throughout, as SST-2's on the hub), the validation split
        is the test, and the examples for selection are held out of train: a tenth, at most 1,000, by a fixed seed.
        """
        if not self._test_is_labelled(language if split == "test" else self.source_language, data_root):
            if split == "test":
                return self._read("validation", language, data_root)
            train = self._read("train", language, data_root)
            held_out = set(
                random.Random(f"held out of {self.name}").sample(
                    range(len(train)), min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(train)))
                )
            )
            return [example for index, example in enumerate(train) if (index in held_out) == (split == "validation")]
        return self._read(split, language, data_root)

    def hub_source(self) -> tuple[str, str | None]:
        """The declared data set and revision."""
        return self.hub_id, self.revision

    def resolved_revision(self, data_root: Path | None) -> str | None:
        """The commit of the hub's data set, as `datasets` resolved it."""
        if self._root(data_root) is not None:
            return None
        import datasets

        config = self.configs[self.source_language]
        return str(datasets.load_dataset_builder(self.hub_id, config, revision=self.revision).hash)

    def _root(self, data_root: Path | None) -> Path | None:
        folder = data_root / self.folder if data_root else None
        return folder if folder is not None and folder.is_dir() else None

    def _file(self, root: Path, split: str, language: str) -> Path:
        return root / self.configs.get(language, language) / f"{split}.jsonl"

    def _test_is_labelled(self, language: str, data_root: Path | None) -> bool:
        return any(row.get(self.label_column) != -1 for row in self._rows("test", language, data_root))

    def _read(self, split: str, language: str, data_root: Path | None) -> list[Example]:
        examples = [
            self._example(row, f"{self.name}/{language}/{split}, row {number}", str(number))
            for number, row in enumerate(self._rows(split, language, data_root), start=1)
        ]
        if not examples:
            raise DataError(f"{self.name}/{language}/{split} holds no examples; expected at least one")
        return examples

    def _example(self, row: Mapping[str, Any], where: str, number: str) -> Example:
        wanted = [self.text_column, self.label_column, *([self.text_pair_column] if self.text_pair_column else [])]
        for column in wanted:
            if column not in row:
                raise DataError(f"{where}: no column '{column}'; found: {', '.join(map(str, row)) or 'none'}")
        for column in wanted:
            if column != self.label_column and not isinstance(row[column], str):
                raise DataError(f"{where}: '{column}' is {row[column]!r}, expected text")
        return Example(
            id=str(row.get("idx", row.get("id", number))),
            text=row[self.text_column],
            text_pair=row[self.text_pair_column] if self.text_pair_column else None,
            label=self._label(row[self.label_column], where),
        )

    def _label(self, value: Any, where: str) -> int:
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.labels):
            return value
        names = ", ".join(f"{index} ({name})" for index, name in enumerate(self.labels))
        raise DataError(f"{where}: unknown label {value!r}; expected {names}")

    def _rows(self, split: str, language: str, data_root: Path | None) -> Iterable[Mapping[str, Any]]:
        root = self._root(data_root)
        return self._hub_rows(split, language) if root is None else _json_lines(self._file(root, split, language))

    def _hub_rows(self, split: str, language: str) -> Iterable[Mapping[str, Any]]:
        import datasets

        try:
            data = datasets.load_dataset(self.hub_id, self.configs[language], split=split, revision=self.revision)
        except Exception as error:
            raise DataError(
                f"data set '{self.hub_id}' cannot be loaded from the hub "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); "
                "check the connection, or put it under data_root as "
                f"{self.folder}/{self.configs[language]}/{split}.jsonl"
            ) from error
        rows: Iterable[Mapping[str, Any]] = data
        return rows


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
                yield row
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; expected the hub's rows, one JSON object a line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error.msg}); expected one JSON object a line") from error


_XNLI_LANGUAGES = ("en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

HUB_TASKS = (
    HubTask(
        name="xnli",
        title="XNLI: natural language inference, trained in English, tested in 15 languages",
        labels=("entailment", "neutral", "contradiction"),
        source_language="en",
        languages=_XNLI_LANGUAGES,
        licence="CC BY-NC 4.0 (XNLI); training text: MultiNLI, OANC and others",
        non_commercial=True,
        hub_id="facebook/xnli",
        folder="nli/xnli",
        configs={language: language for language in _XNLI_LANGUAGES},
        text_column="premise",
        text_pair_column="hypothesis",
    ),
    HubTask(
        name="sst2",
        title="SST-2: sentiment of phrases and sentences from film reviews, English",
        labels=("negative", "positive"),
        source_language="en",
        languages=("en",),
        licence="unknown (none stated by the hub card); third parties' data",
        hub_id="stanfordnlp/sst2",
        folder="sentiment/sst2",
        configs={"en": "default"},
        text_column="sentence",
        notes="The hub's test split carries no labels: there the validation split is the test and selection data are "
        "held out of train.",
    ),
)
