"""A recommendation as tables: a line per method, best first, and what each line rests on."""

from __future__ import annotations

from adapeff.service.reporting.first_screen import screen_title
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, signed, words
from adapeff.service.reporting.recommend import Choice, Recommendation, Term, hours_text
from adapeff.service.reporting.verdicts import margin_words


def recommendation_grids(found: Recommendation) -> list[Grid]:
    """The ranking with its sentence, and the evidence behind it."""
    return [_ranking(found), _evidence(found)]


def _about(found: Recommendation) -> tuple[tuple[str, str], ...]:
    return (("model", found.decision.table.model), ("task", found.decision.table.task))


def _ranking(found: Recommendation) -> Grid:
    checks = list(dict.fromkeys(check.name for choice in found.choices for check in choice.checks))
    terms = list(dict.fromkeys(term.name for choice in found.choices for term in choice.terms))
    has_cost = found.life.price_per_hour is not None
    has_pscp = any(choice.pscp for choice in found.choices)
    headings = (
        Heading("method", "method"),
        Heading("limits", "standing"),
        *(Heading(name, name) for name in checks),
        *(Heading(f"{name}, h", name) for name in terms),
        Heading("total, h", "hours"),
        Heading("stored", "stored"),
        *((Heading("cost", "cost"),) if has_cost else ()),
        *((Heading("PSCP", "pscp"),) if has_pscp else ()),
    )
    rows = tuple(
        (
            words(choice.line.method),
            words(choice.standing),
            *(_check(choice, name) for name in checks),
            *(_term(choice, name) for name in terms),
            MISSING if choice.hours is None else _total(choice, choice.hours),
            number(choice.stored_bytes, "B"),
            *((_plain(choice.cost),) if has_cost else ()),
            *((_plain(choice.pscp.value if choice.pscp else None),) if has_pscp else ()),
        )
        for choice in found.choices
    )
    notes = (found.sentence, *_notes(found), *found.missing)
    return Grid(f"recommendation · {screen_title(found.decision.table)}", headings, rows, notes, _about(found))


def _check(choice: Choice, name: str) -> Value:
    check = next((check for check in choice.checks if check.name == name), None)
    if check is None:
        return MISSING
    return words(f"{check.state}: {check.text}" if check.text else check.state)


def _find_term(choice: Choice, name: str) -> Term | None:
    return next((term for term in choice.terms if term.name == name), None)


def _term(choice: Choice, name: str) -> Value:
    term = _find_term(choice, name)
    if term is None:
        return MISSING
    if term.hours is None:
        return words("not measured")
    mark = "disturbed" if term.doubt else ""
    return Value(f"{hours_text(term.hours)}{' !' if mark else ''}", term.hours, term.low, term.high, "h", mark)


def _total(choice: Choice, hours: float) -> Value:
    return Value(hours_text(hours), hours, choice.low, choice.high, "h")


def _plain(value: float | None) -> Value:
    return MISSING if value is None else Value(f"{value:.2f}", value)


def _notes(found: Recommendation) -> list[str]:
    table, life, limits = found.decision.table, found.life, found.limits
    asked = [f"at most {margin_words(table, found.margin)} below {table.reference} (one-sided 95 % bound)"]
    if limits.max_latency_s is not None:
        asked.append(f"{limits.max_latency_s * 1000:g} ms at {limits.shape}")
    if limits.max_memory_bytes is not None:
        asked.append(f"{limits.max_memory_bytes / 2**30:g} GiB in training")
    serving = "" if life.requests_per_month is None else f", {life.requests_per_month:g} requests a month"
    tasks = f"{life.tasks} task{'s' if life.tasks > 1 else ''}"
    notes = [f"Limits: {'; '.join(asked)}. Life: {tasks}, {life.months:g} months{serving}."]
    if any(term.doubt for choice in found.choices for term in choice.terms):
        notes.append("!: a time that was disturbed, or measured while another run used the host.")
    if life.price_per_hour is None:
        notes.append("Ranked by device hours; --price and --storage-price add up the cost.")
    elif life.price_per_gib_month is None:
        notes.append("The cost is that of the device; --storage-price adds storage.")
    if any(choice.pscp for choice in found.choices):
        notes.append("PSCP: PEFT-Bench's score out of 100 (Belanec et al. 2026), with its constants.")
    return notes


def _evidence(found: Recommendation) -> Grid:
    """What was measured, how often, and by which jobs; every term of the cost as a product."""
    display = found.decision.metric_display
    terms = list(dict.fromkeys(term.name for choice in found.choices for term in choice.terms))
    sources = [name for name in ("latency", "memory") if any(_source(choice, name) for choice in found.choices)]
    has_storage = found.life.price_per_gib_month is not None
    headings = (
        Heading("method", "method"),
        Heading("difference", "difference"),
        Heading("rests on", "basis"),
        Heading("jobs", "jobs"),
        *(Heading(name, f"{name}_source") for name in sources),
        *(Heading(name, f"{name}_basis") for name in terms),
        *((Heading("storage", "storage_basis"),) if has_storage else ()),
    )
    rows = tuple(
        (
            words(choice.line.method),
            signed(each.value, display, each.low, each.high) if (each := choice.line.difference) else MISSING,
            words(_basis(choice)),
            words(" ".join(map(str, choice.jobs))),
            *(words(_source(choice, name) or "–") for name in sources),
            *(words(term.basis) if (term := _find_term(choice, name)) else MISSING for name in terms),
            *((words(_storage(choice)),) if has_storage else ()),
        )
        for choice in found.choices
    )
    notes = ("Seconds are means over the jobs; `adapeff show JOB` prints all that a job measured.",)
    return Grid(f"evidence · {screen_title(found.decision.table)}", headings, rows, notes, _about(found))


def _source(choice: Choice, name: str) -> str:
    return next((check.source for check in choice.checks if check.name == name), "")


def _basis(choice: Choice) -> str:
    seeds = len(choice.line.row.seeds)
    text = f"{seeds} seed{'' if seeds == 1 else 's'}"
    found = choice.line.difference
    if found is not None and found.seeds != seeds:
        text = f"{found.seeds} of {text}, those of the reference"
    return f"{text}, {found.examples} examples" if found is not None and found.examples else text


def _storage(choice: Choice) -> str:
    life = choice.life
    if choice.stored_bytes is None or life.price_per_gib_month is None:
        return "not measured"
    amount = f"{choice.stored_bytes / 2**30:.3g} GiB x {life.months:g} months x {life.price_per_gib_month:g}"
    return f"{amount} = {choice.storage_cost:.2g}"
