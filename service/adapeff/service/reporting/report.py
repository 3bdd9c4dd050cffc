"""Summarise finished jobs: a table per model and task, a row per method, each figure compared with the reference's.

Runs share a table only if they are comparable: the same model, data, settings and hardware, and the same versions of
torch, transformers and peft. Other runs get separate tables; only comparable runs are averaged. If a job (same method
and seed) has repeats, the newest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from adapeff.service.reporting.columns import Price
from adapeff.service.reporting.garbage import without_garbage_collection
from adapeff.service.reporting.overview import Overview, build_overviews
from adapeff.service.reporting.profiles import ProfileTable, build_profiles
from adapeff.service.reporting.runs import (
    Result,
    find_differences,
    find_side_by_side,
    load_results,
    model_and_task,
)
from adapeff.service.reporting.table import Context, Table, build_table
from adapeff.service.reporting.variation import varying_keys
from adapeff.service.store import job_queries, sweeps


@dataclass(frozen=True)
class Report:
    """The tables, and the number of jobs without a result."""

    tables: tuple[Table, ...]
    overviews: tuple[Overview, ...] = ()
    profiles: tuple[ProfileTable, ...] = ()
    unfinished: dict[str, int] = field(default_factory=dict)
    """State -> number of jobs without a result."""


def build_report(
    session: Session,
    *,
    sweep_ids: Sequence[int] | None = None,
    allow_mixed: bool = False,
    price_per_device_hour: float | None = None,
    currency: str = "",
) -> Report:
    """Build the report on the jobs of some submissions, or on all jobs.

    Args:
        sweep_ids: submissions whose jobs count; None: all jobs.
        allow_mixed: put all runs of a model and task into one table, with a note of the conditions that differ.
        price_per_device_hour: if given, add the price of the time each run occupied its slot.
        currency: the unit of the price.
    """
    with without_garbage_collection():
        return _build(session, sweep_ids, allow_mixed, price_per_device_hour, currency)


def _build(
    session: Session,
    sweep_ids: Sequence[int] | None,
    allow_mixed: bool,
    price_per_device_hour: float | None,
    currency: str,
) -> Report:
    finished = load_results(session, sweep_ids=sweep_ids)
    repeats = _with_repeats(session, finished) if sweep_ids is not None else finished
    group_key = model_and_task if allow_mixed else _likeness
    groups, repeats_of = _grouped(finished, group_key), _grouped(repeats, group_key)
    names = sweeps.names_of(session, [result.run.job_id for result in finished])
    context = Context(
        side_by_side=find_side_by_side(finished),
        price=None if price_per_device_hour is None else Price(price_per_device_hour, currency),
        varied=tuple(varying_keys(result.run.settings for result in finished)),
        differences=find_differences(finished),
        sweep_names=names,
    )
    tables = tuple(build_table(group, repeats_of[key], context) for key, group in groups.items())
    counts = job_queries.count_by_state(session, sweep_ids=sweep_ids)
    return Report(
        tables,
        build_overviews(tables),
        build_profiles(session, sweep_ids=sweep_ids),
        {state: count for state, count in counts.items() if state != "succeeded"},
    )


def _likeness(result: Result) -> Hashable:
    return result.run.likeness


def _grouped(results: Sequence[Result], key: Callable[[Result], Hashable]) -> dict[Hashable, list[Result]]:
    groups: dict[Hashable, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _with_repeats(session: Session, finished: Sequence[Result]) -> list[Result]:
    """The results, and those of the same training jobs in other sweeps."""
    return load_results(session, train_hashes=[result.run.train_hash for result in finished]) if finished else []
