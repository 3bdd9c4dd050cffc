"""Which runs a report is about: `--where model=..., method=lora*, task=sst2,xnli, seed=0,1, since=7d`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, or_

from adapeff.service.errors import SpecError, suggest
from adapeff.service.plugins.plugin_reference import split_list
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.runs import Result
from adapeff.service.reporting.titles import task_name
from adapeff.service.store.tables import Job, Run

_READ: Mapping[str, Callable[[Result], tuple[str, ...]]] = {
    "model": lambda result: (str(result.spec.model), short_model(str(result.spec.model))),
    "task": lambda result: (str(result.spec.task), task_name(result.spec)),
    "method": lambda result: (str(result.spec.method), result.spec.method.name),
    "seed": lambda result: (str(result.spec.seed),),
    "device": lambda result: (str(result.run.environment.get("device_name")),),
    "host": lambda result: (result.run.host,),
}
_COLUMNS = {"model": Job.model, "task": Job.task, "method": Job.method}
"""Columns that contain all that a condition on the key compares."""
KEYS = (*_READ, "since")
_AGO = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True)
class Condition:
    """One condition: any of its patterns matches, or none of them if it excludes."""

    key: str
    patterns: tuple[str, ...]
    excludes: bool

    def matches(self, result: Result) -> bool:
        """Whether a run meets it."""
        values = _READ[self.key](result)
        found = any(fnmatch.fnmatchcase(value, _literal(pattern)) for pattern in self.patterns for value in values)
        return found != self.excludes


@dataclass(frozen=True)
class Selection:
    """Conditions that all must be met."""

    conditions: tuple[Condition, ...] = ()
    since: datetime | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], *, now: datetime | None = None) -> Selection:
        """Read conditions such as `method=lora*,houlsby`, `seed!=0` or `since=2026-01-31`.

        Raises:
            SpecError: naming the condition and what was expected.
        """
        conditions, since = [], None
        for text in texts:
            key, sign, value = _split(text)
            if key == "since":
                since = _moment(text, value, now or datetime.now(UTC))
            else:
                conditions.append(Condition(key, tuple(split_list(value)), excludes=sign == "!="))
        return cls(tuple(conditions), since)

    def matches(self, result: Result) -> bool:
        """Whether a run meets all conditions."""
        if self.since is not None and (result.run.finished_at is None or result.run.finished_at < self.since):
            return False
        return all(condition.matches(result) for condition in self.conditions)

    def narrowed(self, wanted: Select[Any]) -> Select[Any]:
        """A query of jobs and runs without most of those that do not match, so that few have to be read."""
        for condition in self.conditions:
            column = _COLUMNS.get(condition.key)
            if column is not None and not condition.excludes:
                parts = [max(re.split(r"[*?]+", pattern), key=len) for pattern in condition.patterns]
                wanted = wanted.where(or_(*(column.contains(part, autoescape=True) for part in parts)))
        return wanted if self.since is None else wanted.where(Run.finished_at >= self.since)


def _split(text: str) -> tuple[str, str, str]:
    key, sign, value = re.fullmatch(r"\s*(\w*)\s*(!?=?)\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if sign not in ("=", "!=") or not value.strip():
        raise SpecError(f"--where is '{text}'; expected KEY=VALUE, such as method=lora* or seed!=0")
    if key not in KEYS:
        raise SpecError(f"--where is '{text}': unknown key '{key}'; {suggest(key, KEYS)}")
    if key == "since" and sign == "!=":
        raise SpecError(f"--where is '{text}'; since takes =, such as since=7d")
    return key, sign, value.strip()


def _moment(text: str, value: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(value):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise SpecError(f"--where is '{text}'; expected a date such as 2026-01-31, or 12h, 7d, 2w") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _literal(pattern: str) -> str:
    """The pattern with brackets taken literally: methods are written `lora[rank=8]`."""
    return pattern.replace("[", "[[]")
