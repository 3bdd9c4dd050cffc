"""Load adapters of ours from what a run leaves behind, or from a folder that PEFT saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

from adapeff.service import catalog
from adapeff.service.errors import AdapeffError, ModelError
from adapeff.worker.adapters.parts import AdapterConfig
from adapeff.worker.adapters.tuner import add_adapter
from adapeff.worker.methods.adapterdrop import AdapterDropMethod
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.weights import read_weights


def load_adapter(model: nn.Module, source: str, name: str) -> PeftModel:
    """Put a stored adapter of ours into an encoder under a name; it is not the active one unless it is the first.

    Raises:
        ModelError: if it is not there, is no adapter of ours, or does not fit the model.
    """
    folder = Path(source).expanduser()
    if (folder / "adapter_config.json").is_file():
        return _load_pefts(model, folder, name)
    description, tensors = read_weights(folder)
    adapted = add_adapter(model, _configuration(description, model, folder), name)
    wanted = dict(adapted.named_parameters())
    ours = {key for key in wanted if f".{name}." in key}
    found = {_plain(key).replace(".default.", f".{name}."): tensor for key, tensor in tensors.items()}
    found = {key: tensor for key, tensor in found.items() if not key.startswith("head.")}
    if set(found) != ours or any(found[key].shape != wanted[key].shape for key in ours):
        raise ModelError(f"the adapter in '{folder}' was trained on another model ({description['model'][:60]})")
    with torch.no_grad():
        for key in ours:
            wanted[key].copy_(found[key])
    return adapted


def _plain(key: str) -> str:
    """The tensor's name in the adapted encoder, whatever was wrapped around that."""
    return key.removeprefix("encoder.").removeprefix("adapted.")


def _configuration(description: Mapping[str, Any], model: nn.Module, folder: Path) -> AdapterConfig:
    try:
        method: Any = catalog.get_method(description["method"], description["parameters"])
        if isinstance(method, AdapterDropMethod):
            method = method.adapter_method()
    except AdapeffError as error:
        raise ModelError(f"the adapter in '{folder}' cannot be read: {error}") from error
    config = method.peft_config(model) if isinstance(method, HostedMethod) else None
    if not isinstance(config, AdapterConfig):
        raise ModelError(f"'{folder}' holds {description['method']}, which is no adapter of ours to build on")
    return config


def _load_pefts(model: nn.Module, folder: Path, name: str) -> PeftModel:
    try:
        config = AdapterConfig.from_pretrained(str(folder))
        if not isinstance(config, AdapterConfig):
            raise ModelError(f"'{folder}' holds {config.peft_type}, which is no adapter of ours to build on")
        adapted = add_adapter(model, config, name)
        missing = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"), adapter_name=name)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"the adapter in '{folder}' does not fit this model, or cannot be read: {line}") from error
    if missing.unexpected_keys:
        raise ModelError(f"the adapter in '{folder}' was trained on another model ({missing.unexpected_keys[0]})")
    return adapted
