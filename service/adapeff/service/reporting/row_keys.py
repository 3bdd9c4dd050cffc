"""What tells the rows of a table apart, what they are called, and which one they are compared with."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from adapeff.service.reporting.runs import Result
from adapeff.service.reporting.variation import in_words


class RowKey(NamedTuple):
    """Identifies a row: its runs differ only in their seeds."""

    method: str
    learning_rate: float
    tuning: str
    """The search for the learning rate as JSON, '' for none."""
    settings: str
    """Settings in which the table's runs differ, in words."""


ByRow = dict[RowKey, dict[int, Result]]
"""Row -> seed -> result."""


def row_key(result: Result, varied: Sequence[str]) -> RowKey:
    """The row of a run.

    Args:
        varied: settings in which the table's runs differ.
    """
    training = result.spec.training
    tuning = training.tuning.model_dump_json() if training.tuning else ""
    settings = {key: value for key, value in result.run.settings.items() if key in varied and key != "device"}
    return RowKey(str(result.spec.method), training.learning_rate, tuning, in_words(settings))


def row_names(by_row: ByRow) -> dict[RowKey, str]:
    """What each row is called: its method, with whatever tells it from other rows of the method."""
    untuned = [(key.method, key.settings) for key in by_row if not key.tuning]
    several_rates = {method for method, settings in untuned if untuned.count((method, settings)) > 1}
    searches = {key.tuning for key in by_row if key.tuning}
    return {key: _row_name(key, seeds, several_rates, len(searches) > 1) for key, seeds in by_row.items()}


def _row_name(key: RowKey, seeds: Mapping[int, Result], several_rates: Container[str], several_searches: bool) -> str:
    settings = f" ({key.settings})" if key.settings else ""
    tuning = next(iter(seeds.values())).spec.training.tuning
    if tuning is not None:
        return f"{key.method} (tuned, {tuning.words if several_searches else f'{tuning.trials} trials'}){settings}"
    rate = f" lr {key.learning_rate:g}" if key.method in several_rates else ""
    return f"{key.method}{rate}{settings}"


def find_reference(by_row: ByRow, name: str) -> list[Result] | None:
    """The reference's results, untuned if there are any; None if there are none, or several learning rates."""
    candidates = {key: seeds for key, seeds in by_row.items() if key.method == name}
    untuned = {key: seeds for key, seeds in candidates.items() if not key.tuning}
    chosen = untuned or candidates
    return list(next(iter(chosen.values())).values()) if len(chosen) == 1 else None


def reference_first(by_row: ByRow, reference: str) -> list[tuple[RowKey, dict[int, Result]]]:
    """The rows with those of the reference first."""
    return sorted(by_row.items(), key=lambda item: (item[0].method != reference, item[0]))


def reference_names(
    by_row: ByRow, names: Mapping[RowKey, str], reference_name: str, reference: Sequence[Result] | None
) -> dict[str, str]:
    """The name of the reference's row by its search for a learning rate, '' for the one that all others have."""
    rows = {key.tuning: names[key] for key in by_row if key.method == reference_name and key.tuning}
    single = next((names[key] for key, seeds in by_row.items() if reference and reference[0] in seeds.values()), "")
    return {**rows, "": single}
