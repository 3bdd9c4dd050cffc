"""Reject weights that load but are wrong: missing, left over, misshapen, quantised or infinite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import find_adapter_config_file

from adapeff.service.errors import ModelError
from adapeff.service.specs.model_reference import ADAPTER_FILE, LEFTOVER_ADAPTER

_WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


def check_numbers(encoder: Any, place: str, name: str) -> None:
    """Reject weights that training cannot start from: quantised ones, which need a scale, and infinite ones.

    Raises:
        ModelError: naming the first tensor.
    """
    parameters = dict(encoder.named_parameters())
    for file in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                kind = opened.get_slice(key).get_dtype()
                if kind in _WHOLE_NUMBERS and any(key.endswith(known) for known in parameters):
                    raise ModelError(
                        f"the weights of model '{name}' hold {key} as {kind}: they are quantised; take the model in "
                        "float32, float16 or bfloat16"
                    )
    for key, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise ModelError(f"the weights of model '{name}' hold numbers that are not finite, in {key}")


_IN_A_LAYER = re.compile(r"(^|\.)(layers?|blocks?|h|groups)\.\d+\.")
_POOLER = re.compile(r"(^|\.)pooler\.")


def check_weights(loading: Mapping[str, Iterable[Any]], name: str) -> None:
    """Reject a model whose file does not match the encoder: transformers would initialise missing weights randomly.

    A pooler may be missing, because it is never used, and heads may be left over; layers and adapters may not.

    Args:
        loading: the loading info of `from_pretrained`.

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
            "with save_pretrained of the model's class"
        )
    if unused:
        raise ModelError(
            f"the weights of model '{name}' hold {len(unused)} tensors that its config.json has no place for: "
            f"{_few(unused)}; correct the configuration (number of layers, adapters), or save the model again"
        )


def refuse_adapter(place: str, revision: str, name: str) -> None:
    """Reject a model with an adapter in its folder, which transformers would load silently.

    Raises:
        ModelError: naming the file.
    """
    if find_adapter_config_file(place, revision=revision) is not None:
        raise ModelError(f"model '{name}' has {ADAPTER_FILE} next to its weights: {LEFTOVER_ADAPTER}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
