"""How many tokens a model's tokenizer makes of an example, before anything is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from adapeff.service.plugins.contracts import Task
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.families import family_of
from adapeff.worker.modeling.tokenizers import load_tokenizer

UNCUT = 1_000_000


class TokenCounts(NamedTuple):
    """What a tokenizer makes of some examples."""

    lengths: list[int]
    """Tokens of each example's longest row."""
    unknown: float
    """Share of all tokens that are unknown to the tokenizer."""


def token_counter(task: Task, model: str, settings: Training) -> Callable[[Sequence[Any]], TokenCounts]:
    """A function from examples to their tokens.

    Raises:
        ModelError: if the model's tokenizer cannot be loaded, or does not go with the model.
    """
    family = family_of(task, settings.model_copy(update={"max_length": UNCUT}))
    tokenizer = load_tokenizer(resolve_model(model), family.tokenizer_options)

    def count(examples: Sequence[Any]) -> TokenCounts:
        encoded = family.encode(examples, tokenizer)
        ids = encoded.inputs["input_ids"]
        unknown = tokenizer.unk_token_id
        share = float((ids == unknown).float().mean()) if unknown is not None and len(ids) else 0.0
        return TokenCounts(encoded.lengths, share)

    return count
