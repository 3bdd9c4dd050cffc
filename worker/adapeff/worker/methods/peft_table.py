"""The table of PEFT's tuners and their fields; `python -m adapeff.worker.methods.peft_table` regenerates it.

With the table, a machine without torch can check `peft:vera[r=64]`; the runner, which has PEFT, checks again.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

_ARXIV = re.compile(r"(?:arxiv\.org/(?:abs|pdf)/|huggingface\.co/papers/|arXiv:)(\d{4}\.\d{4,5})", re.IGNORECASE)
TABLE = Path(__file__).with_name("peft_table.json")
_NOT_SETTABLE = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "modules_to_save",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "runtime_config",
    "tokenizer_kwargs",
}
"""Fields that the harness sets or that depend on the model."""


def read_peft() -> dict[str, Any]:
    """The table for the installed PEFT."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    types = {}
    for kind in PeftType:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        hints = typing.get_type_hints(config)
        types[kind.value.lower()] = {
            "paper": _paper(config, PEFT_TYPE_TO_TUNER_MAPPING.get(kind)),
            "fields": {
                item.name: _field(item, hints.get(item.name))
                for item in dataclasses.fields(config)
                if item.name not in _NOT_SETTABLE
            },
        }
    return {"peft": peft.__version__, "types": types}


def _paper(*classes: type | None) -> str:
    """The first paper that PEFT's own documentation of a tuner cites, as arXiv:number; empty if it cites none."""
    for kind in filter(None, classes):
        module = sys.modules[kind.__module__]
        for text in (kind.__doc__, module.__doc__, inspect.getsource(module)):
            if found := _ARXIV.search(text or ""):
                return f"arXiv:{found[1]}"
    return ""


def _field(item: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    default = item.default
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    if default is dataclasses.MISSING or dataclasses.is_dataclass(default):
        default = None
    value = getattr(default, "value", default)
    return {"kind": _kind(hint, value), "default": sorted(value) if isinstance(value, set) else value}


def _kind(hint: Any, default: Any) -> str:
    """bool, int, float or text if only that is accepted, else any."""
    options = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    names = {bool: "bool", int: "int", float: "float", str: "text"}
    if len(options) == 1 and options[0] in names:
        return names[options[0]]
    return "any"


if __name__ == "__main__":
    TABLE.write_text(json.dumps(read_peft(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
