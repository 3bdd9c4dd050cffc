"""What a measurement is: one number under a key, and the definition it belongs to.

A measurement passes through four stages: the runner writes it as an event, the supervisor reads it back, the database
stores it as a row, and the report looks it up. At each stage it is a `Measured` with a `Key`. `measurements.py` lists
the definitions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict

Unit = Literal["1", "s", "B", "J", "1/s", "B/s"]
Display = Literal["%", "params", "FLOPs", "s", "B", "J", "1/s", ""]
"""How a value is shown: `%` is a share times 100, `params` a whole number, `FLOPs` with a decimal prefix."""
_PLACEHOLDER = re.compile(r"<\w+>")
"""In a definition's name: the placeholder for a metric, or for a value that a family chooses."""


class Key(NamedTuple):
    """The name and dimensions of a number; '' or 0 for dimensions that do not apply."""

    name: str
    statistic: str = ""
    phase: str = ""
    language: str = ""
    split: str = ""
    batch: int = 0
    length: int = 0
    dtype: str = ""
    variant: str = ""
    """Canonical JSON of an object, such as {"merged":true} or {"method":"lora","part":"weights"}."""
    task: str = ""
    """A member of a mixture of tasks, such as `sst2` or `offline_sentiment[difficulty=0.5]`; '' for the whole job."""


class Dimensions(TypedDict, total=False):
    """The dimensions of a measurement as the runner names them."""

    statistic: str
    phase: str
    language: str
    split: str
    batch: int
    length: int
    dtype: str
    variant: Mapping[str, Any]
    task: str


class Measured(NamedTuple):
    """One number with its unit, or None with the reason why it could not be measured."""

    key: Key
    value: float | None
    unit: str
    reason: str = ""

    def event(self) -> dict[str, Any]:
        """The runner's event as a mapping, without the dimensions that do not apply."""
        where: dict[str, Any] = {name: value for name, value in self.key._asdict().items() if value}
        if self.key.variant:
            where["variant"] = json.loads(self.key.variant)
        return {**where, "value": self.value, "unit": self.unit, "reason": self.reason}

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Measured:
        """Read a runner's event.

        Raises:
            KeyError, TypeError, ValueError: if a value is missing, unknown, or of the wrong type.
        """
        dimensions = {name: value for name, value in event.items() if name not in ("event", "value", "unit", "reason")}
        variant = dimensions.pop("variant", None)
        for name, value in dimensions.items():
            if type(value) is not _DIMENSION_TYPES.get(name):
                raise TypeError(f"{name!r} of measurement {event['name']!r} is {value!r:.100}")
        value, unit, reason = event["value"], event["unit"], event.get("reason", "")
        if not (value is None or isinstance(value, int | float)) or type(unit) is not str or type(reason) is not str:
            raise TypeError(f"measurement {event['name']!r} is {value!r:.100} {unit!r:.100} {reason!r:.100}")
        if not event["name"] or not unit:
            raise ValueError(f"measurement {event['name']!r} has no name or no unit")
        return cls(Key(**dimensions, variant=canonical_variant(variant)), value, unit, reason)


_DIMENSION_TYPES = {**dict.fromkeys(Key._fields, str), "batch": int, "length": int}


def canonical_variant(variant: Mapping[str, Any] | None) -> str:
    """The text a variant is stored as; '' for none."""
    return json.dumps(variant, sort_keys=True, separators=(",", ":"), ensure_ascii=True) if variant else ""


@dataclass(frozen=True)
class ReportColumn:
    """How a definition is shown as a column of the report."""

    heading: str
    key: str = ""
    """The figure's name in JSON and CSV; if empty, the definition's name."""
    where: Dimensions | None = None
    """The required dimensions; all others may have any value."""
    only_if_measured: bool = False
    """Omit the column if no run of the table measured it."""
    instead_of: str = ""
    """Omit the column if the column of this other definition has values."""


@dataclass(frozen=True)
class Definition:
    """One figure: a stable name, its unit as stored, and what it means."""

    name: str
    unit: Unit
    meaning: str
    """In Markdown; shown in the table of docs/measurements.md."""
    dimensions: tuple[str, ...] = ()
    better: Literal["higher", "lower", ""] = ""
    display: Display = ""
    version: int = 1
    """Incremented when the meaning changes; runs that measured different versions have separate tables."""
    only_in_profiles: bool = False
    """Whether training runs never measure it, so that a new version says nothing about them."""
    column: ReportColumn | None = None

    def of(self, name: str) -> Definition:
        """The definition for one metric or choice: `name` replaces the placeholder of `majority_<metric>`."""
        return replace(self, name=_PLACEHOLDER.sub(lambda _: name, self.name))

    def measured(self, value: float | None, *, reason: str = "", where: Dimensions) -> Measured:
        """Create a measurement of this definition.

        Raises:
            ValueError: for None without a reason, a non-finite number, or an unknown dimension.
        """
        if value is None and not reason:
            raise ValueError(f"measurement '{self.name}' is null without a reason")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"measurement '{self.name}' is {value}")
        if unknown := where.keys() - set(self.dimensions):
            raise ValueError(f"measurement '{self.name}' has no dimension {', '.join(sorted(unknown))}")
        dimensions: dict[str, Any] = dict(where)
        variant = canonical_variant(dimensions.pop("variant", None))
        return Measured(Key(self.name, **dimensions, variant=variant), value, self.unit, reason)
