"""Strict YAML for files and options that people write: no duplicate keys, no aliases, and `no` is a string."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MAX_DEPTH = 40
"""Maximum levels of nesting."""


class StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys and aliases, in which `no` is a string (as in YAML 1.2)."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys; plain YAML would keep the last."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' appears twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int) else None)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases: no file needs them, and an alias can refer to itself."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported; write the value itself", mark
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


StrictLoader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(r"true|True|TRUE|false|False|FALSE") if tag == "tag:yaml.org,2002:bool" else pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:bool" or first in "tTfF"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """Read a value from a file or the command line.

    Raises:
        yaml.YAMLError, ValueError: if it is malformed, refers to itself, or is nested too deep.
    """
    return scalars(yaml.load(text, StrictLoader))


def scalars(value: Any) -> Any:
    """Convert numbers such as 1e-4 throughout a loaded YAML value."""
    if isinstance(value, Mapping):
        return {key: scalars(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scalars(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """Read 1e-4 as a number; in YAML 1.1 it is a string."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    if isinstance(value, dict):
        return {key: _scalar(item) for key, item in value.items()}
    return value
