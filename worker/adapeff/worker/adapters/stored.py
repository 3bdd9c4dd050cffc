"""Load adapters from what a run leaves behind, or from a folder that PEFT saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

import adapeff.worker.adapters.tuner  # noqa: F401  # enters our tuner in PEFT's tables
from adapeff.service import catalog
from adapeff.service.errors import AdapeffError, ModelError
from adapeff.worker.methods.adapterdrop import AdapterDropMethod
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.methods.peft_types import PeftTuner
from adapeff.worker.weights import read_weights


def load_adapter(model: nn.Module, source: str | Path, name: str) -> PeftModel:
    """Put a stored adapter into an encoder under a name; beside others it stays inactive until it is set.

    Args:
        model: an encoder, or one that has adapters of the same tuner already.
        source: a run's folder with `weights.safetensors`, or a folder that PEFT saved.

    Raises:
        ModelError: if there is none, PEFT does not host it, or it does not fit the model.
    """
    folder = Path(source).expanduser()
    if (folder / "adapter_config.json").is_file():
        return _load_pefts(model, folder, name)
    description, tensors = read_weights(folder)
    adapted = _add(model, _configuration(description, model, folder), name, folder)
    wanted = {key: p for key, p in adapted.named_parameters() if re.search(rf"\.{re.escape(name)}(\.|$)", key)}
    found = {_our_key(key, name): tensor for key, tensor in tensors.items() if not key.startswith("head.")}
    unfit = [key for key in found if key not in wanted or found[key].shape != wanted[key].shape]
    if unfit or not found:
        raise ModelError(f"the adapter in '{folder}' was trained on another model ({description['model'][:60]})")
    with torch.no_grad():
        for key, tensor in found.items():
            wanted[key].copy_(tensor)
    return adapted


def _our_key(key: str, name: str) -> str:
    """A tensor's name in the adapted encoder, whatever was wrapped around that when it was stored."""
    plain = key.removeprefix("encoder.").removeprefix("adapted.")
    return re.sub(r"\.default(?=\.|$)", f".{name}", plain)


def _add(model: nn.Module, config: PeftConfig, name: str, folder: Path) -> PeftModel:
    if not isinstance(model, PeftModel):
        return get_peft_model(model, config, adapter_name=name)
    kinds = {kept.peft_type for kept in model.peft_config.values()}
    if config.peft_type not in kinds:
        raise ModelError(
            f"'{folder}' holds a {config.peft_type.value} adapter, but the model has {kinds.pop().value} ones; "
            "adapters of different tuners cannot share a model"
        )
    model.add_adapter(name, config)
    return model


def _configuration(description: Mapping[str, Any], model: nn.Module, folder: Path) -> PeftConfig:
    try:
        method: Any = catalog.get_method(description["method"], description["parameters"])
    except AdapeffError as error:
        raise ModelError(f"the adapter in '{folder}' cannot be read: {error}") from error
    if isinstance(method, AdapterDropMethod):
        method = method.adapter_method()
    if not isinstance(method, HostedMethod) or (isinstance(method, PeftTuner) and method.is_wrapped):
        raise ModelError(f"'{folder}' holds {description['method']}, which is no adapter that can share a model")
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return method.peft_config(plain)


def _load_pefts(model: nn.Module, folder: Path, name: str) -> PeftModel:
    try:
        adapted = _add(model, PeftConfig.from_pretrained(str(folder)), name, folder)
        loaded = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"), adapter_name=name)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"the adapter in '{folder}' does not fit this model, or cannot be read: {line}") from error
    missing = [key for key in loaded.missing_keys if re.search(rf"\.{re.escape(name)}(\.|$)", key)]
    if unfit := [*loaded.unexpected_keys, *missing]:
        raise ModelError(f"the adapter in '{folder}' was trained on another model ({unfit[0]})")
    return adapted
