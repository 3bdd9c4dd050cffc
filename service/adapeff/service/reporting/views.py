"""The views of a report: grids of everything known about one aspect, for `report --view NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapeff.service.measurements import STORED_BYTES, TRAIN_COMPUTE_S, TRAIN_FLOPS, TUNING_COMPUTE_S
from adapeff.service.reporting.claims import claims_grids
from adapeff.service.reporting.columns import Column
from adapeff.service.reporting.convergence import DECOMPOSED, TargetCell, TimeFactors
from adapeff.service.reporting.costs import Cost
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import about, first_screens, screen_title
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, ratio, signed, summary, words
from adapeff.service.reporting.growth_grids import extend_grids
from adapeff.service.reporting.multitask_grids import multitask_grids
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.pareto import pareto_grid
from adapeff.service.reporting.profiles import Figure, ProfileRow
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.several_tasks import tasks_grids
from adapeff.service.reporting.table import Row, Table


@dataclass(frozen=True)
class View:
    """A view by name."""

    summary: str
    """One line for the help."""
    build: Callable[[Report], list[Grid]]
    needs: str = ""
    """What a report must have for it to show anything."""


def _by_decision(build: Callable[[Decision], Iterator[Grid]]) -> Callable[[Report], list[Grid]]:
    return lambda report: [grid for decision in report.decisions for grid in build(decision)]


def _grid(decision: Decision, aspect: str, columns: Mapping[Heading, Callable[[Row], Value]], *notes: str) -> Grid:
    """A line per method and inference variant, in the order of the first screen."""
    table = decision.table
    order = {line.method: at for at, line in enumerate(decision.lines)}
    rows = sorted(table.rows, key=lambda row: (order[row.method.removesuffix(f" ({row.variant})")], row.variant))
    kept = {heading: cells for heading, read in columns.items() if any(cells := [read(row) for row in rows])}
    filled = {heading: cells for heading, cells in kept.items() if any(cell != MISSING for cell in cells)}
    if not filled:
        return _titled(aspect, table, (), (), "Not measured.", *notes)
    return _titled(
        aspect,
        table,
        (Heading("method", "method"), *filled),
        ((words(row.method), *(cells[at] for cells in filled.values())) for at, row in enumerate(rows)),
        *notes,
    )


def _titled(
    aspect: str, table: Table, headings: Iterable[Heading], rows: Iterable[tuple[Value, ...]], *notes: str
) -> Grid:
    title = f"{aspect} · {screen_title(table)}"
    return Grid(title, tuple(headings), tuple(rows), tuple(filter(None, notes)), about(table), aspect)


def _figure(column: Column, *, has_ratio: bool, reference: str) -> dict[Heading, Callable[[Row], Value]]:
    """A measured column, and its ratio to the reference where a ratio of single runs is a fact."""
    unit = ", %" if column.unit == "%" else ""

    def figure(row: Row) -> Value:
        cell = row.cells[column.key]
        return summary(cell.summary, column.unit, "disturbed" if cell.doubt else "")

    headings: dict[Heading, Callable[[Row], Value]] = {Heading(f"{column.heading}{unit}", column.key): figure}
    if has_ratio:
        headings[Heading(f"x {reference}", f"{column.key}_ratio")] = lambda row: ratio(row.cells[column.key].ratio)
    return headings


def _columns(table: Table, *keys: str, has_ratio: bool = False) -> dict[Heading, Callable[[Row], Value]]:
    found: dict[Heading, Callable[[Row], Value]] = {}
    for column in table.columns:
        if column.key in keys:
            found |= _figure(column, has_ratio=has_ratio and not column.time_of, reference=table.reference)
    return found


def _quality(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    lines = {line.method: line for line in decision.lines}

    def of_line(read: Callable[[Line], Value]) -> Callable[[Row], Value]:
        return lambda row: read(lines[row.method]) if row.method in lines else MISSING

    columns: dict[Heading, Callable[[Row], Value]] = {
        Heading("learning rate", "learning_rate"): lambda row: Value(f"{row.learning_rate:g}", row.learning_rate),
        Heading("seeds", "seeds"): lambda row: Value(", ".join(map(str, row.seeds)), len(row.seeds)),
        **_columns(table, "quality", "transfer", "gap"),
        Heading(f"vs {table.reference}", "difference"): of_line(lambda line: _difference(line, decision)),
        Heading("p (Holm)", "p"): of_line(
            lambda line: Value(f"{line.p:.3g}", line.p) if line.p is not None else MISSING
        ),
        Heading("rests on", "basis"): of_line(
            lambda line: words(line.difference.basis) if line.difference else MISSING
        ),
        Heading("verdict", "verdict"): of_line(lambda line: words(line.verdict.text)),
    }
    ceiling = table.score_ceiling
    yield _grid(
        decision,
        "quality",
        columns,
        f"Score ceiling of these data: {format_value(ceiling, table.metric.unit)}; the rest is deliberate label noise."
        if ceiling is not None
        else "",
        "" if table.metric.higher_is_better else f"Lower {table.metric.name} is better.",
    )


def _difference(line: Line, decision: Decision) -> Value:
    found = line.difference
    return signed(found.value, decision.metric_display, found.low, found.high) if found else MISSING


def _languages(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    if not table.languages:
        return
    columns: dict[Heading, Callable[[Row], Value]] = {}
    for language, cells in table.languages.items():

        def score(row: Row, cells=cells) -> Value:  # type: ignore[no-untyped-def]
            cell = cells.get(row.method)
            if cell is None:
                return MISSING
            return summary(cell.summary, table.metric.unit, "chance" if cell.at_chance else "")

        baseline = format_value(next(iter(cells.values())).baseline, table.metric.unit)
        columns[Heading(f"{language}\n({baseline})", language)] = score
    yield _grid(
        decision,
        f"{table.metric.name} by language",
        columns,
        f"( ): {table.metric.baseline}. ~: within its noise (95 %, bootstrap over the examples).",
        f"{table.untested[0].upper()}{table.untested[1:]}." if table.untested else "",
    )


def _training(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    costs = {line.method: line.costs["train"] for line in decision.lines}
    columns = {
        **_columns(table, TRAIN_COMPUTE_S.name),
        Heading(f"step x {table.reference}, paired", "step_ratio"): _paired(costs),
        **_columns(table, TRAIN_FLOPS.name, has_ratio=True),
        **_columns(table, "price"),
    }
    yield _grid(decision, "training", columns, *_pairing_notes(decision))
    if len(table.targets) > 1:
        yield _targets(table)
        yield _time_factors(decision, costs)


def _paired(costs: Mapping[str, Cost]) -> Callable[[Row], Value]:
    def read(row: Row) -> Value:
        cost = costs.get(row.method)
        return ratio(cost.ratio, cost.low, cost.high) if cost is not None else MISSING

    return read


def _pairing_notes(decision: Decision) -> tuple[str, ...]:
    if decision.pairing is None:
        return ("No profile fits these runs, so there are no ratios of times; `adapeff profile` measures them.",)
    pairing = decision.pairing
    return (
        f"Paired ratios: profile job {pairing.profile.job_id}, steps of {pairing.step_shape} tokens, 95 % intervals.",
    )


def _targets(table: Table) -> Grid:
    """When validation reaches shares of the reference's best score."""
    some = next(iter(table.targets.values()))
    headings = (
        Heading(f"{cell.target:.0%} ({format_value(cell.score, table.metric.unit)})", f"target_{cell.target:g}")
        for cell in some
    )
    return _titled(
        f"steps to a share of {table.reference}'s best validation {table.metric.name}",
        table,
        (Heading("method", "method"), *headings),
        ((words(method), *map(_reached, cells)) for method, cells in table.targets.items()),
        "Of several seeds: the mean over those that reach it.",
    )


def _time_factors(decision: Decision, costs: Mapping[str, Cost]) -> Grid:
    """What the time to a target consists of: steps x FLOPs of a step / FLOP/s, relative to the reference."""
    table = decision.table
    return _titled(
        f"time to {DECOMPOSED:.0%} of {table.reference}'s best, x {table.reference}",
        table,
        (
            Heading("method", "method"),
            Heading("steps", "steps_ratio"),
            Heading("FLOPs a step", "flops_per_step_ratio"),
            Heading("FLOP/s (paired)", "achieved_flops_ratio"),
            Heading("time (paired)", "time_ratio"),
        ),
        ((words(method), *_factors(factors, costs.get(method))) for method, factors in table.time_factors.items()),
        "time = steps x FLOPs of a step / FLOP/s; FLOP/s and time need a profile that paired the methods.",
    )


def _factors(factors: TimeFactors | None, cost: Cost | None) -> tuple[Value, Value, Value, Value]:
    """Steps, FLOPs of a step, FLOP/s, and the time they make; the last two need the paired time of a step."""
    steps, flops = (factors.steps, factors.flops_per_step) if factors else (None, None)
    step_time = cost.ratio if cost else None
    speed = flops / step_time if flops is not None and step_time else None
    time = steps * step_time if steps is not None and step_time is not None else None
    return ratio(steps), ratio(flops), ratio(speed), ratio(time)


def _reached(cell: TargetCell) -> Value:
    if cell.mean is None:
        return Value(f"– (0 of {cell.seeds})")
    some = f" ({cell.reached} of {cell.seeds})" if cell.reached < cell.seeds else ""
    return Value(f"{cell.mean.steps:.0f}{some}", cell.mean.steps)


def _inference(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    keys = [column.key for column in table.columns if column.key.startswith("latency_b")]
    yield _grid(decision, "inference", _columns(table, *keys), "Absolute medians of separate runs: not paired.")
    if decision.pairing is None:
        return
    profile = decision.pairing.profile
    shapes = decision.pairing.latency_shapes
    yield _titled(
        f"forward pass, x {profile.reference} (paired)",
        table,
        (Heading("method", "method"), *(Heading(shape, f"latency_{shape}_ratio") for shape in shapes)),
        ((words(row.label), *(_profiled(row, f"{shape} ratio") for shape in shapes)) for row in profile.latency),
        *_pairing_notes(decision),
    )


def _profiled(row: ProfileRow, column: str) -> Value:
    figure: Figure | None = row.figures.get(column)
    return ratio(figure.value, figure.low, figure.high) if figure is not None else MISSING


def _memory(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    keys = [column.key for column in table.columns if column.key.startswith("peak_memory")]
    yield _grid(decision, "memory", _columns(table, *keys, has_ratio=True), "Peaks of training, a process per run.")


def _storage(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    columns = {
        **_columns(table, "parameters_method", "parameters_head"),
        **_columns(table, STORED_BYTES.name, has_ratio=True),
        Heading("tasks to outweigh one more model", "break_even_tasks"): lambda row: number(
            table.break_even_tasks.get(row.method), "params"
        ),
    }
    yield _grid(decision, "storage", columns, "Stored per task: what has to be kept besides the base model.")


def _energy(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    keys = [column.key for column in table.columns if "energy" in column.key]
    costs = {line.method: line.costs["energy"] for line in decision.lines}
    columns = {**_columns(table, *keys), Heading(f"step x {table.reference}, paired", "energy_ratio"): _paired(costs)}
    reasons = {line.costs["energy"].reason for line in decision.lines if line.costs["energy"].ratio is None}
    yield _grid(decision, "energy", columns, *(f"No ratio: {reason}." for reason in sorted(reasons) if reason))


def _tuning(decision: Decision) -> Iterator[Grid]:
    table = decision.table
    columns: dict[Heading, Callable[[Row], Value]] = {
        Heading("learning rate", "learning_rate"): lambda row: Value(f"{row.learning_rate:g}", row.learning_rate),
        Heading("from", "learning_rate_source"): lambda row: words(row.learning_rate_source),
        **_columns(table, TUNING_COMPUTE_S.name),
    }
    unfair = f"Different searches, so the comparison may be unfair: {'; '.join(table.searches)}."
    yield _grid(decision, "tuning", columns, unfair if len(table.searches) > 1 else "")


VIEWS: Mapping[str, View] = {
    "summary": View(
        "which methods hold the quality, and what they cost",
        lambda report: [screen.complete_grid() for screen in first_screens(report.decisions).screens],
    ),
    "quality": View("scores, differences, tests", _by_decision(_quality)),
    "tasks": View("methods over several tasks", tasks_grids, "two or more tasks that the same methods ran on"),
    "languages": View("scores by language", _by_decision(_languages)),
    "training": View("training time, FLOPs, steps to targets", _by_decision(_training)),
    "inference": View("latency", _by_decision(_inference)),
    "memory": View("peak memory", _by_decision(_memory)),
    "storage": View("parameters and stored bytes", _by_decision(_storage)),
    "energy": View("energy", _by_decision(_energy)),
    "tuning": View("learning rates and their searches", _by_decision(_tuning)),
    "pareto": View("quality against training time: which methods no other beats in both", _by_decision(pareto_grid)),
    "multitask": View(
        "mixtures against their tasks alone: quality, costs, targets", multitask_grids, "a mixture of tasks"
    ),
    "extend": View("ways to add a task: cost, quality, forgetting, storage", extend_grids, "an extension"),
    "claims": View("the claims of the study, judged on these results", claims_grids),
}
"""View -> how to build it; `full` prints the complete tables and is not among them."""


def build_view(report: Report, name: str) -> Sequence[Grid]:
    """The grids of a view.

    Raises:
        KeyError: if there is no view of that name.
    """
    return VIEWS[name].build(report)
