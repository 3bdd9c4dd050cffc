"""Check that a model is an encoder: it returns a state for each token that depends on all unmasked tokens.

A model's type is not enough: decoders and vision models share the mapping of masked language models, and some ignore
their inputs. So a loaded encoder is run on a few tokens, and its behaviour decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from adapeff.service.errors import ModelError, first_line

_UNFIT = {
    "fnet": "which ignores the attention mask, so that padding would change its answers",
    "mra": "whose attention needs a custom kernel and returns zeros without it",
    "neomme": "which reads images too",
    "reformer": "which trains on texts of fixed lengths alone",
    "yoso": "which ignores the attention mask, so that padding would change its answers",
}
"""Types that run but silently give wrong results (seen with transformers 5.23)."""
_WITHOUT_SEGMENTS = {"big_bird"}
_MAX = {"num_hidden_layers": 2_000, "vocab_size": 10**8, "hidden_size": 10**6, "intermediate_size": 10**7}
_MAX_OF_ANYTHING = 10**8
_MAX_PARAMETERS = 10**12


def check_encoder(config: Any, name: str) -> None:
    """Reject a configuration that is not an encoder's before building the model.

    Raises:
        ModelError: naming the model and its type, or the implausible size.
    """
    what = f"model '{name}' is of type {config.model_type}"
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{what}, which is not an encoder")
    if config.model_type in _UNFIT:
        raise ModelError(f"{what}, {_UNFIT[config.model_type]}")
    if getattr(config, "vision_config", None) is not None:
        raise ModelError(f"{what}, which reads images too")
    if getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        raise ModelError(f"{what}, but its config.json makes it a decoder (is_decoder, causal); set that to false")
    sizes = {key: int(value) for key in _MAX if isinstance(value := getattr(config, key, None), int)}
    for key, value in sizes.items():
        if not 0 < value <= _MAX[key]:
            raise ModelError(f"the config.json of model '{name}' says {key}: {value:,}, expected 1 to {_MAX[key]:,}")
    for key, value in config.to_dict().items():
        if isinstance(value, int) and abs(value) > _MAX_OF_ANYTHING and not key.endswith("_token_id"):
            raise ModelError(
                f"the config.json of model '{name}' says {key}: {value:,}, expected at most {_MAX_OF_ANYTHING:,}"
            )
    kernel = getattr(config, "_attn_implementation", None)
    if isinstance(kernel, str) and "/" in kernel:
        raise ModelError(
            f"the config.json of model '{name}' asks for attention from the hub ({kernel}), which is code; remove "
            "attn_implementation from it"
        )
    width, wide = sizes.get("hidden_size", 0), sizes.get("intermediate_size", 0)
    positions = getattr(config, "max_position_embeddings", 0)
    rows = sizes.get("vocab_size", 0) + (positions if isinstance(positions, int) else 0)
    total = width * (rows + sizes.get("num_hidden_layers", 0) * (4 * width + 2 * wide))
    if total > _MAX_PARAMETERS:
        raise ModelError(f"the config.json of model '{name}' asks for about {total:,} parameters; correct its sizes")


def prepare_config(config: Any) -> Any:
    """The configuration, with attention that does not depend on earlier batches."""
    if config.model_type == "big_bird":
        config.attention_type = "original_full"  # block-sparse attention changes for good at the first short batch
    return config


def drop_pooler(encoder: Any) -> nn.Module:
    """The encoder without its pooler: the head reads the first token itself, and unused weights would be counted."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # some types call it whether it is there or not
    dropped: nn.Module = encoder
    return dropped


def takes_segments(encoder: nn.Module) -> bool:
    """Whether an encoder distinguishes the two texts of a pair by segment ids."""
    config: Any = encoder.config
    kinds = getattr(config, "type_vocab_size", 2 if config.model_type == "funnel" else 0)
    named = "token_type_ids" in inspect.signature(encoder.forward).parameters
    return named and kinds > 1 and config.model_type not in _WITHOUT_SEGMENTS


def model_inputs(encoder: nn.Module) -> tuple[str, ...]:
    """The names of an encoder's inputs."""
    return ("input_ids", *(("token_type_ids",) if takes_segments(encoder) else ()), "attention_mask")


def position_count(encoder: nn.Module) -> int:
    """The maximum number of tokens of a model: RoBERTa-style position tables start after the padding index."""
    config: Any = encoder.config
    configured = int(getattr(config.get_text_config(), "max_position_embeddings", 512))
    for table in _position_tables(encoder):
        if table.padding_idx is not None:
            return configured - int(table.padding_idx) - 1
    return configured


def _position_tables(encoder: nn.Module) -> Iterator[nn.Embedding]:
    for path, module in encoder.named_modules():
        if (
            path.rpartition(".")[2] == "position_embeddings"
            and "entity" not in path
            and isinstance(module, nn.Embedding)
        ):
            yield module


def give_global_attention(encoder: nn.Module) -> None:
    """Have a Longformer's first token, which the head reads, attend to the whole text and be seen by it."""
    if "global_attention_mask" not in inspect.signature(encoder.forward).parameters:
        return

    def first_token(_encoder: nn.Module, _args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs.get("global_attention_mask") is None and kwargs.get("input_ids") is not None:
            mask = torch.zeros_like(kwargs["input_ids"])
            mask[:, 0] = 1
            kwargs = {**kwargs, "global_attention_mask": mask}
        return _args, kwargs

    encoder.register_forward_pre_hook(first_token, with_kwargs=True)


@torch.no_grad()
def examine(encoder: nn.Module, name: str) -> int:
    """Try an encoder on a few tokens, one row padded; returns the width of its states.

    Raises:
        ModelError: if it does not run on text only, does not return a state for each token, or its
            first token does not see the others.
    """
    config: Any = encoder.config
    what = f"model '{name}' is of type {config.model_type}"
    takes = inspect.signature(encoder.forward).parameters
    if missing := [wanted for wanted in ("input_ids", "attention_mask") if wanted not in takes]:
        raise ModelError(f"{what}, which takes no {missing[0]}")
    ids = torch.arange(16).reshape(2, 8) % 7 + min(5, int(config.vocab_size) - 8)
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    other = ids.clone()
    other[:, 5] += 1
    try:
        states = [_states(encoder, {"input_ids": tokens, "attention_mask": mask}) for tokens in (ids, other)]
    except Exception as error:
        line = first_line(error)
        hint = "; set default_language in its config.json" if config.model_type == "xmod" else ""
        raise ModelError(f"{what}, which does not run on text alone: {line[:200]}{hint}") from error
    one, two = states
    if one.ndim != 3 or one.shape[:2] != ids.shape:
        raise ModelError(f"{what}, which gives states of shape {tuple(one.shape)} for {tuple(ids.shape)} tokens")
    if torch.equal(one[:, 0], two[:, 0]) and all(parameter.any() for parameter in encoder.parameters()):
        raise ModelError(f"{what}, and its first token does not see the others; a decoder, perhaps")
    return int(one.shape[2])


def _states(encoder: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            states: torch.Tensor = encoder(**inputs).last_hidden_state
    finally:
        encoder.train(was_training)
    return states
