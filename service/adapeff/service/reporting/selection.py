"""Which runs a report is about: `--where model=..., method=lora*, task=sst2,xnli, seed=0,1, since=7d`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, not_, or_

from adapeff.service.errors import SpecError, suggest
from adapeff.service.plugins.plugin_reference import split_list
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.runs import Result
from adapeff.service.reporting.titles import task_name
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import AnySpec, ProfileSpec
from adapeff.service.store.tables import Job, Run

_READ_JOB: Mapping[str, Callable[[JobSpec], tuple[str, ...]]] = {
    "model": lambda spec: (str(spec.model), short_model(str(spec.model))),
    "task": lambda spec: (str(spec.task), task_name(spec)),
    "method": lambda spec: (str(spec.method), spec.method.name),
    "seed": lambda spec: (str(spec.seed),),
}
_READ_RUN: Mapping[str, Callable[[Result], tuple[str, ...]]] = {
    "device": lambda result: (str(result.run.environment.get("device_name")),),
    "host": lambda result: (result.run.host,),
}
_READ_PROFILE: Mapping[str, Callable[[ProfileTable], tuple[str, ...]]] = {
    "model": lambda profile: (profile.model, short_model(profile.model)),
    "device": lambda profile: (str(profile.environment.get("device_name")),),
}
_COLUMNS = {"model": Job.model, "task": Job.task, "method": Job.method}
"""Columns that contain all that a condition on the key compares."""
KEYS = (*_READ_JOB, *_READ_RUN, "since")
_SEED = re.compile(r"[0-9]{1,10}")
_AGO = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True)
class Condition:
    """One condition: any of its patterns matches, or none of them if it excludes."""

    key: str
    patterns: tuple[str, ...]
    excludes: bool

    def accepts(self, values: Iterable[str]) -> bool:
        """Whether something with these names meets it."""
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
        conditions, moments = [], []
        for text in texts:
            key, sign, value = _split(text)
            if key == "since":
                moments.append(_moment(text, value, now or datetime.now(UTC)))
            else:
                conditions.append(Condition(key, _patterns(text, key, value), excludes=sign == "!="))
        return cls(tuple(conditions), max(moments, default=None))

    def matches(self, result: Result) -> bool:
        """Whether a run meets all conditions."""
        if self.since is not None and (result.run.finished_at is None or result.run.finished_at < self.since):
            return False
        return all(
            condition.accepts(
                _READ_JOB[condition.key](result.spec)
                if condition.key in _READ_JOB
                else _READ_RUN[condition.key](result)
            )
            for condition in self.conditions
        )

    def matches_job(self, spec: AnySpec) -> bool:
        """Whether a job, which may not have run, meets all conditions; of a profile, only the model is known.

        Raises:
            SpecError: if a condition is on a finished run: on its device, its host or its time.
        """
        keys = [condition.key for condition in self.conditions] + (["since"] if self.since else [])
        if wrong := [key for key in keys if key not in _READ_JOB]:
            raise SpecError(f"--where {wrong[0]}=... is about finished runs; jobs have {', '.join(_READ_JOB)}")
        if isinstance(spec, ProfileSpec):
            names = (str(spec.model), short_model(str(spec.model)))
            return all(condition.accepts(names if condition.key == "model" else ()) for condition in self.conditions)
        return all(condition.accepts(_READ_JOB[condition.key](spec)) for condition in self.conditions)

    def matches_profile(self, profile: ProfileTable) -> bool:
        """Whether a profile meets the conditions on its model and device; it has no task, seed or single method."""
        about = [condition for condition in self.conditions if condition.key in _READ_PROFILE]
        return all(condition.accepts(_READ_PROFILE[condition.key](profile)) for condition in about)

    def narrowed(self, wanted: Select[Any]) -> Select[Any]:
        """A query of jobs and runs without most of those that do not match, so that few have to be read."""
        for condition in self.conditions:
            column = _COLUMNS.get(condition.key)
            if condition.key == "seed":
                is_one = Job.seed.in_([int(seed) for seed in condition.patterns])
                wanted = wanted.where(not_(is_one) if condition.excludes else is_one)
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


def _patterns(text: str, key: str, value: str) -> tuple[str, ...]:
    patterns = split_list(value)
    if not patterns:
        raise SpecError(f"--where is '{text}' without a value; expected KEY=VALUE, such as method=lora* or seed!=0")
    if key == "seed":
        if wrong := [seed for seed in patterns if not _SEED.fullmatch(seed)]:
            raise SpecError(f"--where is '{text}': '{wrong[0]}' is no seed; expected whole numbers, such as seed=0,1")
        return tuple(str(int(seed)) for seed in patterns)
    return patterns


def parse_age(text: str) -> timedelta | None:
    """The time of a text such as `12h`, `7d` or `2w`; None if it is none."""
    found = _AGO.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def _moment(text: str, value: str, now: datetime) -> datetime:
    if (age := parse_age(value)) is not None:
        return now - age
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SpecError(f"--where is '{text}'; expected a date such as 2026-01-31, or 12h, 7d, 2w") from error


def _literal(pattern: str) -> str:
    """The pattern with brackets taken literally: methods are written `lora[rank=8]`."""
    return pattern.replace("[", "[[]")
