"""Sum up finished jobs: a table per model and task, a row per method, each figure beside the reference's.

Runs are put into one table only if they are alike: the same model, data, settings and hardware, the same versions of
torch, transformers and peft. Unlike runs make tables of their own; nothing unlike is averaged. Of the repeats of a job
(same method and seed) the newest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service import catalog, jobs
from adapeff.service.convergence import TargetCell, to_targets
from adapeff.service.errors import AdapeffError
from adapeff.service.figures import Cell, Column, choose_columns, find_variants, summarise_figures, variant_label
from adapeff.service.finished import (
    ALIKE,
    Result,
    comparable_settings,
    find_differences,
    find_side_by_side,
    likeness,
    load_results,
    model_and_task,
)
from adapeff.service.overview import Overview, build_overviews
from adapeff.service.profile_report import ProfileTable, build_profiles
from adapeff.service.profiles import PROFILE
from adapeff.service.references import is_task_file
from adapeff.service.reruns import Rerun, find_reruns
from adapeff.service.specs import JobSpec
from adapeff.service.statistics import Summary, summarise, within_noise

REFERENCE = "full"


@dataclass(frozen=True)
class Row:
    """A method's figures."""

    method: str
    learning_rate: float
    learning_rate_source: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]


@dataclass(frozen=True)
class LanguageCell:
    """A method's score in one language; `at_chance` if it is within noise of the best constant answer's."""

    summary: Summary
    constant: float
    at_chance: bool


@dataclass(frozen=True)
class Table:
    """Everything about one model and task on one kind of hardware."""

    model: str
    task: str
    title: str
    metric: str
    source_language: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    languages: dict[str, dict[str, LanguageCell]]
    """Language -> method -> score on the test split."""
    ceiling: float | None
    licence: str
    non_commercial: bool
    has_reference: bool
    targets: dict[str, tuple[TargetCell, ...]]
    """Method -> its way to shares of the reference's best validation score; empty without a reference."""
    disturbed: dict[str, str]
    """Row -> what is known against its times."""
    side_by_side: int
    """How many of the runs ran beside another run of the same host for some of their time."""
    runs: int
    searches: tuple[str, ...] = ()
    """The different searches for a learning rate among its runs."""
    reruns: tuple[Rerun, ...] = ()
    """Jobs that were done more than once, and how far their figures lie apart."""
    differs: tuple[str, ...] = ()
    """What differs among its runs (mixed), or between it and other tables of its model and task."""


@dataclass(frozen=True)
class Report:
    """The tables, and what is not in them."""

    tables: tuple[Table, ...]
    overviews: tuple[Overview, ...] = ()
    profiles: tuple[ProfileTable, ...] = ()
    unfinished: dict[str, int] = field(default_factory=dict)
    """State -> jobs asked for that have no result."""


def build_report(
    session: Session,
    *,
    sweep_id: int | None = None,
    allow_mixed: bool = False,
    price_per_device_hour: float | None = None,
) -> Report:
    """The report over a sweep's jobs, or over all jobs.

    Args:
        price_per_device_hour: adds the price of training's compute time, where given.
        allow_mixed: put runs of one model and task into one table whatever else differs; the table says what does.
    """
    asked = [
        job for job in jobs.list_jobs(session, sweep_id=sweep_id) if job.task != PROFILE or job.state != "succeeded"
    ]
    unfinished: dict[str, int] = {}
    for job in asked:
        if job.state != "succeeded":
            unfinished[job.state] = unfinished.get(job.state, 0) + 1
    groups: dict[tuple[Any, ...], list[Result]] = {}
    found = load_results(session, [job for job in asked if job.state == "succeeded" and job.task != PROFILE])
    key = model_and_task if allow_mixed else likeness
    for result in found:
        groups.setdefault(key(result), []).append(result)
    beside = find_side_by_side(found)
    differences = find_differences(found)
    again = _repeats(session, found) if sweep_id is not None else found
    tables = tuple(
        replace(
            _table(group, [result for result in again if key(result) == of], beside, price_per_device_hour),
            differs=differences[model_and_task(group[0])],
        )
        for of, group in groups.items()
    )
    profiles = build_profiles(session, sweep_id=sweep_id)
    return Report(tables, build_overviews(tables), profiles, unfinished)


def _priced(cells: dict[str, Cell], hourly: float | None) -> dict[str, Cell]:
    """The cells with the price of the compute seconds of training, the trials of a search included."""
    if hourly is None:
        return cells
    spent = cells["tuning_compute_s"] if "tuning_compute_s" in cells else cells["train_compute_s"]
    spent = spent if spent.summary is not None else cells["train_compute_s"]
    if spent.summary is None:
        return {**cells, "price": spent}
    return {**cells, "price": Cell(summarise([seconds / 3600 * hourly for seconds in spent.summary.values]))}


_Key = tuple[str, float, str]
"""Method, learning rate, and how that was tuned: the search as JSON, '' for none."""
_ByMethod = dict[_Key, dict[int, Result]]
"""... -> seed -> result."""


def _repeats(session: Session, found: Sequence[Result]) -> list[Result]:
    """The results, and those of the same trainings that other sweeps asked for."""
    trained = list({result.job.train_hash for result in found})
    return (
        load_results(session, jobs.list_jobs(session, train_hashes=trained, states=("succeeded",))) if trained else []
    )


def _table(group: Sequence[Result], again: Sequence[Result], beside: set[int], hourly: float | None) -> Table:
    """The table of like runs.

    Args:
        again: the runs and their repeats.
        beside: runs that shared their host with another.
        hourly: the price of a device-hour.
    """
    first = group[0].spec
    task = _find_task(first)
    told = dict(group[0].run.resolved or {})  # what the task was when it ran; runs of before say less
    metric = str(told.get("metric") or (task.metric if task else "accuracy"))
    source = str(told.get("source_language") or (task.source_language if task else "en"))
    columns = choose_columns(group, metric, source)
    if hourly is not None:
        columns += (Column("price", "price of training", "", False),)
    by_method: _ByMethod = {}
    for result in group:  # ids ascend, so the newest repeat of a seed stays
        by_method.setdefault(_key(result), {})[result.spec.seed] = result
    names = _row_names(by_method)
    base = _base(by_method, names)

    def cells_of(found: Sequence[Result]) -> dict[str, Cell]:
        return _priced(summarise_figures(found, columns, metric, source), hourly)

    return Table(
        model=str(first.model),
        task=_task_name(first),
        title=f"{task.title if task else _task_name(first)}{_learning_curve(first)}",
        metric=metric,
        source_language=source,
        settings=comparable_settings(first),
        environment={key: group[0].environment.get(key) for key in ALIKE},
        columns=columns,
        rows=tuple(_rows(by_method, names, base, cells_of, metric)),
        languages=_languages(by_method, names, metric),
        ceiling=task.ceiling() if task else None,
        licence=str(told.get("licence") or (task.licence if task else "")),
        non_commercial=bool(told.get("non_commercial", task.non_commercial if task else False)),
        has_reference=base is not None,
        targets=_targets(by_method, names, metric) if base else {},
        disturbed=_disturbed(by_method, names),
        side_by_side=sum(result.run.id in beside for result in group),
        runs=len(group),
        searches=tuple(sorted({tuning.words for r in group if (tuning := r.spec.training.tuning) is not None})),
        reruns=find_reruns([result for result in again if _key(result) in names], columns, metric, source),
    )


def _key(result: Result) -> _Key:
    training = result.spec.training
    return str(result.spec.method), training.learning_rate, training.tuning.model_dump_json() if training.tuning else ""


def _row_names(by_method: _ByMethod) -> dict[_Key, str]:
    untuned = [method for method, _, tuning in by_method if not tuning]
    several_rates = {method for method in untuned if untuned.count(method) > 1}
    searches = {tuning for _, _, tuning in by_method if tuning}
    return {key: _row_name(key, seeds, several_rates, len(searches) > 1) for key, seeds in by_method.items()}


def _base(by_method: _ByMethod, names: Mapping[_Key, str]) -> dict[int, Result] | None:
    """The reference's results: untuned if there are such; None where there are none, or several rates of it."""
    found = {key: seeds for key, seeds in by_method.items() if key[0] == REFERENCE}
    untuned = {key: seeds for key, seeds in found.items() if not key[2]}
    chosen = untuned or found
    return next(iter(chosen.values())) if len(chosen) == 1 else None


def _rows(
    by_method: _ByMethod,
    names: Mapping[_Key, str],
    base: Mapping[int, Result] | None,
    cells_of: Callable[[Sequence[Result]], dict[str, Cell]],
    metric: str,
) -> Iterator[Row]:
    """A row per method, the reference first, each with its other ways of serving below it.

    Figures stand beside the reference's, those of a tuned method beside those of the reference tuned alike, if any.
    """
    references = {key[2]: list(seeds.values()) for key, seeds in by_method.items() if key[0] == REFERENCE and key[2]}
    for key, seeds in sorted(by_method.items(), key=lambda item: (item[0][0] != REFERENCE, item[0])):
        found = list(seeds.values())
        reference = references.get(key[2], list((base or {}).values()))
        beside = cells_of(reference) if reference else {}

        def cells(served: Sequence[Result], beside: Mapping[str, Cell] = beside) -> dict[str, Cell]:
            return {name: _with_ratio(cell, beside.get(name)) for name, cell in cells_of(served).items()}

        row = Row(
            method=names[key],
            learning_rate=key[1],
            learning_rate_source=found[0].spec.learning_rate_source,
            seeds=tuple(sorted(seeds)),
            cells=cells(found),
        )
        yield row
        for variant in find_variants(found, metric):
            served = [replace(result, variant=variant) for result in found]
            yield replace(row, method=f"{row.method} ({variant_label(variant)})", cells=cells(served))


def _row_name(key: _Key, seeds: Mapping[int, Result], several_rates: Container[str], several_searches: bool) -> str:
    method, rate, _ = key
    tuning = next(iter(seeds.values())).spec.training.tuning
    if tuning is not None:
        return f"{method} (tuned, {tuning.words if several_searches else f'{tuning.trials} trials'})"
    return f"{method} lr {rate:g}" if method in several_rates else method


def _targets(by_method: _ByMethod, names: Mapping[_Key, str], metric: str) -> dict[str, tuple[TargetCell, ...]]:
    runs = {names[key]: [result.curves for result in seeds.values()] for key, seeds in by_method.items()}
    return to_targets(runs, reference=REFERENCE, metric=metric)


def _disturbed(by_method: _ByMethod, names: Mapping[_Key, str]) -> dict[str, str]:
    found = {}
    for key, seeds in by_method.items():
        told = {
            f"{m.phase}: {m.reason}": None
            for result in seeds.values()
            for m in result.measurements
            if m.name == "disturbance" and m.value
        }
        if told:
            found[names[key]] = "; ".join(told)
    return found


def _task_name(spec: JobSpec) -> str:
    """A task as it is written; one described by a file by its folder."""
    if not is_task_file(spec.task.name):
        return str(spec.task)
    path = PurePath(spec.task.name)
    return path.parent.name if path.name == "task.yaml" else path.stem


def _learning_curve(spec: JobSpec) -> str:
    size = spec.training.train_size
    return f", {size:,} training examples" if size else ""


def _find_task(spec: JobSpec) -> Any:
    """The task as it is registered here; None where its plug-in is not installed (a report must not need it)."""
    try:
        return catalog.get_task(spec.task.name, spec.task.parameters)
    except AdapeffError:
        return None


def _with_ratio(cell: Cell, base: Cell | None) -> Cell:
    if cell.summary is None or base is None or base.summary is None or base.summary.mean <= 0:
        return cell
    return Cell(cell.summary, cell.summary.mean / base.summary.mean, cell.reason)


def _languages(by_method: _ByMethod, names: dict[_Key, str], metric: str) -> dict[str, dict[str, LanguageCell]]:
    found: dict[str, dict[str, LanguageCell]] = {}
    for key, seeds in sorted(by_method.items(), key=lambda item: (item[0][0] != REFERENCE, item[0])):
        ordered = sorted(seeds.values(), key=lambda result: result.spec.seed)
        for language in ordered[0].spec.measuring.test_languages or ():
            where = {"split": "test", "language": language}
            scores = [m.value for result in ordered if (m := result.find(metric, **where)) and m.value is not None]
            constant = ordered[0].find(f"majority_{metric}", **where)
            examples = ordered[0].find("examples", **where)
            if not scores or constant is None or examples is None or constant.value is None or not examples.value:
                continue
            noise = ordered[0].find(f"noise_{metric}", **where)
            for variant in ("", *find_variants(ordered, metric)):
                name = f"{names[key]} ({variant_label(variant)})" if variant else names[key]
                served = [replace(result, variant=variant) for result in ordered]
                scores = [m.value for result in served if (m := result.find(metric, **where)) and m.value is not None]
                summary = summarise(scores)
                if noise is not None and noise.value is not None:
                    at_chance = summary.mean - constant.value <= noise.value
                else:  # a run before the noise was measured: accuracies, whose noise is known
                    at_chance = within_noise(summary.mean, constant.value, int(examples.value))
                found.setdefault(language, {})[name] = LanguageCell(summary, constant.value, at_chance)
    return found
