"""Parse references to plug-ins: `lora`, `lora[alpha=16,rank=8]`, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from adapeff.service.errors import SpecError
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.strict_yaml import load_yaml

_CALL = re.compile(r"^(?P<name>[^\[\]]*[^\[\]\s])(?:\[(?P<arguments>.*)\])?$", re.DOTALL)

_ENTRY = re.compile(r"^(?P<key>[^\[\]]*?(?:\[.*\])?)\s*:\s(?P<value>.*)$", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PluginReference(Frozen):
    """A plug-in by name with the parameters a user set, e.g. `lora[alpha=16,rank=8]`."""

    name: str
    parameters: dict[str, Any] = {}

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        inner = ",".join(f"{key}={_flow(value)}" for key, value in sorted(self.parameters.items()))
        return f"{self.name}[{inner}]"


def parse_plugin(text: str) -> PluginReference:
    """Read `name` or `name[key=value,...]`; values are YAML scalars or flow lists, whose items may have parameters too.

    Raises:
        SpecError: if the text has neither form.
    """
    match = _CALL.match(text.strip())
    if match is None or not text.strip().isprintable():
        raise SpecError(f"{text[:80]!r} is not of the form name or name[key=value,...]")
    arguments = match["arguments"]
    parameters: dict[str, Any] = {}
    for part in _split_at_commas(arguments) if arguments else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise SpecError(f"'{part}' in '{text}' is not of the form key=value")
        if key.strip() in parameters:
            raise SpecError(f"'{key.strip()}' appears twice in '{text}'")
        try:
            parameters[key.strip()] = _read(value.strip())
        except (yaml.YAMLError, ValueError) as error:
            raise SpecError(f"the value of '{key.strip()}' in '{text:.80}' cannot be read: {value!r:.80}") from error
    return PluginReference(name=match["name"], parameters=parameters)


def _read(value: str) -> Any:
    """A YAML scalar, flow list or flow mapping; items and keys may be of the form name[key=value,...] themselves."""
    try:
        return load_yaml(value)
    except yaml.YAMLError:
        ends, inner = value[:1] + value[-1:], split_list(value[1:-1])
        if "[" not in value[1:] or ends not in ("[]", "{}"):
            raise
        if ends == "[]":
            return [item if "[" in item else load_yaml(item) for item in inner]
        return dict(_entry(item) for item in inner)


def _entry(text: str) -> tuple[str, Any]:
    """A key and its value, of a flow mapping."""
    match = _ENTRY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form key: value")
    return match["key"], load_yaml(match["value"])


def split_list(text: str) -> tuple[str, ...]:
    """Split `full,lora[rank=8,alpha=16]` at the commas outside brackets."""
    return tuple(part for part in _split_at_commas(text) if part)


def _split_at_commas(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def _flow(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_flow(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return value[:12] if _SHA256.fullmatch(value) else value
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def is_task_file(name: str) -> bool:
    """Whether a task's name is the path of a task file or of a folder that contains one."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~/")) or name.endswith((".yaml", ".yml"))
