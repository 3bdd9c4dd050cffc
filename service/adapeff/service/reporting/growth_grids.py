"""The view `extend`: what each way of adding a task costs, learns and forgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.forgetting import Forgetting, MeanForgetting
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, ratio, signed, signed_text, words
from adapeff.service.reporting.growth import Addition, Kind, Way
from adapeff.service.reporting.members import FULL, unit_of

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

_ORDER: tuple[Kind, ...] = ("alone", "fusion", "extension", "retraining")
_NOTES = (
    "FLOPs and compute: of what has to be trained for the addition; compute seconds are of separate runs.",
    f"vs {FULL}: the new task's score minus that of {FULL} trained on it alone.",
    "Forgetting: an old task's score after the addition minus the one before, on the same test examples; negative is "
    "forgotten. 0 by construction where the old tasks' models stay as they are.",
    f"x retraining: FLOPs over those of training the mixture of all tasks again by {FULL}.",
    "Stored: for all tasks together, fp32, the weights that a method leaves alone included once.",
)


def way_words(way: Way) -> str:
    """A way in a few words: `extend full, replay 0.05`."""
    method = f"{way.method}{f' {way.rate}' if way.rate else ''}"
    if way.kind == "alone":
        return f"one more {method}"
    if way.kind == "fusion":
        return f"adapterfusion of {method}"
    if way.kind == "retraining":
        return f"retrain {method}"
    replay = f", replay {way.replay}" if way.replay != "0" else ", no replay"
    return f"extend {method}{replay}{', frozen heads' if way.old_heads == 'frozen' else ''}"


def extend_grids(report: Report) -> list[Grid]:
    """For each model: the ways over all additions, and each addition by itself."""
    groups: dict[tuple[str, str], list[Addition]] = {}
    for addition in report.additions:
        groups.setdefault((addition.model, addition.device), []).append(addition)
    return [grid for group in groups.values() for grid in _grids(group)]


def _grids(group: Sequence[Addition]) -> Iterator[Grid]:
    yield _over_additions(group)
    yield _each(group)
    yield _old_tasks(group)
    if any(not each.is_first for addition in group for each in addition.changes or ()):
        yield _other_languages(group)


def _by_way(additions: Iterable[Addition]) -> dict[Way, list[Addition]]:
    ways: dict[Way, list[Addition]] = {}
    for addition in additions:
        ways.setdefault(addition.way, []).append(addition)
    return dict(sorted(ways.items(), key=lambda item: _ORDER.index(item[0].kind)))


def _titled(
    aspect: str, group: Sequence[Addition], headings: Iterable[Heading], rows: Iterable[tuple[Value, ...]], *notes: str
) -> Grid:
    first = group[0]
    title = f"{aspect} · {short_model(first.model)} · {first.device}"
    about = (("model", first.model), ("device", first.device))
    return Grid(title, tuple(headings), tuple(rows), notes, about, f"extend: {aspect}")


def _over_additions(group: Sequence[Addition]) -> Grid:
    """A row per way: means over the additions, with their range."""
    columns: Mapping[Heading, Callable[[Sequence[Addition]], Value]] = {
        Heading("FLOPs", "flops"): lambda of_way: number(_mean(of_way, lambda e: e.cost.flops), "FLOPs"),
        Heading("x re-\ntraining", "share_of_retraining"): lambda of_way: ratio(
            _mean(of_way, lambda each: each.share_of_retraining)
        ),
        Heading("compute", "seconds"): lambda of_way: number(_mean(of_way, lambda e: e.cost.seconds), "s"),
        Heading(f"new task\nvs {FULL}", "difference"): lambda of_way: _signed_range(of_way, _to_full),
        Heading("forgetting\nmean", "forgetting"): lambda of_way: _signed_range(of_way, _mean_forgetting),
        Heading("\nworst", "worst"): lambda of_way: _worst(of_way),
        Heading("stored:\nN tasks", "stored_before"): lambda of_way: number(
            _mean(of_way, lambda e: e.stored_before), "B"
        ),
        Heading("\nN + 1", "stored_after"): lambda of_way: number(_mean(of_way, lambda e: e.stored_after), "B"),
    }
    rows = [
        (words(way_words(way)), Value(str(len(of_way)), len(of_way)), *(read(of_way) for read in columns.values()))
        for way, of_way in _by_way(group).items()
    ]
    headings = [Heading("way", "way"), Heading("addi-\ntions", "additions"), *columns]
    return _titled("ways to add a task", group, headings, rows, "Means over the additions; [ ]: their range.", *_NOTES)


def _each(group: Sequence[Addition]) -> Grid:
    """A row per new task and way, with intervals."""
    headings = (
        Heading("new task", "new"),
        Heading("way", "way"),
        Heading("seeds", "seeds"),
        Heading("FLOPs", "flops"),
        Heading("compute", "seconds"),
        Heading("score", "score"),
        Heading(f"vs {FULL}", "difference"),
        Heading("forgetting\nmean", "forgetting"),
        Heading("\nworst", "worst"),
        Heading("of", "worst_task"),
    )
    rows = [
        (
            words(" + ".join(addition.new)),
            words(way_words(way)),
            Value(str(len(addition.seeds)), len(addition.seeds)),
            number(addition.cost.flops, "FLOPs"),
            number(addition.cost.seconds, "s", mark="unpaired"),
            number(addition.score, unit_of(addition.metric)),
            signed(addition.to_full.value, unit_of(addition.metric), addition.to_full.low, addition.to_full.high)
            if addition.to_full
            else MISSING,
            _of_mean(addition.mean_forgetting),
            _change(addition.worst),
            words(addition.worst.task) if addition.worst else MISSING,
        )
        for new in dict.fromkeys(addition.new for addition in group)
        for way, of_way in _by_way(addition for addition in group if addition.new == new).items()
        for addition in of_way
    ]
    note = "±: 95 % interval over seeds and test examples, not adjusted for the number of tasks."
    return _titled("each addition", group, headings, rows, note)


def _old_tasks(group: Sequence[Addition]) -> Grid:
    """A row per addition that changes old tasks, a column per old task."""
    names = dict.fromkeys(each.task for addition in group for each in addition.forgetting)
    headings = (Heading("new task", "new"), Heading("way", "way"), *(Heading(name, name) for name in names))
    rows = []
    for addition in group:
        changes = {each.task: each for each in addition.forgetting}
        if changes:
            cells = (_change(changes.get(name)) for name in names)
            rows.append((words(" + ".join(addition.new)), words(way_words(addition.way)), *cells))
    return _titled("forgetting of each old task", group, headings, rows, "±: as above.")


def _other_languages(group: Sequence[Addition]) -> Grid:
    """A row per addition and old task, a column per language in which it was not trained."""
    elsewhere = [each for addition in group for each in addition.changes or () if not each.is_first]
    languages = dict.fromkeys(each.language for each in elsewhere)
    headings = [Heading("new task", "new"), Heading("way", "way"), Heading("old task", "member")]
    rows = []
    for addition in group:
        changes = {(each.task, each.language): each for each in addition.changes or () if not each.is_first}
        for task in dict.fromkeys(task for task, _ in changes):
            about = (" + ".join(addition.new), way_words(addition.way), task)
            rows.append((*map(words, about), *(_change(changes.get((task, language))) for language in languages)))
    headings += [Heading(language, language) for language in languages]
    return _titled("forgetting in other languages", group, headings, rows, "±: as above.")


def _of_mean(found: MeanForgetting | None) -> Value:
    return MISSING if found is None else signed(found.value, "%", found.low, found.high)


def _mean_forgetting(addition: Addition) -> float | None:
    found = addition.mean_forgetting
    return None if found is None else found.value


def _change(found: Forgetting | None) -> Value:
    return MISSING if found is None else signed(found.value, unit_of(found.metric), found.low, found.high)


def _to_full(addition: Addition) -> float | None:
    return addition.to_full.value if addition.to_full else None


def _values(additions: Iterable[Addition], read: Callable[[Addition], float | None]) -> list[float]:
    return [value for addition in additions if (value := read(addition)) is not None]


def _mean(additions: Sequence[Addition], read: Callable[[Addition], float | None]) -> float | None:
    values = _values(additions, read)
    return sum(values) / len(values) if values else None


def _signed_range(additions: Sequence[Addition], read: Callable[[Addition], float | None]) -> Value:
    """The mean of a change with the range over the additions."""
    values = _values(additions, read)
    if not values:
        return MISSING
    mean, low, high = sum(values) / len(values), min(values), max(values)
    ends = f" [{signed_text(low, '%')}, {signed_text(high, '%')}]" if low < high else ""
    return Value(f"{signed_text(mean, '%')}{ends}", mean, low, high, "%")


def _worst(additions: Sequence[Addition]) -> Value:
    """The largest loss of an old task in any of the additions."""
    found = [addition.worst for addition in additions if addition.worst is not None]
    if found:
        return _change(min(found, key=lambda each: each.value))
    return signed(0.0, "%") if all(addition.changes is None for addition in additions) else MISSING
