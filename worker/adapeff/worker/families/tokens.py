"""Token classification: a tag for each word, read off its first sub-token."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adapeff.service.errors import ModelError
from adapeff.service.plugins.contracts import IGNORED_TAG, TaggedExample
from adapeff.worker.families.base import IGNORED, Batch, Encoded, Family, Rows, paddings
from adapeff.worker.families.heads import TokenHead

OUTSIDE = "O"
UNREAD = ""
"""The answer to a word that was cut off where no tag means "nothing": never a right one."""


class TokenClassification(Family):
    """Named entities and other tags: words come split.

    Words beyond `max_length`, or that the tokenizer drops, are answered with O, or wrongly where there is no such tag.
    Words that are not asked for (tag -100) are read, and count in no score.
    """

    name = "token_classification"
    tokenizer_options = {"add_prefix_space": True}
    """A word in the middle of a sentence: byte-level tokenizers ask for it with words that come split."""

    def encode_part(self, examples: Sequence[TaggedExample], tokenizer: Any) -> Encoded:
        """Words to sub-tokens; `tag` and `word` stand at each word's first sub-token, -100 at the others."""
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError("token classification needs a tokenizer that knows which word a token is of (a fast one)")
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
            words = _first_of_word(columns.word_ids(at))
            rows.token_targets["word"].append(words)
            rows.token_targets["tag"].append([IGNORED if word == IGNORED else example.tags[word] for word in words])
        return rows.encoded({})

    def make_head(self, hidden_size: int) -> nn.Module:
        """Linear on every token."""
        return TokenHead(hidden_size, len(self.labels), self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy over the first sub-tokens of the batch; logits are rows x length x tags."""
        tags = batch.targets["tag"].flatten()
        total = functional.cross_entropy(logits.flatten(0, 1), tags, ignore_index=IGNORED, reduction="sum")
        return total / (tags != IGNORED).sum().clamp(min=1)  # a tokenizer may make nothing of any word of a batch

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """(words, tags, probabilities) of each item."""
        best = logits.softmax(dim=-1).max(dim=-1)
        words = batch.targets["word"]
        there = words != IGNORED
        counts = there.sum(dim=1).tolist()
        columns = (words[there], best.indices[there], best.values[there])
        return list(zip(*([part.tolist() for part in column.split(counts)] for column in columns), strict=True))

    def answers(
        self, examples: Sequence[TaggedExample], data: Encoded, readings: Sequence[Any]
    ) -> list[tuple[Any, float]]:
        """A tag name for every word of every example, and the mean probability of those the model was asked for."""
        made = []
        for example, (words, tags, sure) in zip(examples, readings, strict=True):
            names = [OUTSIDE if OUTSIDE in self.labels else UNREAD] * len(example.tokens)
            for word, tag in zip(words, tags, strict=True):
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
        found.append(IGNORED if word is None or word == before else word)
        before = word
    return found
