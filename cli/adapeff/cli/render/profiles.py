"""Format profiles as tables of headings and cells, for both terminals and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapeff.cli.render.units import format_spread
from adapeff.service.reporting.numbers import format_value, with_prefix
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.reporting.reruns import Spread

Grid = tuple[str, list[str], list[list[str]]]
"""Title, headings, rows."""


def profile_title(table: ProfileTable) -> str:
    """Describe model, shape and hardware in one line."""
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
    """The tables of a profile: time, FLOPs and memory of a step, latency by batch size, and spread of reruns."""
    base = table.training[0].figures if len(table.training) > 1 else None
    grids = (
        _grid(f"training step, ratios to {table.reference} (paired)", table.training, _TIMES, None),
        _grid("computation of a step", table.training, _COMPUTED, base),
        _grid("memory of a step", table.training, _KEPT, base),
        *_latency(table),
        *_reruns(table),
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
    "of peak": "utilisation",
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


def _reruns(table: ProfileTable) -> Iterator[Grid]:
    """The spread of each time, with the spread of its ratio in brackets."""
    wanted = ["step", "peak process", "energy", *_cells(table)]
    shown = [column for column in wanted if any(column in spreads for spreads in table.reruns.values())]
    runs = max((len(spread.values) for spreads in table.reruns.values() for spread in spreads.values()), default=0)
    yield (
        f"reruns of the same profile: range of {runs} runs over their median (that of the ratio)",
        ["", *shown],
        [[row, *(_spreads(spreads, column) for column in shown)] for row, spreads in table.reruns.items()],
    )


def _spreads(spreads: Mapping[str, Spread], column: str) -> str:
    ratio = spreads.get(f"{column} ratio")
    return format_spread(spreads.get(column)) + (f" ({format_spread(ratio)})" if ratio else "")


def _grid(title: str, rows: Sequence[ProfileRow], columns: dict[str, str], base: dict[str, Figure] | None) -> Grid:
    shown = {
        heading: column
        for heading, column in columns.items()
        if any((figure := row.figures.get(column)) is not None and figure.value is not None for row in rows)
    }
    lines = []
    for row in rows:
        cells = [_cell(row.figures.get(column), base.get(column) if base else None) for column in shown.values()]
        lines.append([f"{row.label}{' !' if row.problems else ''}", *cells])
    return title, ["", *shown], lines


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
    if figure.unit == "s":
        text = format_value(figure.value, "s")
    elif figure.unit == "B":
        text = format_value(figure.value, "B")
    elif figure.unit == "J":
        text = f"{figure.value:.3g} J"
    elif 0 < figure.value < 1:
        text = f"{figure.value * 100:.0f} %"
    elif figure.value >= 1e7:
        text = with_prefix(figure.value).strip()
    else:
        text = f"{figure.value:,.0f}"
    if base is not None and base.value and base.value >= 1 and figure is not base and figure.unit in ("1", "B"):
        text += f" ({figure.value / base.value:.3f}x)"
    return text
