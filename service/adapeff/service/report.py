"""Sum up finished jobs: a table per model and task, a row per method, each figure beside the reference's.

Runs are put into one table only if they are alike: the same model, data, settings and hardware, the same versions of
torch, transformers and peft. Unlike runs make tables of their own; nothing unlike is averaged. Of the repeats of a job
(same method and seed) the newest counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service import catalog, jobs, results
from adapeff.service.convergence import CURVES, Curves, TargetCell, to_targets
from adapeff.service.errors import AdapeffError
from adapeff.service.models import Job, Measurement, Run
from adapeff.service.overview import Overview, build_overviews, overview_rows
from adapeff.service.profile_report import ProfileTable, build_profiles
from adapeff.service.profiles import PROFILE
from adapeff.service.references import is_task_file
from adapeff.service.specs import JobSpec
from adapeff.service.statistics import Summary, summarise, within_noise

REFERENCE = "full"
_ALIKE = (
    *("device_name", "device_type", "precision", "driver", "cuda", "cpu_capability", "torch_threads", "cpu_affinity"),
    *("adapeff", "git_revision", "git_dirty", "python", "torch", "transformers", "peft"),
)


@dataclass(frozen=True)
class Column:
    """A figure of the report: its key, heading, unit, and whether more is better (None: neither)."""

    key: str
    heading: str
    unit: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Cell:
    """A figure of a method: its summary over seeds and its ratio to the reference, or why there is none."""

    summary: Summary | None
    ratio: float | None = None
    reason: str = ""


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


@dataclass(frozen=True)
class _Result:
    job: Job
    run: Run
    spec: JobSpec
    measurements: list[Measurement]
    environment: dict[str, Any]
    curves: Curves = field(default_factory=dict)
    variant: str = ""
    """The way of serving that is looked at; '' is the model as it was trained."""

    def find(self, name: str, **where: Any) -> Measurement | None:
        where["variant"] = self.variant
        for found in self.measurements:
            if found.name == name and all(getattr(found, key) == value for key, value in where.items()):
                return found
        return None


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
    groups: dict[tuple[Any, ...], list[_Result]] = {}
    found = _results(session, [job for job in asked if job.state == "succeeded" and job.task != PROFILE])
    for result in found:
        groups.setdefault(_cell(result) if allow_mixed else _likeness(result), []).append(result)
    beside = _side_by_side(found)
    differences = _differences(found)
    tables = tuple(
        replace(_table(group, beside, price_per_device_hour), differs=differences[_cell(group[0])])
        for group in groups.values()
    )
    profiles = build_profiles(session, sweep_id=sweep_id)
    return Report(tables, build_overviews(tables), profiles, unfinished)


def _results(session: Session, succeeded: Sequence[Job]) -> list[_Result]:
    runs = jobs.list_runs(session, [job.id for job in succeeded])
    counted = {job.id: run for job in succeeded for run in runs[job.id] if run.outcome == "succeeded"}
    measured = results.list_measurements(session, [run.id for run in counted.values()])
    names = {m.name for found in measured.values() for m in found if m.split == "validation"}
    curves = results.list_curves_of(
        session, [run.id for run in counted.values()], [*CURVES, *(f"validation_{name}" for name in names)]
    )
    environments = results.list_environments(session, [r.environment_id for r in counted.values() if r.environment_id])
    return [
        _Result(
            job,
            run,
            JobSpec.model_validate(job.spec),
            measured[run.id],
            environments.get(run.environment_id or 0, {}),
            curves[run.id],
        )
        for job in succeeded
        if (run := counted.get(job.id)) is not None
    ]


def _settings(spec: JobSpec) -> dict[str, Any]:
    apart = {"learning_rate", "device", "tuning"}
    training = spec.training.model_dump(mode="json", exclude_defaults=True, exclude=apart)
    measuring = spec.measuring.model_dump(mode="json", include={"latency_length", "latency_batches"})
    if spec.measuring.latency_lengths:
        measuring["latency_length"] = list(spec.measuring.latency_lengths)
    return {**training, **measuring}


def _likeness(result: _Result) -> tuple[Any, ...]:
    spec = result.spec
    return (
        spec.model.identity,
        str(spec.task),
        spec.data.fingerprint or spec.data.revision,
        spec.data.test_fingerprint,
        tuple(sorted((result.run.resolved or {}).items())),
        repr(sorted(_settings(spec).items())),
        tuple(result.environment.get(key) for key in _ALIKE),
    )


def _facts(result: _Result) -> dict[str, str]:
    """What runs must have in common to be compared, in words."""
    spec = result.spec
    facts: dict[str, Any] = {
        "data": spec.data.fingerprint or spec.data.revision,
        "test data": spec.data.test_fingerprint,
        **(result.run.resolved or {}),
        **_settings(spec),
        **{key: result.environment.get(key) for key in _ALIKE},
    }
    return {key: str(value)[:40] for key, value in facts.items()}


def _differences(found: Sequence[_Result]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(model, task) -> the facts in which its runs differ, with their values."""
    seen: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for result in found:
        cell = seen.setdefault(_cell(result), {})
        for key, value in _facts(result).items():
            cell.setdefault(key, {})[value] = None
    return {
        cell: tuple(f"{key}: {' / '.join(values)}" for key, values in facts.items() if len(values) > 1)
        for cell, facts in seen.items()
    }


def _priced(cells: dict[str, Cell], hourly: float | None) -> dict[str, Cell]:
    """The cells with the price of the compute seconds of training, the trials of a search included."""
    if hourly is None:
        return cells
    spent = cells["tuning_compute_s"] if "tuning_compute_s" in cells else cells["train_compute_s"]
    spent = spent if spent.summary is not None else cells["train_compute_s"]
    if spent.summary is None:
        return {**cells, "price": spent}
    return {**cells, "price": Cell(summarise([seconds / 3600 * hourly for seconds in spent.summary.values]))}


def _cell(result: _Result) -> tuple[str, str]:
    return result.spec.model.identity, str(result.spec.task)


def _side_by_side(found: Sequence[_Result]) -> set[int]:
    """The ids of runs that shared their host with another of the given runs for some of their time."""
    shared: set[int] = set()
    by_host: dict[str, list[Run]] = {}
    for result in found:
        host = result.run.worker.rsplit("-", 2)[0]
        by_host.setdefault(host, []).append(result.run)
    for runs in by_host.values():
        ordered = sorted(runs, key=lambda run: run.started_at)
        latest = ordered[0]
        for run in ordered[1:]:
            if latest.finished_at is not None and run.started_at < latest.finished_at:
                shared |= {latest.id, run.id}
            if run.finished_at is not None and latest.finished_at is not None and run.finished_at > latest.finished_at:
                latest = run
    return shared


def _table(group: list[_Result], beside: set[int], hourly: float | None) -> Table:
    first = group[0].spec
    task = _find_task(first)
    told = dict(group[0].run.resolved or {})  # what the task was when it ran; runs of before say less
    metric = str(told.get("metric") or (task.metric if task else "accuracy"))
    source = str(told.get("source_language") or (task.source_language if task else "en"))
    columns = _columns(group, metric, source)
    if hourly is not None:
        columns += (Column("price", "price of training", "", False),)
    by_method: _ByMethod = {}
    for result in group:  # ids ascend, so the newest repeat of a seed stays
        training = result.spec.training
        key = (str(result.spec.method), training.learning_rate, training.tuning is not None)
        by_method.setdefault(key, {})[result.spec.seed] = result
    untuned = [method for method, _, tuned in by_method if not tuned]
    several_rates = {method for method in untuned if untuned.count(method) > 1}
    names = {key: _row_name(key, seeds, several_rates) for key, seeds in by_method.items()}
    only_tuned = not untuned
    reference = next(
        (results for (method, _, tuned), results in by_method.items() if method == REFERENCE and tuned == only_tuned),
        None,
    )
    has_reference = reference is not None and REFERENCE not in several_rates
    base = _summaries(reference.values(), columns, metric, source) if reference and has_reference else {}
    if hourly is not None:
        base = _priced(base, hourly)
    rows = []
    for key, seeds in sorted(by_method.items(), key=lambda item: (item[0][0] != REFERENCE, item[0])):
        cells = _priced(_summaries(seeds.values(), columns, metric, source), hourly)
        any_result = next(iter(seeds.values())).spec
        rows.append(
            Row(
                method=names[key],
                learning_rate=key[1],
                learning_rate_source=any_result.learning_rate_source,
                seeds=tuple(sorted(seeds)),
                cells={name: _with_ratio(cell, base.get(name)) for name, cell in cells.items()},
            )
        )
        for variant in _variants(seeds.values(), metric):
            served = [replace(result, variant=variant) for result in seeds.values()]
            cells = _summaries(served, columns, metric, source)
            cells = {name: _with_ratio(cell, base.get(name)) for name, cell in cells.items()}
            rows.append(replace(rows[-1], method=f"{names[key]} ({_label(variant)})", cells=cells))
    return Table(
        model=str(first.model),
        task=_task_name(first),
        title=f"{task.title if task else _task_name(first)}{_learning_curve(first)}",
        metric=metric,
        source_language=source,
        settings=_settings(first),
        environment={key: group[0].environment.get(key) for key in _ALIKE},
        columns=columns,
        rows=tuple(rows),
        languages=_languages(by_method, names, metric),
        ceiling=task.ceiling() if task else None,
        licence=str(told.get("licence") or (task.licence if task else "")),
        non_commercial=bool(told.get("non_commercial", task.non_commercial if task else False)),
        has_reference=has_reference,
        targets=_targets(by_method, names, metric) if has_reference else {},
        disturbed=_disturbed(by_method, names),
        side_by_side=sum(result.run.id in beside for result in group),
        runs=len(group),
    )


_ByMethod = dict[tuple[str, float, bool], dict[int, _Result]]
"""(method, learning rate, whether it was tuned) -> seed -> result."""


def _row_name(key: tuple[str, float, bool], seeds: Mapping[int, _Result], several_rates: Container[str]) -> str:
    method, rate, tuned = key
    if tuned:
        tuning = next(iter(seeds.values())).spec.training.tuning
        return f"{method} (tuned, {tuning.trials if tuning else 0} trials)"
    return f"{method} lr {rate:g}" if method in several_rates else method


def _targets(
    by_method: _ByMethod, names: Mapping[tuple[str, float, bool], str], metric: str
) -> dict[str, tuple[TargetCell, ...]]:
    runs = {names[key]: [result.curves for result in seeds.values()] for key, seeds in by_method.items()}
    return to_targets(runs, reference=REFERENCE, metric=metric)


def _disturbed(by_method: _ByMethod, names: Mapping[tuple[str, float, bool], str]) -> dict[str, str]:
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


def _columns(group: list[_Result], metric: str, source: str) -> tuple[Column, ...]:
    languages = group[0].spec.measuring.test_languages or ()
    transfer = [language for language in languages if language != source]
    allocated = group[0].find("peak_memory_allocated_bytes")
    peak = "allocated" if allocated is not None and allocated.value is not None else "process"
    several = bool(group[0].spec.measuring.latency_lengths)
    return (
        Column("quality", f"{metric} {source}", "%", True),
        *(
            (
                Column("transfer", f"mean of {len(transfer)} other", "%", True),
                Column("gap", f"gap to {source}", "%", False),
            )
            if transfer
            else ()
        ),
        Column("parameters_method", "trained: method", "params", None),
        Column("parameters_head", "trained: head", "params", None),
        Column("stored_bytes", "stored per task", "B", False),
        Column("train_compute_s", "train compute", "s", False),
        *(
            (Column("tuning_compute_s", "tuning compute", "s", False),)
            if any(result.spec.training.tuning for result in group)
            else ()
        ),
        *(
            (Column("train_flops", "train FLOPs", "FLOPs", False),)
            if any(_figure(result, "train_flops", metric, source)[0] is not None for result in group)
            else ()
        ),
        Column(f"peak_memory_{peak}_bytes", f"peak memory ({peak})", "B", False),
        *(
            Column(f"latency_b{batch}{f'x{length}' if several else ''}", f"latency {batch}x{length} p50", "s", False)
            for batch in group[0].spec.measuring.latency_batches
            for length in group[0].spec.measuring.lengths
        ),
    )


_OF_A_VARIANT = ("quality", "transfer", "gap", "latency_b")


def _variants(found: Iterable[_Result], metric: str) -> list[str]:
    """The other ways of serving that were tested, in the order they were measured."""
    tested = [m.variant for result in found for m in result.measurements if m.name == metric and m.variant]
    return list(dict.fromkeys(tested))


def _label(variant: str) -> str:
    """`{"merged":true}` in words."""
    return ", ".join(key if value is True else f"{key} {value}" for key, value in json.loads(variant).items())


def _summaries(found: Iterable[_Result], columns: Sequence[Column], metric: str, source: str) -> dict[str, Cell]:
    cells = {}
    ordered = sorted(found, key=lambda result: result.spec.seed)
    for column in columns:
        values, reason = [], ""
        for result in ordered:
            value, why = _figure(result, column.key, metric, source)
            if value is not None:
                values.append(value)
            reason = reason or why
        cells[column.key] = Cell(summarise(values) if values else None, reason=reason)
    return cells


def _figure(result: _Result, key: str, metric: str, source: str) -> tuple[float | None, str]:
    if result.variant and not key.startswith(_OF_A_VARIANT):
        return None, ""  # that of the method itself
    if key == "price":
        return None, "not measured"  # made of other figures
    if key == "train_flops":
        found = replace(result, variant='{"tokens":"processed"}').find(key, phase="")
        return (found.value, found.reason) if found is not None else (None, "not measured")
    if key == "gap":
        (here, _), (there, reason) = (_figure(result, name, metric, source) for name in ("quality", "transfer"))
        return (here - there, "") if here is not None and there is not None else (None, reason)
    if key == "transfer":
        scores = [
            m.value
            for m in result.measurements
            if (m.name, m.split, m.variant) == (metric, "test", result.variant)
            and m.language != source
            and m.value is not None
        ]
        return (math.fsum(scores) / len(scores), "") if scores else (None, "no other language tested")
    if key == "quality":
        found = result.find(metric, split="test", language=source)
    elif key.startswith("latency_b"):
        found = result.find("latency_s", statistic="p50", **_shape(key))
    else:
        names = {
            "parameters_method": "trainable_parameters_method",
            "parameters_head": "trainable_parameters_head",
        }
        found = result.find(names.get(key, key), **({"dtype": ""} if key == "stored_bytes" else {}))
    return (found.value, found.reason) if found is not None else (None, "not measured")


def _shape(key: str) -> dict[str, int]:
    batch, _, length = key.removeprefix("latency_b").partition("x")
    return {"batch": int(batch), **({"length": int(length)} if length else {})}


def _with_ratio(cell: Cell, base: Cell | None) -> Cell:
    if cell.summary is None or base is None or base.summary is None or base.summary.mean <= 0:
        return cell
    return Cell(cell.summary, cell.summary.mean / base.summary.mean, cell.reason)


def _languages(
    by_method: _ByMethod, names: dict[tuple[str, float, bool], str], metric: str
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
            for variant in ("", *_variants(ordered, metric)):
                name = f"{names[key]} ({_label(variant)})" if variant else names[key]
                served = [replace(result, variant=variant) for result in ordered]
                scores = [m.value for result in served if (m := result.find(metric, **where)) and m.value is not None]
                summary = summarise(scores)
                if noise is not None and noise.value is not None:
                    at_chance = summary.mean - constant.value <= noise.value
                else:  # a run before the noise was measured: accuracies, whose noise is known
                    at_chance = within_noise(summary.mean, constant.value, int(examples.value))
                found.setdefault(language, {})[name] = LanguageCell(summary, constant.value, at_chance)
    return found


def report_rows(report: Report) -> list[dict[str, Any]]:
    """The report in long form, one dictionary per figure: what `--format json` and `csv` hold."""
    rows: list[dict[str, Any]] = []
    for table in report.tables:
        for row in table.rows:
            common = {
                "model": table.model,
                "task": table.task,
                "device": table.environment.get("device_name"),
                "method": row.method,
                "learning_rate": row.learning_rate,
                "learning_rate_source": row.learning_rate_source,
            }
            for column in table.columns:
                cell = row.cells[column.key]
                language = table.source_language if column.key == "quality" else ""
                rows.append(
                    {
                        **common,
                        "figure": column.key,
                        "language": language,
                        "unit": "1" if column.unit in ("%", "params", "FLOPs") else column.unit,
                        **_flat(cell.summary),
                        "ratio_to_reference": cell.ratio,
                        "at_chance": _at_chance(table, row.method) if column.key == "quality" else None,
                        "reason": cell.reason,
                    }
                )
            for language, methods in table.languages.items():
                if language != table.source_language and row.method in methods:
                    cell_there = methods[row.method]
                    rows.append(
                        {
                            **common,
                            "figure": "quality",
                            "language": language,
                            "unit": "1",
                            **_flat(cell_there.summary),
                            "ratio_to_reference": None,
                            "at_chance": cell_there.at_chance,
                            "reason": "",
                        }
                    )
    for average in overview_rows(report.overviews):
        summary = average.pop("summary")
        empty = {"device": None, "learning_rate": None, "learning_rate_source": "", "ratio_to_reference": None}
        rows.append(
            {**average, **empty, "figure": "average", "unit": "1", **_flat(summary), "at_chance": None, "reason": ""}
        )
    return rows


def _at_chance(table: Table, method: str) -> bool | None:
    cell = table.languages.get(table.source_language, {}).get(method)
    return cell.at_chance if cell is not None else None


def _flat(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"n": 0, "mean": None, "low": None, "high": None, "values": []}
    return {
        "n": summary.n,
        "mean": summary.mean,
        "low": summary.low,
        "high": summary.high,
        "values": list(summary.values),
    }
