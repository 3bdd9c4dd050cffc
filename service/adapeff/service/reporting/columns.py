"""The figures of a report: which columns there are, and what a finished job says in each."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from adapeff.service.reporting.runs import Result
from adapeff.service.reporting.statistics import Summary, summarise


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
    doubt: str = ""
    """What is known against it, if it is a time: something disturbed it, or it was measured beside another run."""


def choose_columns(
    group: Sequence[Result], metric: str, source: str, *, higher_is_better: bool = True
) -> tuple[Column, ...]:
    """The columns of a table of like runs.

    Args:
        metric: the task's.
        source: the language the methods were trained in.
    """
    languages = group[0].spec.measuring.test_languages or ()
    transfer = [language for language in languages if language != source]
    allocated = group[0].find("peak_memory_allocated_bytes")
    peak = "allocated" if allocated is not None and allocated.value is not None else "process"
    several = bool(group[0].spec.measuring.latency_lengths)
    return (
        Column("quality", f"{metric} {source}", "%", higher_is_better),
        *(
            (
                Column("transfer", f"mean of {len(transfer)} other", "%", higher_is_better),
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
            if any(figure(result, "train_flops", metric, source)[0] is not None for result in group)
            else ()
        ),
        Column(f"peak_memory_{peak}_bytes", f"peak memory ({peak})", "B", False),
        *(
            Column(f"latency_b{batch}{f'x{length}' if several else ''}", f"latency {batch}x{length} p50", "s", False)
            for batch in group[0].spec.measuring.latency_batches
            for length in group[0].spec.measuring.lengths
        ),
    )


def doubts(found: Iterable[Result], beside: Container[int]) -> dict[str, str]:
    """What is known against the times of a method's results: by `train` and `inference`, '' for nothing.

    Args:
        beside: ids of runs that shared their host with another.
    """
    told: dict[str, dict[str, None]] = {"train": {}, "inference": {}}
    for result in found:
        for m in result.measurements:
            if m.name == "disturbance" and m.value and m.phase in told:
                told[m.phase][m.reason or "disturbed"] = None
        if result.run.id in beside:
            for reasons in told.values():
                reasons["measured beside another run of the same host"] = None
    return {phase: "; ".join(reasons) for phase, reasons in told.items()}


def phase_of(column: Column) -> str:
    """The phase a time is of, '' where a column is no time."""
    if column.key == "price" or (column.unit == "s" and not column.key.startswith("latency")):
        return "train"
    return "inference" if column.unit == "s" else ""


_OF_A_VARIANT = ("quality", "transfer", "gap", "latency_b")


def find_variants(found: Iterable[Result], metric: str) -> list[str]:
    """The other ways of serving that were tested, in the order they were measured."""
    tested = [m.variant for result in found for m in result.measurements if m.name == metric and m.variant]
    return list(dict.fromkeys(tested))


def variant_label(variant: str) -> str:
    """`{"merged":true}` in words."""
    return ", ".join(key if value is True else f"{key} {value}" for key, value in json.loads(variant).items())


def summarise_figures(found: Iterable[Result], columns: Sequence[Column], metric: str, source: str) -> dict[str, Cell]:
    """Column -> its figure over the seeds of a method."""
    cells = {}
    ordered = sorted(found, key=lambda result: result.spec.seed)
    for column in columns:
        values, reason = [], ""
        for result in ordered:
            value, why = figure(result, column.key, metric, source)
            if value is not None:
                values.append(value)
            reason = reason or why
        cells[column.key] = Cell(summarise(values) if values else None, reason=reason)
    return cells


def figure(result: Result, key: str, metric: str, source: str) -> tuple[float | None, str]:
    """A finished job's figure, or None and why there is none."""
    if result.variant and not key.startswith(_OF_A_VARIANT):
        return None, ""  # that of the method itself
    if key == "price":
        return None, "not measured"  # made of other figures
    if key == "train_flops":
        found = replace(result, variant='{"tokens":"processed"}').find(key, phase="")
        return (found.value, found.reason) if found is not None else (None, "not measured")
    if key == "gap":
        (here, _), (there, reason) = (figure(result, name, metric, source) for name in ("quality", "transfer"))
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
