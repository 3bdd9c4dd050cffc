"""Find the settings in which jobs differ; they are shown with the figures, so that no two rows look the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SHOWN_ELSEWHERE = {"learning_rate", "tuning", "test_languages", "keep_weights"}
"""Settings that tables show elsewhere, or that change no figure."""


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stored job's specification, by name."""
    parts = (spec.get("training"), spec.get("measuring"), spec.get("settings"))
    return {key: value for part in parts for key, value in (part or {}).items() if key not in _SHOWN_ELSEWHERE}


def varied_settings(specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the settings in which stored jobs of a kind differ, in the order they are declared."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for spec in specs:
        by_kind.setdefault(str(spec.get("kind")), []).append(settings_of(spec))
    return list(dict.fromkeys(key for of_kind in by_kind.values() for key in varying_keys(of_kind)))


def varying_keys(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ, in order of first appearance."""
    values: dict[str, set[str]] = {}
    for of_job in {id(of_job): of_job for of_job in settings}.values():
        for key, value in of_job.items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key, different in values.items() if len(different) > 1]


def in_words(settings: Mapping[str, Any]) -> str:
    """Format settings as text: `batch_size 8, train_size 64`."""
    return ", ".join(f"{key} {_text(value)}" for key, value in settings.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key.replace('_', ' ')} {item}" for key, item in value.items())
    if value is None:
        return "all"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
