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

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import PluginReference, is_task_file
from adapeff.service.reporting.columns import (
    Cell,
    Column,
    choose_columns,
    doubts,
    find_variants,
    phase_of,
    summarise_figures,
    variant_label,
)
from adapeff.service.reporting.convergence import TargetCell, to_targets
from adapeff.service.reporting.overview import Overview, build_overviews
from adapeff.service.reporting.profiles import ProfileTable, build_profiles
from adapeff.service.reporting.reruns import Rerun, find_reruns
from adapeff.service.reporting.runs import (
    ALIKE,
    Result,
    comparable_settings,
    find_differences,
    find_side_by_side,
    likeness,
    load_results,
    model_and_task,
)
from adapeff.service.reporting.statistics import Summary, summarise, within_noise
from adapeff.service.reporting.variation import in_words, settings_of, varied_settings
from adapeff.service.specs.job import JobSpec
from adapeff.service.store import job_queries, sweeps

REFERENCE = "full"


@dataclass(frozen=True)
class Row:
    """A method's figures."""

    method: str
    learning_rate: float
    learning_rate_source: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    plugin: PluginReference
    """The method's name and parameters."""
    repeats: tuple[int, ...] = (0,)
    """Which repeat of each seed's job it is."""

    @property
    def train_time_is_doubtful(self) -> bool:
        """Whether something is known against the time of training."""
        return bool(self.cells["train_compute_s"].doubt)


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
    varied: dict[str, Any] = field(default_factory=dict)
    """The settings in which the report's tables differ, as they are in this one."""
    sweeps: tuple[str, ...] = ()
    """Names of the sweeps that asked for its runs."""
    untested: str = ""
    """Languages of the task that the data at hand do not have."""
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
    sweep_ids: Sequence[int] | None = None,
    allow_mixed: bool = False,
    price_per_device_hour: float | None = None,
    currency: str = "",
) -> Report:
    """The report over the jobs of some submissions, or over all jobs.

    Args:
        sweep_ids: submissions whose jobs count; None: all jobs.
        price_per_device_hour: adds the price of a run's time in its slot, where given; `currency` is its unit.
        allow_mixed: put runs of one model and task into one table whatever else differs; the table says what does.
    """
    asked = [
        job
        for job in job_queries.list_jobs(session, sweep_ids=sweep_ids)
        if job.kind == "train" or job.state != "succeeded"
    ]
    unfinished: dict[str, int] = {}
    for job in asked:
        if job.state != "succeeded":
            unfinished[job.state] = unfinished.get(job.state, 0) + 1
    groups: dict[tuple[Any, ...], list[Result]] = {}
    found = load_results(session, [job for job in asked if job.state == "succeeded"])
    key = model_and_task if allow_mixed else likeness
    for result in found:
        groups.setdefault(key(result), []).append(result)
    beside = find_side_by_side(found)
    differences = find_differences(found)
    again = _repeats(session, found) if sweep_ids is not None else found
    varied = varied_settings(result.job.spec for result in found)
    named = sweeps.names_of(session, [result.job.id for result in found])
    price = None if price_per_device_hour is None else Price(price_per_device_hour, currency)
    tables = tuple(
        replace(
            _table(group, [result for result in again if key(result) == of], beside, price, varied),
            differs=differences[model_and_task(group[0])],
            sweeps=tuple(sorted({name for result in group for name in named[result.job.id]})),
        )
        for of, group in groups.items()
    )
    profiles = build_profiles(session, sweep_ids=sweep_ids)
    return Report(tables, build_overviews(tables), profiles, unfinished)


@dataclass(frozen=True)
class Price:
    """What an hour of a device costs."""

    hourly: float
    currency: str


def _priced(cells: dict[str, Cell], found: Sequence[Result], price: Price | None) -> dict[str, Cell]:
    """The cells with the price of the time that the runs had their slot: from the start of the process to its end."""
    if price is None:
        return cells
    times = [m.value for result in found if (m := result.find("wall_s")) is not None and m.value is not None]
    if not times:
        return {**cells, "price": Cell(None, reason="not measured")}
    return {**cells, "price": Cell(summarise([seconds / 3600 * price.hourly for seconds in times]))}


_Key = tuple[str, float, str, str]
"""Method, learning rate, how that was tuned (the search as JSON, '' for none), and settings that others do not have."""
_ByMethod = dict[_Key, dict[int, Result]]
"""... -> seed -> result."""


def _repeats(session: Session, found: Sequence[Result]) -> list[Result]:
    """The results, and those of the same trainings that other sweeps asked for."""
    trained = list({result.job.train_hash for result in found})
    return (
        load_results(session, job_queries.list_jobs(session, train_hashes=trained, states=("succeeded",)))
        if trained
        else []
    )


def _table(
    group: Sequence[Result], again: Sequence[Result], beside: set[int], price: Price | None, varied: Sequence[str]
) -> Table:
    """The table of like runs.

    Args:
        again: the runs and their repeats.
        beside: runs that shared their host with another.
        price: of a device-hour.
        varied: settings in which the report's jobs differ.
    """
    first = group[0].spec
    task = _find_task(first)
    told = dict(group[0].run.resolved or {})  # what the task was when it ran; runs of before say less
    metric = str(told.get("metric") or (task.metric if task else "accuracy"))
    source = str(told.get("source_language") or (task.source_language if task else "en"))
    better = higher_is_better(metric)
    columns = choose_columns(group, metric, source, higher_is_better=better)
    if price is not None:
        columns += (Column("price", f"price of a run{f', {price.currency}' if price.currency else ''}", "", False),)
    apart = varied_settings(result.job.spec for result in group)
    by_method: _ByMethod = {}
    for result in group:  # ids ascend, so the newest repeat of a seed stays
        by_method.setdefault(_key(result, apart), {})[result.spec.seed] = result
    names = _row_names(by_method)
    base = _base(by_method, names)

    def cells_of(found: Sequence[Result]) -> dict[str, Cell]:
        cells = _priced(summarise_figures(found, columns, metric, source), found, price)
        against = {"": "", **doubts(found, beside)}
        return {c.key: replace(cells[c.key], doubt=against[phase_of(c)]) for c in columns}

    return Table(
        model=str(first.model),
        task=_task_name(first),
        title=f"{task.title if task else _task_name(first)}{_learning_curve(first, varied)}",
        metric=metric,
        source_language=source,
        settings=comparable_settings(first),
        environment={key: group[0].environment.get(key) for key in ALIKE},
        columns=columns,
        rows=tuple(_rows(by_method, names, base, cells_of, metric, columns)),
        languages=_languages(by_method, names, metric, better=better),
        ceiling=task.ceiling() if task else None,
        licence=str(told.get("licence") or (task.licence if task else "")),
        non_commercial=bool(told.get("non_commercial", task.non_commercial if task else False)),
        has_reference=base is not None,
        targets=_targets(by_method, names, metric, better=better) if base else {},
        disturbed=_disturbed(by_method, names),
        side_by_side=sum(result.run.id in beside for result in group),
        runs=len(group),
        searches=tuple(sorted({tuning.words for r in group if (tuning := r.spec.training.tuning) is not None})),
        varied={key: value for key, value in settings_of(group[0].job.spec).items() if key in varied},
        untested=str(told.get("untested", "")),
        reruns=find_reruns([result for result in again if _key(result, apart) in names], columns, metric, source),
    )


def higher_is_better(metric: str) -> bool:
    """Which of two scores is the better one; the higher where the metric's plug-in is not installed."""
    found = catalog.metrics().get(metric)
    return found is None or found.higher_is_better


def _key(result: Result, apart: Sequence[str]) -> _Key:
    """What a row is of.

    Args:
        apart: settings in which the runs of the table differ.
    """
    training = result.spec.training
    tuning = training.tuning.model_dump_json() if training.tuning else ""
    settings = {key: value for key, value in settings_of(result.job.spec).items() if key in apart and key != "device"}
    return str(result.spec.method), training.learning_rate, tuning, in_words(settings)


def _row_names(by_method: _ByMethod) -> dict[_Key, str]:
    untuned = [(method, apart) for method, _, tuning, apart in by_method if not tuning]
    several_rates = {method for method, apart in untuned if untuned.count((method, apart)) > 1}
    searches = {tuning for _, _, tuning, _ in by_method if tuning}
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
    columns: Sequence[Column],
) -> Iterator[Row]:
    """A row per method, the reference first, each with its other ways of serving below it.

    Figures stand beside the reference's, those of a tuned method beside those of the reference tuned alike, if any.
    """
    timed = {column.key for column in columns if phase_of(column)}
    references = {key[2]: list(seeds.values()) for key, seeds in by_method.items() if key[0] == REFERENCE and key[2]}
    for key, seeds in sorted(by_method.items(), key=lambda item: (item[0][0] != REFERENCE, item[0])):
        found = list(seeds.values())
        reference = references.get(key[2], list((base or {}).values()))
        beside = cells_of(reference) if reference else {}

        def cells(served: Sequence[Result], beside: Mapping[str, Cell] = beside) -> dict[str, Cell]:
            return {
                name: _with_ratio(cell, beside.get(name), is_time=name in timed)
                for name, cell in cells_of(served).items()
            }

        row = Row(
            method=names[key],
            learning_rate=key[1],
            learning_rate_source=found[0].spec.learning_rate_source,
            seeds=tuple(sorted(seeds)),
            cells=cells(found),
            plugin=found[0].spec.method,
            repeats=tuple(seeds[seed].spec.repeat for seed in sorted(seeds)),
        )
        yield row
        for variant in find_variants(found, metric):
            served = [replace(result, variant=variant) for result in found]
            yield replace(row, method=f"{row.method} ({variant_label(variant)})", cells=cells(served))


def _row_name(key: _Key, seeds: Mapping[int, Result], several_rates: Container[str], several_searches: bool) -> str:
    method, rate, _, apart = key
    settings = f" ({apart})" if apart else ""
    tuning = next(iter(seeds.values())).spec.training.tuning
    if tuning is not None:
        return f"{method} (tuned, {tuning.words if several_searches else f'{tuning.trials} trials'}){settings}"
    return f"{method} lr {rate:g}{settings}" if method in several_rates else f"{method}{settings}"


def _targets(
    by_method: _ByMethod, names: Mapping[_Key, str], metric: str, *, better: bool
) -> dict[str, tuple[TargetCell, ...]]:
    runs = {names[key]: [result.curves for result in seeds.values()] for key, seeds in by_method.items()}
    return to_targets(runs, reference=REFERENCE, metric=metric, higher_is_better=better)


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


def _learning_curve(spec: JobSpec, varied: Sequence[str]) -> str:
    """What tells a table's title from those of others of its task."""
    size = spec.training.train_size
    count = f", {size:,} training examples" if isinstance(size, int) else f", {size} training examples" if size else ""
    stored = settings_of(spec.model_dump(mode="json"))
    others = {key: stored[key] for key in varied if key in stored and key not in ("train_size", "device")}
    return f"{count}{f', {in_words(others)}' if others else ''}"


def _find_task(spec: JobSpec) -> Any:
    """The task as it is registered here; None where its plug-in is not installed (a report must not need it)."""
    try:
        return catalog.get_task(spec.task.name, spec.task.parameters)
    except AdapeffError:
        return None


def _with_ratio(cell: Cell, base: Cell | None, *, is_time: bool) -> Cell:
    """A cell with its ratio to the reference's; none of times that something is known against on either side."""
    if cell.summary is None or base is None or base.summary is None or base.summary.mean <= 0:
        return cell
    if is_time and (cell.doubt or base.doubt):
        return cell
    return replace(cell, ratio=cell.summary.mean / base.summary.mean)


def _languages(
    by_method: _ByMethod, names: dict[_Key, str], metric: str, *, better: bool
) -> dict[str, dict[str, LanguageCell]]:
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
                above = summary.mean - constant.value if better else constant.value - summary.mean
                if noise is not None and noise.value is not None:
                    at_chance = above <= noise.value
                else:  # a run before the noise was measured: accuracies, whose noise is known
                    at_chance = within_noise(summary.mean, constant.value, int(examples.value))
                found.setdefault(language, {})[name] = LanguageCell(summary, constant.value, at_chance)
    return found
