"""What a method costs next to the reference: paired ratios from profiles, counted ones, and absolute figures.

Speeds of a machine drift by more than methods differ, so a ratio of times is only stated if a profile measured both
methods interleaved in one process, on the same model, hardware and precision. All other times stand alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapeff.service.measured import Display
from adapeff.service.measurements import (
    PEAK_MEMORY_ALLOCATED,
    PEAK_MEMORY_PROCESS,
    STORED_BYTES,
    TRAIN_COMPUTE_S,
    TRAIN_FLOPS,
)
from adapeff.service.reporting.profiles import Figure, ProfileTable
from adapeff.service.reporting.relative import relative_to
from adapeff.service.reporting.table import Row, Table
from adapeff.service.specs.job import Training

Basis = Literal["paired", "counted", "unpaired", "none"]
CostName = Literal["train", "flops", "latency", "memory", "stored", "energy"]

_SAME_HARDWARE = ("device_name", "device_type", "precision", "torch_threads", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Cost:
    """A cost of one method.

    `value` is the absolute figure of its own runs (mean over seeds; seconds, bytes or FLOPs). `ratio` is relative to
    the reference, with its 95 % interval if it was measured in pairs; None where a ratio would not be a fact.
    """

    display: Display
    value: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    basis: Basis = "none"
    shape: str = ""
    """Batch x tokens of the figure, such as 32x64; '' where it has none."""
    doubt: str = ""
    """Why the absolute time is doubtful."""
    reason: str = ""
    """Why there is no figure."""

    @property
    def is_lower(self) -> bool:
        """Whether the cost is lower than the reference's beyond doubt."""
        return self._certain and (self.high if self.high is not None else self.ratio or 1.0) < 1.0

    @property
    def is_higher(self) -> bool:
        """Whether the cost is higher than the reference's beyond doubt."""
        return self._certain and (self.low if self.low is not None else self.ratio or 1.0) > 1.0

    @property
    def _certain(self) -> bool:
        return self.ratio is not None and self.basis in ("paired", "counted")


@dataclass(frozen=True)
class Pairing:
    """The profile whose ratios a table uses."""

    profile: ProfileTable
    step_shape: str
    latency_shapes: tuple[str, ...]


def fitting_profiles(table: Table, profiles: Sequence[ProfileTable]) -> tuple[ProfileTable, ...]:
    """The profiles of the table's model and hardware, each once, relative to the table's reference."""
    fitting = {profile.job_id: profile for profile in profiles if _fits(table, profile)}
    relative = (relative_to(profile, table.reference) for profile in fitting.values())
    return tuple(profile for profile in relative if profile is not None)


def find_pairing(table: Table, fitting: Sequence[ProfileTable]) -> Pairing | None:
    """The profile that has the most of the table's methods, at least two, at a batch close to the training's.

    A method can be cheaper than the reference at one shape and dearer at another. Of several, the first.

    Args:
        fitting: as `fitting_profiles` gives them.
    """
    names = {str(row.plugin) for row in table.rows}
    trained_with = table.settings.get("batch_size", Training.model_fields["batch_size"].default)

    def covered(profile: ProfileTable) -> int:
        return len(names & {row.label for row in profile.training})

    def fit(profile: ProfileTable) -> tuple[int, float]:
        return covered(profile), -abs(math.log(profile.settings["batch"] / trained_with))

    profile = max(fitting, key=fit, default=None)
    if profile is None or covered(profile) < 2:
        return None
    shapes = tuple(column for column in profile.latency_columns if not column.endswith(" ratio"))
    return Pairing(profile, f"{profile.settings['batch']}x{profile.settings['length']}", shapes)


def _fits(table: Table, profile: ProfileTable) -> bool:
    return profile.model == table.model and is_same_hardware(profile.environment, table.environment)


def is_same_hardware(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two environments have the same device, precision, threads and versions of the libraries that compute."""
    return all(first.get(key) == second.get(key) for key in _SAME_HARDWARE)


def costs_of(row: Row, table: Table, pairing: Pairing | None) -> Mapping[CostName, Cost]:
    """The costs of a row of a table."""
    latency = next((column for column in table.columns if column.key.startswith("latency_b")), None)
    memory = next(name for name in (PEAK_MEMORY_ALLOCATED.name, PEAK_MEMORY_PROCESS.name) if name in row.cells)
    return {
        "train": _train(row, pairing),
        "flops": _counted(row, TRAIN_FLOPS.name, "FLOPs"),
        "latency": _latency(row, latency.key if latency else "", latency.heading if latency else "", pairing),
        "memory": _counted(row, memory, "B"),
        "stored": _counted(row, STORED_BYTES.name, "B"),
        "energy": _energy(row, pairing),
    }


def _counted(row: Row, key: str, display: Display) -> Cost:
    cell = row.cells.get(key)
    if cell is None or cell.summary is None:
        return Cost(display, reason=cell.reason if cell else "not measured")
    return Cost(display, cell.summary.mean, cell.ratio, basis="counted")


def _train(row: Row, pairing: Pairing | None) -> Cost:
    cell = row.cells[TRAIN_COMPUTE_S.name]
    absolute = cell.summary.mean if cell.summary else None
    return _paired(row, pairing, "step", "training", absolute, cell.doubt, cell.reason)


def _latency(row: Row, key: str, heading: str, pairing: Pairing | None) -> Cost:
    cell = row.cells.get(key)
    shape = heading.split()[1] if heading else ""
    if cell is None:
        return Cost("s", reason="no latency measured")
    absolute = cell.summary.mean if cell.summary else None
    return _paired(row, pairing, shape, "latency", absolute, cell.doubt, cell.reason)


def _energy(row: Row, pairing: Pairing | None) -> Cost:
    found = _figure(row, pairing, "energy ratio", "training")
    if found is None or found.value is None or pairing is None:
        return Cost("J", reason="no paired profile measured energy")
    return Cost("J", None, found.value, found.low, found.high, "paired", pairing.step_shape)


def _paired(
    row: Row,
    pairing: Pairing | None,
    column: str,
    kind: Literal["training", "latency"],
    absolute: float | None,
    doubt: str,
    reason: str,
) -> Cost:
    """A time with the profile's ratio; without one, the absolute time stands alone."""
    ratio = _figure(row, pairing, f"{column} ratio", kind)
    if ratio is None or ratio.value is None or pairing is None:
        basis: Basis = "none" if absolute is None else "unpaired"
        return Cost("s", absolute, basis=basis, doubt=doubt, reason=reason)
    shape = pairing.step_shape if kind == "training" else column
    return Cost("s", absolute, ratio.value, ratio.low, ratio.high, "paired", shape, doubt)


def _figure(row: Row, pairing: Pairing | None, column: str, kind: Literal["training", "latency"]) -> Figure | None:
    """The profile's figure of a row; None for the reference, whose ratio is 1 by definition."""
    if pairing is None:
        return None
    label = str(row.plugin) + (f" ({row.variant})" if row.variant else "")
    rows = pairing.profile.training if kind == "training" else pairing.profile.latency
    found = next((each for each in rows if each.label == label), None)
    if found is None:
        return None
    return None if label == pairing.profile.reference else found.figures.get(column)
