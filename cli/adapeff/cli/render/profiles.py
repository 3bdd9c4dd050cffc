"""Profiles as tables: headings and cells, for a terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapeff.cli.render.units import format_spread, format_value
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.reporting.reruns import Spread

MAX_DISTURBED = 6
"""So many forward passes that something is known against are told of one by one."""

Grid = tuple[str, list[str], list[list[str]]]
"""Title, headings, rows."""


def profile_title(table: ProfileTable) -> str:
    """Model, shape and hardware in a line."""
    weights = " (random weights)" if table.random_weights else ""
    hardware = table.environment
    compiled = ", compiled" if table.settings["compile"] else ""
    return (
        f"{table.model}{weights} · job {table.job_id} · steps of {table.settings['batch']} x "
        f"{table.settings['length']} tokens, {table.settings['blocks']} blocks{compiled} · "
        f"{hardware.get('device_name')} "
        f"({hardware.get('precision')}, {hardware.get('torch_threads')} thread(s)), torch {hardware.get('torch')}"
    )


def profile_grids(table: ProfileTable) -> Iterator[Grid]:
    """The tables of a profile: time of a step, its FLOPs, its memory, latency by batch size, and what a repeat gave."""
    base = table.training[0].figures if len(table.training) > 1 else None
    grids = (
        _grid(f"training step, ratios to {table.reference} (paired)", table.training, _TIMES, None),
        _grid("what a step computes", table.training, _COMPUTED, base),
        _grid("what a step keeps in memory", table.training, _KEPT, base),
        *_latency(table),
        *_again(table),
    )
    yield from (grid for grid in grids if len(grid[1]) > 1)


_TIMES = {
    "step": "step",
    **{f"{part} ratio": f"{part} ratio" for part in ("step", "forward", "backward", "optimizer")},
    "energy": "energy",
    "energy ratio": "energy ratio",
}
_COMPUTED = {
    "FLOPs": "FLOPs",
    "forward": "FLOPs forward",
    "backward": "FLOPs backward",
    "FLOP/s": "achieved",
    "of ceiling": "utilisation",
    "trained: method": "trained: method",
    "samples/s at most": "saturated",
}
_KEPT = {
    **{name: name for name in ("peak allocated", "peak process")},
    **{part: part for part in ("weights", "gradients", "optimizer state", "activations", "cast weights")},
    "largest batch": "largest batch",
}


def _cells(table: ProfileTable) -> list[str]:
    return [column for column in table.latency_columns if not column.endswith(" ratio")]


def _latency(table: ProfileTable) -> Iterator[Grid]:
    by_batch: dict[str, list[str]] = {}
    for cell in _cells(table):
        by_batch.setdefault(cell.partition("x")[0], []).append(cell)
    for batch, cells in by_batch.items():
        yield (
            f"forward pass of batch {batch}, batch x tokens: median, and its ratio to {table.reference} (paired)",
            ["", *cells],
            [
                [row.label, *(_pair(row.figures.get(cell), row.figures.get(f"{cell} ratio")) for cell in cells)]
                for row in table.latency
            ],
        )


def _again(table: ProfileTable) -> Iterator[Grid]:
    """Spread of each time, and in brackets that of its ratio."""
    wanted = ["step", "peak process", "energy", *_cells(table)]
    shown = [column for column in wanted if any(column in found for found in table.again.values())]
    runs = max((len(spread.values) for found in table.again.values() for spread in found.values()), default=0)
    yield (
        f"the same profile again: range of {runs} runs over their median (that of the ratio)",
        ["", *shown],
        [[row, *(_spreads(found, column) for column in shown)] for row, found in table.again.items()],
    )


def _spreads(found: Mapping[str, Spread], column: str) -> str:
    ratio = found.get(f"{column} ratio")
    return format_spread(found.get(column)) + (f" ({format_spread(ratio)})" if ratio else "")


def profile_notes(table: ProfileTable) -> list[str]:
    """What a reader must know to read the tables."""
    found = [
        "Ratios are medians over blocks in which every method had a turn, in an order drawn anew; [ ]: 95 % interval, "
        "bootstrap over the blocks.",
        "FLOPs: products of matrices, 2 per multiplication and addition, frozen weights counted as frozen. Of ceiling: "
        f"against the fastest matrix product measured here, {_scaled(table.ceilings.get('ceiling_matmul_flops_per_s'))}"
        f"FLOP/s (copying: {_scaled(table.ceilings.get('ceiling_copy_bytes_per_s'))}B/s).",
    ]
    problems: dict[str, list[str]] = {}
    for row in table.training:
        if row.problems:
            problems.setdefault(row.problems, []).append(row.label)
    found += [f"!: {', '.join(labels)}: {text}." for text, labels in problems.items()]
    disturbed = [
        f"{row.label} {cell}: {figure.problems}"
        for row in table.latency
        for cell, figure in row.figures.items()
        if figure.problems
    ]
    found += [f"!: {text}." for text in disturbed[:MAX_DISTURBED]]
    if len(disturbed) > MAX_DISTURBED:
        found.append(f"!: {len(disturbed) - MAX_DISTURBED} more in `adapeff show {table.job_id}`.")
    reasons: dict[str, None] = {}
    for row in table.training:
        for column, figure in row.figures.items():
            if figure.value is None and figure.reason:
                reasons[f"{column}: {figure.reason}"] = None
    return [*found, *reasons]


def _grid(title: str, rows: Sequence[ProfileRow], columns: dict[str, str], base: dict[str, Figure] | None) -> Grid:
    shown = {
        heading: column
        for heading, column in columns.items()
        if any((figure := row.figures.get(column)) is not None and figure.value is not None for row in rows)
    }
    made = []
    for row in rows:
        cells = [_cell(row.figures.get(column), base.get(column) if base else None) for column in shown.values()]
        made.append([f"{row.label}{' !' if row.problems else ''}", *cells])
    return title, ["", *shown], made


def _pair(value: Figure | None, ratio: Figure | None) -> str:
    if value is None:
        return "–"
    shown = _cell(value, None, interval=False) + (f" ({_cell(ratio, None)})" if ratio else "")
    return f"{shown} !" if value.problems else shown


def _cell(figure: Figure | None, base: Figure | None, *, interval: bool = True) -> str:
    if figure is None or figure.value is None:
        return "–"
    if figure.unit == "x":
        inside = f" [{figure.low:.3f}, {figure.high:.3f}]" if figure.low is not None else ""
        return f"{figure.value:.3f}{inside}"
    if figure.unit in ("s", "B"):
        text = format_value(figure.value, figure.unit)
    elif figure.unit == "J":
        text = f"{figure.value:.3g} J"
    elif 0 < figure.value < 1:
        text = f"{figure.value * 100:.0f} %"
    elif figure.value >= 1e7:
        text = _scaled(figure.value).strip()
    else:
        text = f"{figure.value:,.0f}"
    if base is not None and base.value and base.value >= 1 and figure is not base and figure.unit in ("1", "B"):
        text += f" ({figure.value / base.value:.3f}x)"
    return text


def _scaled(value: float | None) -> str:
    if value is None:
        return "? "
    for step, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= step:
            return f"{value / step:.1f} {letter}"
    return f"{value:.0f} "
