"""The columns of a report: which figures a table has, and what a run says in each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adapeff.service.measured import Definition, Display
from adapeff.service.measurements import DISTURBANCE, LATENCY_S, TUNING_COMPUTE_S, WALL_S, report_columns
from adapeff.service.plugins import catalog
from adapeff.service.reporting.readings import Reading
from adapeff.service.reporting.runs import Result
from adapeff.service.reporting.statistics import Summary, summarise

Phase = Literal["train", "inference", ""]


@dataclass(frozen=True)
class MetricView:
    """The headline metric of a table: how it is shown, and which of two scores is the better one."""

    name: str
    source_language: str
    unit: Literal["%", ""] = "%"
    higher_is_better: bool = True

    @property
    def baseline(self) -> str:
        """What the trivial baseline of its tasks is called."""
        return "majority baseline" if self.unit == "%" else "trivial baseline"

    def shown(self, score: float) -> float:
        """A score as it is printed: a share in percent, any other value as it is."""
        return 100 * score if self.unit == "%" else score


@dataclass(frozen=True)
class Column:
    """A figure of the report, and how it is read from a run."""

    key: str
    heading: str
    unit: Display
    extract: Callable[[Result], Reading]
    time_of: Phase = ""
    """The phase a time is of, whose disturbances cast doubt on it; '' where the column is no time."""
    of_variants: bool = False
    """Whether an inference variant has a value of its own; others have that of the method itself."""

    def read(self, result: Result) -> Reading:
        """The figure of one run."""
        return self.extract(result) if self.of_variants or not result.variant else Reading(None)


@dataclass(frozen=True)
class Cell:
    """A figure of a method: its summary over seeds and its ratio to the reference, or why there is none."""

    summary: Summary | None
    ratio: float | None = None
    reason: str = ""
    doubt: str = ""
    """For a time: what disturbed it, or that it was measured next to another run."""


def choose_columns(group: Sequence[Result], metric: MetricView) -> tuple[Column, ...]:
    """The columns of a table of like runs."""
    return (*_score_columns(group, metric), *_measured_columns(group), *_latency_columns(group))


def metric_view(name: str, source_language: str, recorded: dict[str, object]) -> MetricView:
    """How to show a metric: as the run recorded it, or as its plug-in says; a share where neither is at hand."""
    plugin = catalog.metrics().get(name)
    unit = recorded.get("metric_unit", plugin.unit if plugin else "%")
    higher = recorded.get("higher_is_better", plugin.higher_is_better if plugin else True)
    return MetricView(name, source_language, "" if unit == "" else "%", bool(higher))


def _score_columns(group: Sequence[Result], metric: MetricView) -> Iterator[Column]:
    languages = group[0].spec.measuring.test_languages or ()
    others = [language for language in languages if language != metric.source_language]
    column = partial(Column, unit=metric.unit, of_variants=True)
    yield column("quality", f"{metric.name} {metric.source_language}", extract=partial(_quality, metric=metric))
    if others:
        heading = f"mean of {len(others)} other language{'s' if len(others) > 1 else ''}"
        yield column("transfer", heading, extract=partial(_transfer, metric=metric))
        yield column("gap", f"gap to {metric.source_language}", extract=partial(_gap, metric=metric))


def _quality(result: Result, *, metric: MetricView) -> Reading:
    return result.read(metric.name, split="test", language=metric.source_language)


def _transfer(result: Result, *, metric: MetricView) -> Reading:
    """The mean over the other languages."""
    scores = [
        reading.value
        for key, reading in result.run.readings.named(metric.name)
        if (key.split, key.variant) == ("test", result.variant)
        and key.language != metric.source_language
        and reading.value is not None
    ]
    return Reading(math.fsum(scores) / len(scores)) if scores else Reading(None, "no other language tested")


def _gap(result: Result, *, metric: MetricView) -> Reading:
    here, there = _quality(result, metric=metric), _transfer(result, metric=metric)
    if here.value is None or there.value is None:
        return Reading(None, there.reason)
    return Reading(here.value - there.value)


def _measured_columns(group: Sequence[Result]) -> Iterator[Column]:
    """The columns that are single measurements, as their definitions say."""
    columns = {definition.name: _measured_column(definition) for definition, _ in report_columns()}
    is_measured = {
        name: any(column.read(result).value is not None for result in group) for name, column in columns.items()
    }
    is_measured[TUNING_COMPUTE_S.name] |= any(result.spec.training.tuning for result in group)  # or should have been
    for definition, shown in report_columns():
        if shown.only_if_measured and not is_measured[definition.name]:
            continue
        if not is_measured.get(shown.instead_of, False):
            yield columns[definition.name]


def _measured_column(definition: Definition) -> Column:
    shown = definition.column
    if shown is None:
        raise ValueError(f"measurement '{definition.name}' is no column of the report")
    where = shown.where or {}

    def extract(result: Result) -> Reading:
        return result.read(definition.name, **where)

    is_time = definition.display == "s"
    return Column(
        shown.key or definition.name, shown.heading, definition.display, extract, time_of="train" if is_time else ""
    )


def _latency_columns(group: Sequence[Result]) -> Iterator[Column]:
    measuring = group[0].spec.measuring
    several = bool(measuring.latency_lengths)
    for batch in measuring.latency_batches:
        for length in measuring.lengths:
            key = f"latency_b{batch}x{length}" if several else f"latency_b{batch}"
            extract = partial(_latency, batch=batch, length=length if several else None)
            yield Column(key, f"latency {batch}x{length} p50", "s", extract, time_of="inference", of_variants=True)


def _latency(result: Result, *, batch: int, length: int | None) -> Reading:
    if length is None:
        return result.read(LATENCY_S.name, statistic="p50", batch=batch)
    return result.read(LATENCY_S.name, statistic="p50", batch=batch, length=length)


@dataclass(frozen=True)
class Price:
    """What an hour of a device costs."""

    hourly: float
    currency: str

    def column(self) -> Column:
        """The price of the time that a run had its slot: from the start of the process to its end."""
        unit = f", {self.currency}" if self.currency else ""
        return Column("price", f"price of a run{unit}", "", self._of, time_of="train")

    def _of(self, result: Result) -> Reading:
        seconds, reason = result.read(WALL_S.name)
        return Reading(None, reason) if seconds is None else Reading(seconds / 3600 * self.hourly)


def find_variants(results: Iterable[Result], metric: str) -> list[str]:
    """The inference variants that were tested, in the order they were measured."""
    tested = [key.variant for result in results for key, _ in result.run.readings.named(metric)]
    return list(dict.fromkeys(filter(None, tested)))


def variant_label(variant: str) -> str:
    """`{"merged":true}` in words."""
    return ", ".join(key if value is True else f"{key} {value}" for key, value in json.loads(variant).items())


def find_doubts(results: Iterable[Result], side_by_side: Container[int]) -> dict[str, str]:
    """What casts doubt on the times of a method's runs: by `train` and `inference`, '' for nothing.

    Args:
        side_by_side: ids of runs that shared their host with another.
    """
    doubts: dict[str, dict[str, None]] = {"train": {}, "inference": {}}
    for result in results:
        for key, reading in result.run.readings.named(DISTURBANCE.name):
            if reading.value and key.phase in doubts:
                doubts[key.phase][reading.reason or "disturbed"] = None
        if result.run.run_id in side_by_side:
            for reasons in doubts.values():
                reasons["measured next to another run on the same host"] = None
    return {phase: "; ".join(reasons) for phase, reasons in doubts.items()}


def summarise_columns(results: Iterable[Result], columns: Sequence[Column]) -> dict[str, Cell]:
    """Column -> its figure over the seeds of a method."""
    ordered = sorted(results, key=lambda result: result.spec.seed)
    cells = {}
    for column in columns:
        readings = [column.read(result) for result in ordered]
        values = [reading.value for reading in readings if reading.value is not None]
        reason = next((reading.reason for reading in readings if reading.reason), "")
        cells[column.key] = Cell(summarise(values) if values else None, reason=reason)
    return cells
