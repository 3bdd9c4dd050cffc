"""Validate a task's data before anything is trained: their size, what is wrong, what may mislead.

`submit` refuses an *error* too, since both read through the same code. A *warning* is for users to judge: repeated
examples, test examples that are also in train, labels that training never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins.contracts import Split, Task
from adapeff.worker.families.base import Family, get_family

if TYPE_CHECKING:
    from adapeff.worker.families.token_counts import TokenCounts

SHOWN = 3
MAX_UNKNOWN = 0.05
"""The share of unknown tokens above which a model can hardly read a text."""


@dataclass
class SplitReport:
    """The contents of one split in one language."""

    split: str
    language: str
    examples: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    length_unit: str = "words"
    length_p50: int = 0
    length_p95: int = 0
    length_max: int = 0
    cut: int | None = None
    """Examples longer than `max_length` (answers to questions are found in several windows); None without a model."""
    unknown: float | None = None
    """The share of tokens that the model does not know; None without a model."""
    error: str = ""
    warnings: list[str] = field(default_factory=list)


def check_task(
    task: Task,
    data_root: Path | None,
    *,
    count_tokens: Callable[[Sequence[Any]], TokenCounts] | None = None,
    max_length: int = 128,
) -> Iterator[dict[str, Any]]:
    """One report per split and language, training first; the source language's train is held against every other.

    Args:
        count_tokens: gives the tokens of examples; words are counted without it.
    """
    earlier: dict[str, list[Any]] = {}
    try:
        languages = task.available_languages(data_root)
    except AdapeffError as error:
        yield asdict(SplitReport("test", "", error=str(error)))
        languages = ()
    parts: list[tuple[Split, str]] = [("train", task.source_language), ("validation", task.source_language)]
    parts += [("test", language) for language in languages]
    for split, language in parts:
        found = SplitReport(split, language)
        try:
            examples = list(task.examples(split, language, data_root))
        except AdapeffError as error:
            found.error = str(error)
            yield asdict(found)
            continue
        _describe(found, task, examples, count_tokens, max_length)
        if split == "train":
            found.warnings += (*task.remarks(data_root), *task.untested(data_root))
        found.warnings += task.file_notes(split, language, data_root)
        found.warnings += _warnings(task, examples, earlier)
        if split != "test":
            earlier[split] = examples
        yield asdict(found)


def _describe(
    found: SplitReport,
    task: Task,
    examples: Sequence[Any],
    count_tokens: Callable[[Sequence[Any]], TokenCounts] | None,
    max_length: int,
) -> None:
    found.examples = len(examples)
    family = get_family(task.family)
    found.labels = family.target_counts(task.labels, examples)
    lengths = [sum(len(text.split()) for text in family.texts(example)) for example in examples]
    if count_tokens:
        counts = count_tokens(examples)
        lengths = counts.lengths
        found.length_unit = "tokens"
        found.cut = sum(length > max_length for length in lengths)
        found.unknown = counts.unknown
        if counts.unknown > MAX_UNKNOWN:
            found.warnings.append(
                f"{counts.unknown:.0%} of the tokens are unknown to the model; take one that knows this language"
            )
    ordered = sorted(lengths)
    found.length_p50, found.length_p95 = (ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95))
    found.length_max = ordered[-1]


def _key(family: type[Family], example: Any) -> tuple[str, ...]:
    """An example's texts, without regard to case and white space."""
    return tuple(" ".join(text.casefold().split()) for text in family.texts(example))


def _warnings(task: Task, examples: Sequence[Any], earlier: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    family = get_family(task.family)
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for example in examples:
        by_key.setdefault(_key(family, example), []).append(example)
    repeated = [group for group in by_key.values() if len(group) > 1]
    if repeated:
        yield f"{sum(map(len, repeated)) - len(repeated)} examples repeat an earlier one ({_ids(repeated)})"
    differing = [group for group in repeated if len({getattr(example, family.target) for example in group}) > 1]
    if differing:
        yield f"{len(differing)} texts appear with different labels ({_ids(differing)})"
    for split, known in earlier.items():
        yield from _leakage(by_key, split, {_key(family, example) for example in known})
    yield from family.warnings(task.labels, examples, earlier)


def _leakage(by_key: dict[tuple[str, ...], list[Any]], split: str, known: set[tuple[str, ...]]) -> Iterator[str]:
    leaked = [group for key, group in by_key.items() if key in known]
    if leaked:
        yield f"{sum(map(len, leaked))} examples are also in {split} ({_ids(leaked)})"
    swapped = {key[::-1] for key in known if len(key) == 2}
    turned = [group for key, group in by_key.items() if key not in known and key in swapped]
    if turned:
        yield f"{sum(map(len, turned))} examples are also in {split} with their texts swapped ({_ids(turned)})"
    texts = {text for key in known if len(key) > 1 for text in key if text}
    sharing = [
        group for key, group in by_key.items() if key not in known and key not in swapped and texts.intersection(key)
    ]
    if sharing:
        yield f"{sum(map(len, sharing))} examples share a text or context with {split} ({_ids(sharing)})"


def _ids(groups: Sequence[Sequence[Any]]) -> str:
    ids = [group[-1].id for group in groups[:SHOWN]]
    return f"id {', '.join(ids)}{', ...' if len(groups) > SHOWN else ''}"
