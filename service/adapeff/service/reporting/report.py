"""Summarise finished jobs: a table per model and task, a row per method, each figure compared with the reference's.

Runs share a table only if they are comparable: the same model, data, settings and hardware, and the same versions of
torch, transformers and peft. Other runs get separate tables; only comparable runs are averaged. If a job (same method
and seed) has repeats, the newest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from numpy import ndarray
from sqlalchemy.orm import Session

from adapeff.service.errors import UnknownNameError
from adapeff.service.plugins import catalog
from adapeff.service.reporting.columns import Price
from adapeff.service.reporting.decision import Decision, decide
from adapeff.service.reporting.examples import example_scores_of, tested_on
from adapeff.service.reporting.garbage import without_garbage_collection
from adapeff.service.reporting.growth import Addition, find_additions
from adapeff.service.reporting.members import task_runs_of
from adapeff.service.reporting.multitask import MixtureComparison, compare_mixtures
from adapeff.service.reporting.overview import Overview, build_overviews
from adapeff.service.reporting.profiles import ProfileTable, build_profiles
from adapeff.service.reporting.runs import (
    Result,
    RunRecord,
    find_differences,
    find_side_by_side,
    load_results,
    model_and_task,
)
from adapeff.service.reporting.selection import Selection
from adapeff.service.reporting.table import REFERENCE, Context, Table, build_table
from adapeff.service.reporting.variation import varying_keys
from adapeff.service.specs.profile import PROFILE
from adapeff.service.store import job_queries, sweeps


@dataclass(frozen=True)
class Report:
    """The tables, and the number of jobs without a result."""

    tables: tuple[Table, ...]
    overviews: tuple[Overview, ...] = ()
    profiles: tuple[ProfileTable, ...] = ()
    unfinished: dict[str, int] = field(default_factory=dict)
    """State -> number of jobs without a result."""
    decisions: tuple[Decision, ...] = ()
    """The first screen of each table, in the order of the tables."""
    runs: Mapping[int, RunRecord] = field(default_factory=dict)
    """Its runs by id."""
    mixtures: tuple[MixtureComparison, ...] = ()
    additions: tuple[Addition, ...] = ()
    apart: int = 0
    """The number of its runs that only the view `extend` shows: extensions, and mixtures made for them."""
    is_selection: bool = False
    """Whether conditions select its runs; `unfinished` counts all jobs."""

    @property
    def selects_nothing(self) -> bool:
        """Whether there are conditions, and no finished run or profile meets them."""
        return self.is_selection and not self.tables and not self.profiles and not self.apart


@dataclass(frozen=True)
class Options:
    """How a report compares."""

    allow_mixed: bool = False
    """Put all runs of a model and task into one table, with a note of the conditions that differ."""
    price: Price | None = None
    """If given, add the price of the time each run occupied its slot."""
    reference: str = REFERENCE
    """The method that the others are compared with."""
    metric: str = ""
    """The metric to compare by; '' for the headline metric of each task."""
    margin: float | None = None
    """The margin of non-inferiority, in the stored unit of the metric; None: `decision.MARGIN`."""
    selection: Selection = field(default_factory=Selection)
    """Which runs count."""


def build_report(session: Session, *, sweep_ids: Sequence[int] | None = None, options: Options | None = None) -> Report:
    """Build the report on the jobs of some submissions, or on all jobs.

    Args:
        sweep_ids: submissions whose jobs count; None: all jobs.

    Raises:
        UnknownNameError: if there is no such metric or reference.
    """
    with without_garbage_collection():
        return _build(session, sweep_ids, options or Options())


def _build(session: Session, sweep_ids: Sequence[int] | None, options: Options) -> Report:
    if options.metric and options.metric not in (known := {*catalog.metrics(), "mean_score"}):
        raise UnknownNameError("metric", options.metric, known)
    selection = options.selection
    results = load_results(session, sweep_ids=sweep_ids, narrowed=selection.narrowed)
    chosen = [result for result in results if selection.matches(result)]
    task_runs = task_runs_of(session, chosen)
    finished = [result for result in chosen if task_runs is None or not task_runs.is_for_extensions(result)]
    repeats = _with_repeats(session, finished) if sweep_ids is not None else finished
    group_key = model_and_task if options.allow_mixed else _likeness
    groups, repeats_of = _grouped(finished, group_key), _grouped(repeats, group_key)
    context = Context(
        side_by_side=find_side_by_side(chosen),
        price=options.price,
        varied=tuple(varying_keys(result.run.settings for result in finished)),
        differences=find_differences(finished),
        sweep_names=sweeps.names_of(session, [result.run.job_id for result in finished]),
        reference=options.reference,
        metric=options.metric,
    )
    tables = tuple(build_table(group, repeats_of[key], context) for key, group in groups.items())
    if not any(table.has_reference for table in tables):
        _check_reference(options.reference)
    profiles = tuple(filter(selection.matches_profile, build_profiles(session, sweep_ids=sweep_ids)))
    apart = _measured_apart(session, tables) if sweep_ids is not None else ()
    counts = job_queries.count_by_state(session, sweep_ids=sweep_ids)
    return Report(
        tables,
        build_overviews(tables),
        profiles,
        {state: count for state, count in counts.items() if state != "succeeded"},
        _decide(session, tables, finished, [*reversed(profiles), *reversed(apart)], options),
        {result.run.run_id: result.run for result in chosen},
        mixtures=compare_mixtures(task_runs) if task_runs else (),
        additions=find_additions(task_runs) if task_runs else (),
        apart=len(chosen) - len(finished),
        is_selection=selection != Selection(),
    )


def _check_reference(text: str) -> None:
    """Refuse a reference that no method can have written; a known one may only be missing from these runs."""
    name = text.partition("[")[0].partition(" ")[0]
    if name not in catalog.methods():
        raise UnknownNameError("method", name, catalog.methods())


def _measured_apart(session: Session, tables: Sequence[Table]) -> tuple[ProfileTable, ...]:
    """The profiles that `adapeff profile` made of the tables' models, in whatever sweep the runs are."""
    submissions = sweeps.ids_of_name(session, PROFILE)
    if not submissions:
        return ()
    return build_profiles(session, sweep_ids=submissions, models={table.model for table in tables})


def _decide(
    session: Session,
    tables: Sequence[Table],
    finished: Sequence[Result],
    profiles: Sequence[ProfileTable],
    options: Options,
) -> tuple[Decision, ...]:
    by_example = [result for result in finished if options.metric in ("", result.run.resolved.get("metric"))]
    scores = example_scores_of(session, by_example)
    examples = {result.run.run_id: tested_on(result) for result in finished}

    def of_run(table: Table, run_id: int) -> ndarray | None:
        """Scores of the examples that the table's first run was tested on; mixed tables may have runs on others."""
        is_alike = examples[run_id] == examples[table.rows[0].run_ids[0]]
        return scores.get((run_id, table.source_language)) if is_alike else None

    return tuple(decide(table, profiles, partial(of_run, table), margin=options.margin) for table in tables)


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
