"""Count what each method would train on a model, from its configuration alone: on the meta device, without weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from adapeff.service.errors import AdapeffError, ModelError, SpecError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.specs.model_reference import model_folder
from adapeff.worker.modeling.configurations import read_config
from adapeff.worker.modeling.encoders import drop_pooler
from adapeff.worker.modeling.models import draw_encoder


def empty_encoder(model: str) -> nn.Module:
    """A model's encoder without weights.

    Args:
        model: a hub id with or without @revision, a folder with a config.json, or package:NAME/folder.

    Raises:
        ModelError: if its configuration cannot be read, or is not an encoder's.
    """
    if not model.strip():
        raise ModelError("--model is empty; name a hub id org/name, or a folder with a config.json")
    logging.set_verbosity_error()  # errors are reported once, below
    folder = model_folder(model)
    name, _, revision = (str(folder), "", "") if folder else model.partition("@")
    config = read_config(name, model, revision=revision or "main")
    with torch.device("meta"):
        return drop_pooler(draw_encoder(config, model))


def count_methods(model: str, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the model's size, then one answer per method as written in a sweep; a null count comes with a reason.

    Raises:
        ModelError: if the model cannot be read.
    """
    encoder = empty_encoder(model)
    yield {"model": model, "class": type(encoder).__name__, "parameters": _count(encoder, trained_only=False)}
    for written in methods:
        try:
            yield {"method": written, "trainable_parameters": _trained_by(written, encoder), "reason": ""}
        except SpecError as error:
            reason = str(error).replace(f"method '{written}': ", f"{written} ")
            reason = reason.replace("'sources' is missing", "needs sources: finished jobs, or folders")
            yield {"method": written, "trainable_parameters": None, "reason": reason}
        except AdapeffError as error:
            needs_weights = "meta" in str(error).lower()  # torch's message for an operation without data
            reason = f"{written} cannot be counted without the model's weights" if needs_weights else str(error)
            yield {"method": written, "trainable_parameters": None, "reason": reason}


def _trained_by(written: str, encoder: nn.Module) -> int:
    reference = parse_plugin(written)
    method = catalog.get_method(reference.name, reference.parameters)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's warnings do not matter for a count
        return _count(method.attach(copy.deepcopy(encoder)), trained_only=True)


def _count(module: nn.Module, *, trained_only: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
