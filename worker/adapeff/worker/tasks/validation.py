"""Look a task's data over before anything is trained: what there is, what is wrong, what will mislead.

An *error* is what `submit` refuses too, since both read through the same code. A *warning* is for a person to judge:
repeated examples, test examples that stand in train, labels that training never sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins.contracts import IGNORED_TAG, Split, Task
from adapeff.worker.metrics.entities import entities
from adapeff.worker.tasks.rows import is_plain

if TYPE_CHECKING:
    from adapeff.worker.families.token_counts import TokenCounts

SHOWN = 3
MAX_UNKNOWN = 0.05
"""Share of unknown tokens above which a model hardly reads a text."""


@dataclass
class SplitReport:
    """What one split in one language holds."""

    split: str
    language: str
    examples: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    length_unit: str = "words"
    length_p50: int = 0
    length_p95: int = 0
    length_max: int = 0
    cut: int | None = None
    """Examples longer than `max_length` (question answering: read in several windows); None without a model."""
    unknown: float | None = None
    """Share of the tokens that the model does not know; None without a model."""
    error: str = ""
    warnings: list[str] = field(default_factory=list)


def look_over(
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
    found.labels = dict(sorted(Counter(name for e in examples for name in _label_names(task, e)).items()))
    lengths = [_words(example) for example in examples]
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


def _label_names(task: Task, example: Any) -> list[str]:
    """What is counted: the label; each entity's type; the place of the right choice; the number of answers."""
    if task.family == "sequence_classification":
        return [task.labels[example.label]]
    if task.family == "token_classification":
        tags = [task.labels[tag] for tag in example.tags if tag != IGNORED_TAG]
        return tags if is_plain(task.labels) else [kind for kind, _, _ in entities(tags)]
    if task.family == "multiple_choice":
        return [f"choice {example.label + 1} of {len(example.choices)}"]
    return [f"{len(example.answers)} answer(s)"]


def _words(example: Any) -> int:
    return sum(len(text.split()) for text in _texts(example))


def _texts(example: Any) -> list[str]:
    """All that is read of an example, the part that others may share first."""
    values = example._asdict()
    values.pop("id")
    for target in ("label", "tags", "answers"):
        values.pop(target, None)
    texts = [values.pop("context")] if "context" in values else []
    for value in values.values():
        texts += [" ".join(value)] if isinstance(value, tuple) else [value] if isinstance(value, str) else []
    return texts


def _key(example: Any) -> tuple[str, ...]:
    """An example without what does not tell it apart: case and white space."""
    return tuple(" ".join(text.casefold().split()) for text in _texts(example))


def _target(example: Any) -> Any:
    for name in ("label", "tags", "answers"):
        if hasattr(example, name):
            return getattr(example, name)
    return None


def _warnings(task: Task, examples: Sequence[Any], earlier: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    train = earlier.get("train", ())
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for example in examples:
        by_key.setdefault(_key(example), []).append(example)
    repeated = [group for group in by_key.values() if len(group) > 1]
    if repeated:
        yield f"{sum(map(len, repeated)) - len(repeated)} examples repeat an earlier one ({_ids(repeated)})"
    differing = [group for group in repeated if len({_target(example) for example in group}) > 1]
    if differing:
        yield f"{len(differing)} texts stand with different labels ({_ids(differing)})"
    for split, known in earlier.items():
        yield from _leakage(by_key, split, known)
    if task.family == "token_classification" and any(label.startswith("B-") for label in task.labels):
        loose = sum(_loose_inside([task.labels[tag] for tag in example.tags if tag >= 0]) for example in examples)
        if loose:
            yield f"{loose} I- or E- tags begin an entity; they are read as its beginning"
    if train and task.family == "sequence_classification":
        unseen = {example.label for example in examples} - {example.label for example in train}
        if unseen:
            yield f"training never sees: {', '.join(task.labels[label] for label in sorted(unseen))}"
    if not earlier and task.family == "sequence_classification":
        absent = [label for at, label in enumerate(task.labels) if all(example.label != at for example in examples)]
        if absent:
            yield f"no example is: {', '.join(absent)}"
    counts = Counter(name for example in examples for name in _label_names(task, example))
    if task.family == "sequence_classification" and len(counts) == 1:
        yield f"every label is '{next(iter(counts))}'"


def _leakage(by_key: dict[tuple[str, ...], list[Any]], split: str, examples: Sequence[Any]) -> Iterator[str]:
    known = {_key(example) for example in examples}
    leaked = [group for key, group in by_key.items() if key in known]
    if leaked:
        yield f"{sum(map(len, leaked))} examples stand in {split} too ({_ids(leaked)})"
    swapped = {key[::-1] for key in known if len(key) == 2}
    turned = [group for key, group in by_key.items() if key not in known and key in swapped]
    if turned:
        yield f"{sum(map(len, turned))} examples stand in {split} with their texts swapped ({_ids(turned)})"
    texts = {text for key in known if len(key) > 1 for text in key if text}
    sharing = [
        group for key, group in by_key.items() if key not in known and key not in swapped and texts.intersection(key)
    ]
    if sharing:
        yield f"{sum(map(len, sharing))} examples share a text or context with {split} ({_ids(sharing)})"


def _ids(groups: Sequence[Sequence[Any]]) -> str:
    ids = [group[-1].id for group in groups[:SHOWN]]
    return f"id {', '.join(ids)}{', ...' if len(groups) > SHOWN else ''}"


def _loose_inside(tags: Sequence[str]) -> int:
    """Tags I and E that have nothing of their type before them."""
    found, before = 0, "O"
    for tag in tags:
        follows = before[:2] in ("B-", "I-") and before[2:] == tag[2:]
        found += tag[:2] in ("I-", "E-") and not follows
        before = tag
    return found
