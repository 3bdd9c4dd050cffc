"""The weights a run stores: `weights.safetensors`, with the metadata needed to use them without the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from adapeff.service.errors import ModelError

WEIGHTS = "weights.safetensors"


def describe(
    *, method: str, parameters: Mapping[str, Any], model: str, task: str, heads: Sequence[str] = ()
) -> dict[str, str]:
    """The file's metadata: what was trained, by which method, on which model.

    Args:
        heads: the task of each head, if there are several.
    """
    values = {"format": 1, "method": method, "parameters": dict(parameters), "model": model, "task": task}
    values |= {"heads": list(heads)} if heads else {}
    return {"adapeff": json.dumps(values, sort_keys=True)}


def read_weights(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the trained tensors in a run's folder.

    Raises:
        ModelError: if there are none, or the file is incomplete.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise ModelError(f"'{folder}' contains no {WEIGHTS}; run its job with keep_weights: true")
    try:
        with safe_open(file, framework="pt") as opened:
            description = json.loads((opened.metadata() or {})["adapeff"])
            return description, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"'{file}' is incomplete, or was not written by a run ({type(error).__name__})") from error
