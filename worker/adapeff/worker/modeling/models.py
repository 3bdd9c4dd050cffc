"""Load an encoder with its tokenizer and add a family's head."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils.hub import cached_file, extract_commit_hash

from adapeff.service.errors import AdapeffError, NotHereError
from adapeff.service.plugins.contracts import Method
from adapeff.service.specs.model_reference import ModelReference, model_folder, resolve_model
from adapeff.worker.modeling.configurations import SAFE, read_config, unloadable
from adapeff.worker.modeling.encoders import drop_pooler, examine, give_global_attention, model_inputs, position_count
from adapeff.worker.modeling.tokenizers import load_tokenizer
from adapeff.worker.modeling.weight_checks import check_numbers, check_weights, refuse_adapter

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are on this host, and its configuration."""

    reference: ModelReference
    place: str
    """A folder or a hub id."""
    config: Any

    @property
    def has_weights(self) -> bool:
        """Whether there are weights; a profile may be given a folder with a configuration only."""
        folder = Path(self.place)
        return not folder.is_dir() or any(
            any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin")
        )

    @property
    def revision(self) -> str:
        """The commit of a hub model, as the cache files it under, the content fingerprint of a local one."""
        if self.reference.fingerprint:
            return self.reference.fingerprint
        file = cached_file(self.place, "config.json", revision=self.reference.revision or "main")
        return extract_commit_hash(file, None) or self.reference.revision or "unknown"


def find_source(reference: ModelReference, *, needs_weights: bool = True) -> ModelSource:
    """Find the files of a job's model reference.

    Raises:
        NotHereError: if a local model is not on this host, or differs from the one submitted.
        ModelError: if the configuration cannot be read or is not an encoder's, or the folder also contains an adapter.
    """
    folder = None
    if reference.source == "folder":
        try:
            folder, found = model_folder(reference.name), resolve_model(reference.name, needs_weights=needs_weights)
        except AdapeffError as error:
            raise NotHereError(str(error)) from error
        if folder is None or found.fingerprint != reference.fingerprint:
            raise NotHereError(
                f"model '{reference.name}' here has the fingerprint {str(found.fingerprint)[:12]}, but the job was "
                f"submitted with {str(reference.fingerprint)[:12]}; give every host the same files"
            )
    place, revision = str(folder) if folder else reference.name, reference.revision or "main"
    config = read_config(place, str(reference), revision=revision)
    refuse_adapter(place, revision, str(reference))
    return ModelSource(reference, place, config)


def load_encoder(source: ModelSource) -> Any:
    """Load the encoder with all of its fp32 weights and no others.

    Raises:
        ModelError, NotHereError: if it cannot be loaded, or not completely.
    """
    options = {"revision": source.reference.revision or "main", **SAFE}
    try:
        encoder, loading = AutoModel.from_pretrained(
            source.place,
            config=source.config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:
        raise unloadable(f"model '{source.reference}'", error) from error
    check_weights(loading, str(source.reference))
    check_numbers(encoder, source.place, str(source.reference))
    return encoder


def draw_encoder(config: Any, name: str) -> Any:
    """The encoder of a configuration with random weights; without any on the meta device.

    Raises:
        ModelError, NotHereError: if it cannot be built.
    """
    try:
        return AutoModel.from_config(config)
    except Exception as error:
        raise unloadable(f"model '{name}'", error) from error


def ready_encoder(encoder: Any, name: str) -> tuple[nn.Module, int]:
    """The encoder as methods and heads expect it, and the width of its states.

    Raises:
        ModelError: if it does not run on text only, or is not an encoder.
    """
    give_global_attention(encoder)
    encoder = drop_pooler(encoder)
    return encoder, examine(encoder, name)


def load_model(reference: ModelReference, tokenizer_options: Mapping[str, Any] | None = None) -> LoadedModel:
    """Load what a job's reference names, never running code that comes with it.

    Args:
        tokenizer_options: options that the task's family requires.

    Raises:
        NotHereError: if a local model is not on this host, or differs from the one submitted.
        ModelError: if it cannot be loaded whole, is not an encoder, or needs its own code.
    """
    source = find_source(reference)
    tokenizer = load_tokenizer(reference, tokenizer_options)
    encoder, hidden_size = ready_encoder(load_encoder(source), str(reference))
    tokenizer.model_input_names = list(model_inputs(encoder))
    return LoadedModel(
        encoder=encoder,
        tokenizer=tokenizer,
        hidden_size=hidden_size,
        max_positions=min(position_count(encoder), int(min(tokenizer.model_max_length, 10**6))),
        revision=source.revision,
    )


def import_architecture(reference: ModelReference) -> None:
    """Import a model's architecture early, so that later memory measurements exclude its code.

    Does nothing if the model cannot be read; loading it raises the error.
    """
    with suppress(Exception), torch.device("meta"):
        place = str(model_folder(reference.name) or reference.name)
        draw_encoder(read_config(place, str(reference), revision=reference.revision or "main"), str(reference))


class TaskModel(nn.Module):
    """An adapted encoder and the head of a task, or the heads of several in a `ModuleList`."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, inputs: dict[str, torch.Tensor], member: int = 0) -> torch.Tensor:
        head = self.head[member] if isinstance(self.head, nn.ModuleList) else self.head
        logits: torch.Tensor = head(self.encoder(**inputs).last_hidden_state)
        return logits

    def with_head(self, member: int) -> TaskModel:
        """The model with one of its heads only: the same modules, in the same mode."""
        if not isinstance(self.head, nn.ModuleList):
            return self
        model = TaskModel(self.encoder, self.head[member])
        model.training = self.training
        return model


def build_model(loaded: LoadedModel, method: Method, *families: Family, seed: int) -> TaskModel:
    """Adapt the encoder and put the head of each family on it.

    The heads and the method's weights use separate seeds, so that every method of a comparison starts from the same
    head, and a task of a mixture from the one it has alone.
    """
    heads = []
    for family in families:
        torch.manual_seed(seed)
        heads.append(family.make_head(loaded.hidden_size))
    torch.manual_seed(seed + 1)
    return TaskModel(method.attach(loaded.encoder), heads[0] if len(heads) == 1 else nn.ModuleList(heads))


@dataclass(frozen=True)
class ParameterCounts:
    """Parameter counts by role; `total` counts each parameter once, including the head."""

    trainable_method: int
    trainable_head: int
    total: int

    @property
    def trainable(self) -> int:
        """Parameters that the optimizer updates."""
        return self.trainable_method + self.trainable_head


def count_parameters(model: TaskModel) -> ParameterCounts:
    """Count trainable parameters, separately for method and head, and all parameters."""

    def trainable(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    return ParameterCounts(
        trainable_method=trainable(model.encoder),
        trainable_head=trainable(model.head),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def trained_state(model: TaskModel) -> dict[str, torch.Tensor]:
    """The state a task must store: every trainable tensor and all heads by name, detached, on their device."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name.startswith("head.")
    }
