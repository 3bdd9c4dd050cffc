"""`peft:<type>`: a method for every tuner that PEFT has, built from the generated table of its types and fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import create_model

from adapeff.service.plugins.contracts import Method
from adapeff.worker.methods import peft_facts as facts
from adapeff.worker.methods.adalora import AdaLora
from adapeff.worker.methods.peft_table import TABLE
from adapeff.worker.methods.peft_tuner import PeftTuner

_BASES: dict[str, type[PeftTuner]] = {"adalora": AdaLora}
_FIELD_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "text": str, "any": Any}


def peft_methods() -> dict[str, type[Method]]:
    """A method for each tuner in the table, by its name `peft:<type>`."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {f"peft:{kind}": _method(kind, entry, table["peft"]) for kind, entry in table["types"].items()}


def _method(kind: str, entry: Mapping[str, Any], version: str) -> type[Method]:
    defaults = facts.DEFAULTS.get(kind, {})
    fields = {
        name: (_field_type(field["kind"]), defaults.get(name, field["default"]))
        for name, field in entry["fields"].items()
    }
    tuner = _define(kind, f"The tuner {kind.upper()} of PEFT {version}.", fields)
    cited = facts.PAPERS.get(kind) or (f"{entry['paper']}, as PEFT cites it" if entry.get("paper") else "")
    tuner.kind = kind
    tuner.paper = cited or f"no paper is cited; see {kind.upper()} of PEFT {version}"
    tuner.default_learning_rate, tuner.learning_rate_source = facts.RATES.get(kind, facts.RATE_OF_LORA)
    return tuner


def _define(kind: str, docstring: str, fields: Mapping[str, Any]) -> type[PeftTuner]:
    name = f"Peft{kind.title().replace('_', '')}"
    define: Any = create_model  # its overloads know no fields from a mapping
    tuner: type[PeftTuner] = define(name, __base__=_BASES.get(kind, PeftTuner), __doc__=docstring, **fields)
    return tuner


def _field_type(kind: str) -> Any:
    return Any if kind == "any" else _FIELD_TYPES[kind] | None
