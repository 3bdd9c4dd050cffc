"""Another shape for a view's grids: rows sorted by a column, and tables of another grouping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adapeff.service.errors import SpecError, suggest
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, words

DIMENSIONS = ("model", "task", "method", "device")
"""What tables can be grouped by, in the order in which the others label the rows."""


@dataclass(frozen=True)
class Order:
    """A column to sort by, by its key in JSON or its heading."""

    column: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> Order:
        """Read `train_time` (lowest first) or `-quality` (highest first).

        Raises:
            SpecError: if no column is named.
        """
        column = text.strip().removeprefix("-").strip()
        if not column:
            raise SpecError(f"--sort is '{text}'; expected a column, such as train_time, or -quality for highest first")
        return cls(column, text.strip().startswith("-"))

    def find(self, grid: Grid) -> int | None:
        """The place of the column in a grid; None if it has none of that name."""
        names = [(heading.key, heading.text.split("\n")[0]) for heading in grid.headings]
        return next((at for at, name in enumerate(names) if self.column in name), None)


def parse_dimensions(text: str) -> tuple[str, ...]:
    """Read what to group by, such as `method` or `model,method`.

    Raises:
        SpecError: for an unknown dimension, or none.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in found:
        if name not in DIMENSIONS:
            raise SpecError(f"--group-by is '{text}': unknown '{name}'; {suggest(name, DIMENSIONS)}")
    return found


def sort_grids(grids: Iterable[Grid], order: Order) -> list[Grid]:
    """Sort the rows of all grids that have the column; cells without a number come last, then those that are unpaired.

    Raises:
        SpecError: if no grid has the column.
    """
    before = list(grids)
    known = dict.fromkeys(heading.key for grid in before for heading in grid.headings)
    if before and all(order.find(grid) is None for grid in before):
        raise SpecError(f"--sort names '{order.column}', which no table shown has; {suggest(order.column, known)}")
    return [_sorted(grid, order) for grid in before]


def _sorted(grid: Grid, order: Order) -> Grid:
    at = order.find(grid)
    if at is None:
        return grid
    cells = [row[at] for row in grid.rows]
    is_text = all(cell.number is None for cell in cells)
    if is_text:
        return replace(
            grid, rows=tuple(sorted(grid.rows, key=lambda row: row[at].text.casefold(), reverse=order.descending))
        )
    has_ratios = any(cell.unit == "x" for cell in cells)
    keyed = [(_number(cell, has_ratios=has_ratios), row) for cell, row in zip(cells, grid.rows, strict=True)]
    numbered = [(value, row) for value, row in keyed if value is not None]
    numbered.sort(key=lambda pair: pair[0], reverse=order.descending)
    return replace(grid, rows=(*(row for _, row in numbered), *(row for value, row in keyed if value is None)))


def _number(cell: Value, *, has_ratios: bool) -> float | None:
    """What a cell sorts by: among ratios the absolute value is that of the reference, unless it has no pair."""
    if has_ratios and cell.unit != "x" and cell.number is not None:
        return None if cell.mark == "unpaired" else 1.0
    return cell.number


@dataclass(frozen=True)
class Arrangement:
    """How the grids of a view are grouped and sorted; by default as they are."""

    group_by: tuple[str, ...] = ()
    order: Order | None = None

    @classmethod
    def parse(cls, group_by: str | None, sort: str | None) -> Arrangement:
        """Read `--group-by` and `--sort`.

        Raises:
            SpecError: naming the option and what was expected.
        """
        return cls(
            parse_dimensions(group_by) if group_by is not None else (), Order.parse(sort) if sort is not None else None
        )

    def apply(self, grids: Iterable[Grid]) -> list[Grid]:
        """Group, then sort.

        Raises:
            SpecError: if the grids lack a dimension or the column.
        """
        grouped = group_grids(grids, self.group_by) if self.group_by else list(grids)
        return sort_grids(grouped, self.order) if self.order is not None else grouped


AS_BUILT = Arrangement()


@dataclass(frozen=True)
class _Row:
    """A row with what is known of it, by dimension."""

    grid: Grid
    about: dict[str, str]
    cells: dict[str, Value]
    """By the key of the heading."""


def group_grids(grids: Iterable[Grid], by: Sequence[str]) -> list[Grid]:
    """Regroup rows: a grid for each aspect and value of the dimensions, with the other dimensions as its first columns.

    Dimensions in which all rows of a grid agree have no column. Notes follow the last grid, each once.

    Raises:
        SpecError: if the grids lack a dimension.
    """
    before = list(grids)
    rows = [row for grid in before for row in _rows(grid)]
    for name in by:
        if rows and not any(name in row.about for row in rows):
            raise SpecError(f"--group-by is '{name}', which this view does not tell apart; expected another dimension")
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.grid.aspect, *(row.about.get(name, "–") for name in by)), []).append(row)
    found = [_group(key[0], key[1:], members, by) for key, members in groups.items()]
    notes = tuple(dict.fromkeys(note for grid in (*found, *before) for note in grid.notes))
    return [*(replace(grid, notes=()) for grid in found[:-1]), *(replace(grid, notes=notes) for grid in found[-1:])]


def _rows(grid: Grid) -> Iterable[_Row]:
    for row in grid.rows:
        cells = {heading.key: value for heading, value in zip(grid.headings, row, strict=True)}
        labels = {name: value.text for name, value in cells.items() if name in DIMENSIONS}
        yield _Row(grid, {**dict(grid.about), **labels}, {k: v for k, v in cells.items() if k not in DIMENSIONS})


def _group(aspect: str, values: Sequence[str], rows: Sequence[_Row], by: Sequence[str]) -> Grid:
    labels = [name for name in DIMENSIONS if name not in by and _differs(name, rows)]
    keys = dict.fromkeys(key for row in rows for key in row.cells)
    texts = {key: _heading_texts(key, rows) for key in keys}
    shared = {name: value for name, value in _shared(rows).items() if name not in by and value != "–"}
    title = " · ".join(filter(None, (aspect, *map(_short, (*values, *shared.values())))))
    return Grid(
        title,
        (*(Heading(name, name) for name in labels), *(Heading(_common(key, texts[key]), key) for key in keys)),
        tuple(
            (
                *(words(_short(row.about.get(name, "–"))) for name in labels),
                *(row.cells.get(key, MISSING) for key in keys),
            )
            for row in rows
        ),
        tuple(_meanings(key, of_key) for key, of_key in texts.items() if len(of_key) > 1),
        (*zip(by, values, strict=True), *shared.items()),
        aspect,
    )


def _differs(name: str, rows: Sequence[_Row]) -> bool:
    return len({row.about.get(name) for row in rows}) > 1


def _shared(rows: Sequence[_Row]) -> dict[str, str]:
    """The dimensions in which all rows agree."""
    return {name: rows[0].about[name] for name in DIMENSIONS if name in rows[0].about and not _differs(name, rows)}


def _short(value: str) -> str:
    return short_model(value) if "/" in value else value


def _heading_texts(key: str, rows: Sequence[_Row]) -> dict[str, list[str]]:
    """Each text that the heading had, and the tasks of its rows."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        text = next((heading.text for heading in row.grid.headings if heading.key == key), None)
        if text is not None:
            found.setdefault(text, {})[row.about.get("task", "–")] = None
    return {text: list(tasks) for text, tasks in found.items()}


def _common(key: str, texts: dict[str, list[str]]) -> str:
    return next(iter(texts)) if len(texts) == 1 else key.replace("_", " ")


def _meanings(key: str, texts: dict[str, list[str]]) -> str:
    """What a heading means for which tasks."""
    parts = "; ".join(f"{' '.join(text.split())} ({', '.join(tasks)})" for text, tasks in texts.items())
    return f"{key.replace('_', ' ')}: {parts}."
