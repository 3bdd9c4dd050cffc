"""Tables of the documentation that come from the code, by the name in their marker: `<!-- table: methods -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from adapeff.service.measurements import measurement_table
from adapeff.service.plugins import catalog

MARKER = re.compile(r"<!-- table: ([A-Za-z ]+) -->")


def methods_table() -> str:
    """Every method of the catalog but PEFT's tuners."""
    rows = [
        (f"`{name}`", _summary(kind), _paper(kind.paper), f"{kind.default_learning_rate:g}", kind.learning_rate_source)
        for name, kind in catalog.methods().items()
        if not name.startswith("peft:")
    ]
    return table(("method", "what it does", "paper", "default learning rate", "its source"), rows)


def tuners_table() -> str:
    """PEFT's tuners."""
    rows = [
        (f"`{name}`", _paper(kind.paper), f"{kind.default_learning_rate:g}", kind.learning_rate_source)
        for name, kind in sorted(catalog.methods().items())
        if name.startswith("peft:")
    ]
    return table(("method", "paper", "default learning rate", "its source"), rows)


def tasks_table() -> str:
    """Every task of the catalog."""
    rows = [
        (f"`{name}`", task.title, f"`{task.family}`", f"`{task.metric}`", task.source_language, task.licence)
        for name, task in sorted(catalog.tasks().items())
    ]
    return table(("task", "title", "family", "metric", "source language", "licence"), rows)


def suites_table() -> str:
    """Every suite with its tasks."""
    rows = [(f"`{name}`", ", ".join(f"`{task}`" for task in suite.tasks)) for name, suite in catalog.suites().items()]
    return table(("suite", "tasks"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "methods": methods_table,
    "tuners of PEFT": tuners_table,
    "measurements": measurement_table,
}


def filled(markdown: str) -> str:
    """A page with its tables in place of their markers.

    Raises:
        KeyError: for a marker that names no table.
    """
    return MARKER.sub(lambda marker: TABLES[marker[1]](), markdown)


def _summary(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _paper(cited: str) -> str:
    """A citation whose arXiv number is a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", cited)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
