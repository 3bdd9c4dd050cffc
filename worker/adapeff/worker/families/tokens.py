"""Token classification: a tag for each word, read off its first sub-token."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapeff.service.errors import DataError, ModelError
from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.values import is_text, shown, words
from adapeff.worker.metrics.entities import entities

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.drafts import Table
    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowReader

OUTSIDE = "O"
PREFIXES = "BIES"
BILOU_TWINS = {"L": "E", "U": "S"}
IGNORED_TAG = -100
"""The tag of a token that is read but not predicted; also pads targets, since cross entropy ignores it."""
UNREAD = ""
"""The answer to a word that was cut off where no tag means "nothing": never correct."""


class TaggedExample(NamedTuple):
    """One sentence: as many tags as tokens, indices into the task's labels or -100."""

    id: str
    tokens: tuple[str, ...]
    tags: tuple[int, ...]


class TokenClassification(Family):
    """Named entities and other tags of text that is already split into words.

    Words beyond `max_length`, or dropped by the tokenizer, are answered with O, or wrongly if there is no such tag.
    Words with tag -100 are read but not scored.
    """

    name = "token_classification"
    summary = "a tag for each word"
    pipeline_tag = "token-classification"
    example = TaggedExample
    target = "tags"
    target_column = "tags"
    has_labels = True
    lists_labels = True
    default_columns = {"tokens": "tokens", "tags": "tags"}
    tokenizer_options = {"add_prefix_space": True}
    """A word in the middle of a sentence: byte-level tokenizers need it for text that is already split."""

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """Lists of tokens and tags."""
        return {"tokens": columns.tokens, "tags": columns.tags}

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> TaggedExample:
        """A tag for each token; ignored ones become -100."""
        columns = reader.columns
        tokens = reader.listed(row[str(columns.tokens)], columns.tokens, where)
        tags = reader.listed(row[str(columns.tags)], columns.tags, where)
        if len(tokens) != len(tags):
            raise DataError(f"{where}: {len(tokens)} tokens but {len(tags)} tags; expected one tag a token")
        if not tokens:
            raise DataError(f"{where}: no tokens; expected at least one")
        for token in tokens:
            if not is_text(token):
                raise DataError(f"{where}: the token {shown(token)} is not text")
        found = tuple(IGNORED_TAG if reader.is_ignored(tag) else reader.label(tag, where) for tag in tags)
        return TaggedExample(name, tuple(tokens), found)

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """Entity F1; token accuracy for tags without chunks, such as parts of speech."""
        if is_plain(labels):
            return "token_accuracy", ("token_macro_f1",)
        return "entity_f1", ("entity_precision", "entity_recall", "token_accuracy")

    @classmethod
    def implied_merge(cls, labels: Iterable[str]) -> dict[str, str]:
        """BILOU's last and unit tags are read as their BIOES twins."""
        return bilou_twins(labels)

    @classmethod
    def label_faults(cls, labels: Iterable[str]) -> dict[str, str]:
        """Tags that do not mark chunks among tags that do."""
        every = list(labels)
        if is_plain(every):
            return {}
        return {label: fault for label in every if (fault := tag_fault(label))}

    @classmethod
    def remarks(cls, merge: Mapping[str, str]) -> tuple[str, ...]:
        """Whether BILOU tags are read as BIOES."""
        twins = bilou_twins(merge)
        is_twin = any(merge[label] == twins.get(label) for label in merge)
        return ("BILOU tags are read as their BIOES twins: L- as E-, U- as S-",) if is_twin else ()

    @classmethod
    def counted(cls, labels: Sequence[str], example: TaggedExample) -> list[str]:
        """The type of each entity; for tags without chunks, each tag."""
        tags = [labels[tag] for tag in example.tags if tag != IGNORED_TAG]
        return tags if is_plain(labels) else [kind for kind, _, _ in entities(tags)]

    @classmethod
    def warnings(
        cls, labels: Sequence[str], examples: Sequence[TaggedExample], earlier: Mapping[str, Sequence[TaggedExample]]
    ) -> Iterator[str]:
        """Tags inside an entity that nothing began."""
        if not any(label.startswith("B-") for label in labels):
            return
        loose = sum(_loose_inside([labels[tag] for tag in example.tags if tag >= 0]) for example in examples)
        if loose:
            yield f"{loose} I- or E- tags begin an entity; they are read as its beginning"

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """Columns named after tokens and tags."""
        column = table.by_role["tags"]
        if not table.by_role["tokens"] or column is None:
            return None
        tags = {
            tag
            for values, where in table.rows
            for tag in (
                values[column] if isinstance(values[column], list) else words(str(values[column]), column, where)
            )
        }
        numbers = all(str(tag).isdecimal() for tag in tags)
        labels = {"labels": [f"TAG-{n}" for n in range(max(map(int, tags)) + 1)]} if numbers else {}
        return {"columns": table.named("tokens", "tags"), **labels}

    def encode_part(self, examples: Sequence[TaggedExample], tokenizer: Any) -> Encoded:
        """Words to sub-tokens; `tag` and `word` are at each word's first sub-token, -100 at the others."""
        from adapeff.worker.families.encoding import Rows, paddings

        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "token classification needs a tokenizer that knows which word each token belongs to (a fast one)"
            )
        before = _before_a_word(tokenizer)
        columns = tokenizer(
            [[before + token for token in example.tokens] for example in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
        )
        rows = Rows(paddings(columns, tokenizer), token_targets={"tag": [], "word": []})
        rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for at, example in enumerate(examples):
            places = _first_of_word(columns.word_ids(at))
            rows.token_targets["word"].append(places)
            rows.token_targets["tag"].append(
                [IGNORED_TAG if word == IGNORED_TAG else example.tags[word] for word in places]
            )
        return rows.encoded({})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Linear on every token."""
        from adapeff.worker.families.heads import TokenHead

        return TokenHead(hidden_size, len(self.labels), self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy over the first sub-tokens of the batch; logits are rows x length x tags."""
        from torch.nn import functional

        tags = batch.targets["tag"].flatten()
        total = functional.cross_entropy(logits.flatten(0, 1), tags, ignore_index=IGNORED_TAG, reduction="sum")
        return total / (tags != IGNORED_TAG).sum().clamp(min=1)  # a tokenizer may make nothing of any word of a batch

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(words, tags, probabilities) of each item."""
        best = logits.softmax(dim=-1).max(dim=-1)
        places = batch.targets["word"]
        there = places != IGNORED_TAG
        counts = there.sum(dim=1).tolist()
        columns = (places[there], best.indices[there], best.values[there])
        return list(zip(*([part.tolist() for part in column.split(counts)] for column in columns), strict=True))

    def answers(
        self, examples: Sequence[TaggedExample], data: Encoded, readings: Sequence[Any]
    ) -> list[tuple[Any, float]]:
        """A tag name for every word of every example, and the mean probability of those the model was asked for."""
        made = []
        for example, (places, tags, sure) in zip(examples, readings, strict=True):
            names = [OUTSIDE if OUTSIDE in self.labels else UNREAD] * len(example.tokens)
            for word, tag in zip(places, tags, strict=True):
                names[word] = self.labels[tag]
            asked = tuple(name for name, tag in zip(names, example.tags, strict=True) if tag != IGNORED_TAG)
            made.append((asked, sum(sure) / len(sure) if sure else 0.0))
        return made

    def gold(self, example: TaggedExample) -> tuple[str, ...]:
        """The tags' names."""
        return tuple(self.labels[tag] for tag in example.tags if tag != IGNORED_TAG)

    def trivial_answers(self, examples: Sequence[TaggedExample]) -> Iterator[list[Any]]:
        """No entity anywhere; and for each type, every sentence as one entity, and every word as one.

        Where the tags are no chunks, each tag for all words.
        """
        lengths = [len(self.gold(example)) for example in examples]
        if not any("-" in label for label in self.labels):
            for label in self.labels:
                yield [(label,) * length for length in lengths]
            return
        yield [(OUTSIDE,) * length for length in lengths]
        for kind in dict.fromkeys(label.partition("-")[2] for label in self.labels if label != OUTSIDE):
            yield [(f"B-{kind}", *[f"I-{kind}"] * (length - 1))[:length] for length in lengths]
            yield [(f"B-{kind}",) * length for length in lengths]

    def stratum(self, example: TaggedExample) -> Hashable:
        """The types of entity that occur."""
        return frozenset(label.partition("-")[2] for label in self.gold(example))


def _before_a_word(tokenizer: Any) -> str:
    """What makes a tokenizer take words that come split as it takes them in running text.

    Byte-level ones join a word to the space before it. Some can be told to put it there (`add_prefix_space`); others
    would read split words as one long word.
    """
    running, split, spaced = (
        tokenizer(text, is_split_into_words=isinstance(text, list), add_special_tokens=False)["input_ids"]
        for text in (" x x", ["x", "x"], [" x", " x"])
    )
    return " " if split != running and spaced == running else ""


def _first_of_word(word_ids: Sequence[int | None]) -> list[int]:
    """The word at its first sub-token, -100 everywhere else."""
    found, before = [], None
    for word in word_ids:
        found.append(IGNORED_TAG if word is None or word == before else word)
        before = word
    return found


def is_plain(labels: Iterable[str]) -> bool:
    """Whether tags mark no chunks: none has a prefix such as B-, as with parts of speech."""
    return not any(re.match(r"[BIESLU]-", label) for label in labels)


def bilou_twins(labels: Iterable[str]) -> dict[str, str]:
    """BILOU's last and unit tags -> those of BIOES that mean the same; empty for tags of another scheme."""
    every = list(labels)
    if any(label.startswith(("E-", "S-")) for label in every):
        return {}
    return {label: f"{BILOU_TWINS[label[0]]}{label[1:]}" for label in every if label.startswith(("L-", "U-"))}


def tag_fault(label: str) -> str | None:
    """What is wrong with a tag's name, if anything."""
    prefix, hyphen, kind = label.partition("-")
    if label == OUTSIDE or (prefix in PREFIXES and len(prefix) == 1 and hyphen and kind.split() == [kind]):
        return None
    return f"'{label}' is not a tag; expected O, or B-, I-, E- or S- and a type without spaces, such as B-PER"


def _loose_inside(tags: Sequence[str]) -> int:
    """Tags I and E that have nothing of their type before them."""
    found, before = 0, "O"
    for tag in tags:
        follows = before[:2] in ("B-", "I-") and before[2:] == tag[2:]
        found += tag[:2] in ("I-", "E-") and not follows
        before = tag
    return found
