"""Load an encoder with its tokenizer, and put a family's head on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import find_adapter_config_file
from transformers.utils.hub import cached_file, extract_commit_hash

from adapeff.service.errors import AdapeffError, ModelError, NotHereError
from adapeff.service.plugins import Method
from adapeff.service.references import ADAPTER_FILE, LEFTOVER_ADAPTER, ModelReference, model_folder, resolve_model
from adapeff.worker.families.base import Family


@dataclass(frozen=True)
class LoadedModel:
    """An encoder in fp32 on the CPU, without its pooler."""

    encoder: nn.Module
    tokenizer: Any
    hidden_size: int
    max_positions: int
    revision: str
    """The commit of a hub model, the content fingerprint of a local one."""


def load_model(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> LoadedModel:
    """Load what a job's reference names, never running code that comes with it.

    Args:
        tokenizer_options: what the task's family asks of the tokenizer.

    Raises:
        NotHereError: if a local one is not on this host, or another than was submitted.
        ModelError: if it cannot be loaded whole, is no encoder, or needs its own code.
    """
    folder = None
    if reference.source == "folder":
        try:
            folder, found = model_folder(reference.name), resolve_model(reference.name)
        except AdapeffError as error:
            raise NotHereError(str(error)) from error
        if folder is None or found.fingerprint != reference.fingerprint:
            raise NotHereError(
                f"model '{reference.name}' here has the fingerprint {str(found.fingerprint)[:12]}, but the job was "
                f"submitted with {str(reference.fingerprint)[:12]}; give every host the same files"
            )
    place = str(folder) if folder else reference.name
    # A safe default everywhere: code that comes with a model is never run.
    options: dict[str, Any] = {"revision": reference.revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        check_encoder(config, str(reference))
        _refuse_adapter(place, options["revision"], str(reference))
        tokenizer = AutoTokenizer.from_pretrained(place, **options, **(tokenizer_options or {}))
        encoder, loading = AutoModel.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"model '{reference}' cannot be loaded: {_one_line(error)}") from error
    check_weights(loading, str(reference))
    check_tokenizer(tokenizer, config, str(reference))
    return LoadedModel(
        encoder=drop_pooler(encoder),
        tokenizer=tokenizer,
        hidden_size=config.hidden_size if hasattr(config, "hidden_size") else config.dim,
        max_positions=_max_positions(config, tokenizer),
        revision=reference.fingerprint or _commit(place, reference),
    )


_IN_A_LAYER = re.compile(r"(^|\.)(layers?|blocks?|h|groups)\.\d+\.")
_POOLER = re.compile(r"(^|\.)pooler\.")


def check_weights(loading: Mapping[str, Iterable[Any]], name: str) -> None:
    """Refuse a model whose file does not hold exactly the encoder: transformers would draw what is missing at random.

    A pooler may be missing, since it is never used, and heads may be left over; layers and adapters may not.

    Args:
        loading: what `from_pretrained` tells of the loading.

    Raises:
        ModelError: naming the first tensors.
    """
    missing = sorted(key for key in loading["missing_keys"] if not _POOLER.search(key))
    left_over = sorted(loading["unexpected_keys"])
    unused = [key for key in left_over if _IN_A_LAYER.search(key)]
    shapes = sorted(f"{key} is {list(there)}, not {list(wanted)}" for key, there, wanted in loading["mismatched_keys"])
    if shapes:
        raise ModelError(
            f"the weights of model '{name}' have other shapes than its config.json asks for: {_few(shapes)}"
        )
    if missing:
        others = f"; the file holds others, such as {left_over[0]}" if left_over else ""
        raise ModelError(
            f"the weights of model '{name}' lack {len(missing)} tensors: {_few(missing)}{others}; save the model again "
            "with save_pretrained of its own class"
        )
    if unused:
        raise ModelError(
            f"the weights of model '{name}' hold {len(unused)} tensors that its config.json has no place for: "
            f"{_few(unused)}; correct the configuration (number of layers, adapters), or save the model again"
        )


_PROBE = ["the", "a", "e", "i", "0", "1", "я", "е", "ا", "的", "一", "の", "क", ""]
"""Words and letters of several scripts: a tokenizer with a vocabulary knows at least one of them."""


def check_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer that does not go with the model.

    Raises:
        ModelError: if it has no vocabulary (transformers makes an empty one where its files are missing), or gives ids
            that the model has no embedding for.
    """
    known = {token for text in _PROBE for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
    if known <= set(tokenizer.all_special_ids):
        raise ModelError(f"the tokenizer of model '{name}' knows no words: its vocabulary files are missing or empty")
    highest, rows = max(tokenizer.get_vocab().values()), int(config.vocab_size)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer of model '{name}' gives ids up to {highest}, but the model has {rows} embeddings "
            "(vocab_size); resize the embeddings, or take the tokenizer that the model was trained with"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _refuse_adapter(place: str, revision: str, name: str) -> None:
    """Refuse a model with an adapter beside it, which transformers would load into it unasked.

    Raises:
        ModelError: naming the file.
    """
    if find_adapter_config_file(place, revision=revision) is not None:
        raise ModelError(f"model '{name}' has {ADAPTER_FILE} beside its weights: {LEFTOVER_ADAPTER}")


def import_architecture(reference: ModelReference) -> None:
    """Import the code of a model's architecture, so that memory measured from then on is not that of code.

    Nothing happens where the model cannot be read; loading it says why.
    """
    with suppress(OSError, ValueError, KeyError, ImportError, AdapeffError), torch.device("meta"):
        place = str(model_folder(reference.name) or reference.name)
        options: dict[str, Any] = {"revision": reference.revision or "main", "trust_remote_code": False}
        AutoModel.from_config(AutoConfig.from_pretrained(place, **options))


def load_tokenizer(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> Any:
    """A model's tokenizer alone.

    Raises:
        ModelError: if it cannot be loaded.
    """
    place = str(model_folder(reference.name) or reference.name)
    try:
        return AutoTokenizer.from_pretrained(
            place, revision=reference.revision or "main", trust_remote_code=False, **(tokenizer_options or {})
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the tokenizer of model '{reference}' cannot be loaded: {_one_line(error)}") from error


def check_encoder(config: Any, name: str) -> None:
    """Refuse what is no encoder.

    Raises:
        ModelError: naming the model and its type.
    """
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"model '{name}' is of type {config.model_type}, which is no encoder")


def drop_pooler(encoder: Any) -> nn.Module:
    """The encoder without its pooler: the head reads the first token itself, and unused weights would be counted."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    dropped: nn.Module = encoder
    return dropped


def _commit(name: str, reference: ModelReference) -> str:
    """The commit a hub model was loaded from, as the cache files it under, else the revision asked for."""
    file = cached_file(name, "config.json", revision=reference.revision or "main")
    return extract_commit_hash(file, None) or reference.revision or "unknown"


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{text[0] if text else type(error).__name__} (check the name, the revision and the connection)"


def position_count(config: Any) -> int:
    """How many tokens a model has positions for: RoBERTa types count from the padding index on."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1
    return positions


def _max_positions(config: Any, tokenizer: Any) -> int:
    """Tokens the model and its tokenizer take."""
    return min(position_count(config), int(min(tokenizer.model_max_length, 10**6)))


class TaskModel(nn.Module):
    """An adapted encoder and the head of a task."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(**inputs).last_hidden_state)
        return logits


def build_model(loaded: LoadedModel, method: Method, family: Family, *, seed: int) -> TaskModel:
    """Adapt the encoder and put the family's head on it.

    The head and the method's weights are drawn from seeds of their own, so that every method of a comparison starts
    from the same head.
    """
    torch.manual_seed(seed)
    head = family.make_head(loaded.hidden_size)
    torch.manual_seed(seed + 1)
    return TaskModel(method.attach(loaded.encoder), head)


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by what they are for; `total` counts every one once, head included."""

    trainable_method: int
    trainable_head: int
    total: int

    @property
    def trainable(self) -> int:
        """What the optimiser moves."""
        return self.trainable_method + self.trainable_head


def count_parameters(model: TaskModel) -> ParameterCounts:
    """Count what is trained, apart for method and head, and what there is."""

    def trainable(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    return ParameterCounts(
        trainable_method=trainable(model.encoder),
        trainable_head=trainable(model.head),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def trained_state(model: TaskModel) -> dict[str, torch.Tensor]:
    """What must be kept of a task: every trainable tensor by name, detached, on its device."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
