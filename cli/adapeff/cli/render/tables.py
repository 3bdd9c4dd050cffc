"""Print tables for people on stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from adapeff.cli.render.text import printable
from adapeff.service.reporting.queue_summary import QueueSummary
from adapeff.service.reporting.variation import in_words
from adapeff.service.reporting.words import duration, stage_in_words

LONGEST_NAME = 24
"""Names in a table's first column are not wrapped if none is longer than this."""
_STATE_STYLE = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}


def stdout() -> Console:
    """A console on stdout; in a pipe or file, lines may be as long as necessary."""
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else max(160, _requested_columns())
    return Console(width=width, highlight=False)


def _requested_columns() -> int:
    return shutil.get_terminal_size((160, 24)).columns


def shown(text: object) -> str:
    """Escape untrusted text for a table."""
    return escape(printable(str(text)))


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table."""
    table = RichTable(title=shown(title), title_justify="left", title_style="bold", show_header=any(headings))
    for number, heading in enumerate(headings):
        longest = max((len(str(row[number])) for row in rows), default=0)
        table.add_column(shown(heading), overflow="fold", no_wrap=number == 0 and longest <= LONGEST_NAME)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    stdout().print(table)


def jobs_table(snapshot: dict[str, Any]) -> RichTable | str:
    """The table of `adapeff status`; columns with the same value for all jobs move to the title.

    Without a job to show, the lines above the table.
    """
    counts = ", ".join(f"{count} {state}" for state, count in sorted(snapshot["counts"].items())) or "no jobs yet"
    hidden = sum(snapshot["counts"].values()) - len(snapshot["jobs"])
    title = f"{counts} ({len(snapshot['jobs'])} shown; --limit shows more)" if hidden > 0 else counts
    columns = {
        "sweep": [", ".join(job["sweeps"]) for job in snapshot["jobs"]],
        "model": [job["model"] for job in snapshot["jobs"]],
        "task": [job["task"] for job in snapshot["jobs"]],
        "method": [job["method"] for job in snapshot["jobs"]],
        "seed": ["" if job["kind"] == "profile" else str(job["seed"]) for job in snapshot["jobs"]],
        "settings": [in_words(job["varied"]) for job in snapshot["jobs"]],
        "repeat": [str(job["repeat"] or "") for job in snapshot["jobs"]],
    }
    several = len(snapshot["jobs"]) > 1
    same = {name for name, values in columns.items() if len(set(values)) == 1}
    common = [f"{name} {columns[name][0]}" for name in columns if several and name in same and columns[name][0]]
    kept = {name: values for name, values in columns.items() if name not in same or (not several and values[0])}
    queue = QueueSummary(**snapshot["queue"]).text if "queue" in snapshot else ""
    if not snapshot["jobs"]:
        none = "none of them is in a state that --state names" if snapshot["counts"] else ""
        return "\n".join(filter(None, (counts, queue, none)))
    title = "\n".join(filter(None, (title, queue, "; ".join(common))))
    table = RichTable(title=shown(title), title_justify="left", title_style="bold")
    for heading in ("job", "state", *kept, "time", "now"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("job", "state", "time"))
    for at, job in enumerate(snapshot["jobs"]):
        style = _STATE_STYLE.get(job["state"], "")
        state = "cancelling" if job["cancelling"] else "held" if job["held"] else job["state"]
        state = f"[{style}]{state}[/]" if style else state
        words = [shown(values[at]) for values in kept.values()]
        table.add_row(str(job["id"]), state, *words, duration(job["seconds"]), shown(_now(job)))
    return table


def _now(job: dict[str, Any]) -> str:
    where = f"{job['slot']} on {job['host']}" if job["host"] else ""
    if job["state"] != "running":
        return str(job["cause"]) or where
    return f"{where}: {stage_in_words(job['stage'], job['progress'])}"


def print_job(view: dict[str, Any]) -> None:
    """Print one job with its runs and measurements."""
    spec = view["spec"]
    state = ["state", f"{view['state']}{': ' + view['cause'] if view['cause'] else ''}"]
    head = [
        state,
        *(_profile_head(spec) if spec["kind"] == "profile" else _train_head(spec)),
        ["job hash", view["job_hash"]],
        ["folder", view["runs"][-1]["folder"] if view["runs"] else "not run yet"],
        ["failures", f"{view['failures']} of at most {view['max_failures']}"],
    ]
    print_table(f"job {view['id']}", ["", ""], head)
    if view["runs"]:
        rows = [
            [run["token"], run["outcome"], run["slot"], run["worker"], run["started_at"][:19], run["message"]]
            for run in view["runs"]
        ]
        print_table("runs", ["run", "outcome", "slot", "worker", "started (UTC)", "message"], rows)
    if view["measurements"]:
        rows = [_measurement(measurement) for measurement in view["measurements"]]
        print_table("measurements", ["name", "where", "value", "unit"], rows)


def _train_head(spec: dict[str, Any]) -> list[list[str]]:
    return [
        ["method", f"{spec['method']['name']} {spec['method']['parameters'] or ''}".strip()],
        ["task", f"{spec['task']['name']} {spec['task']['parameters'] or ''}".strip()],
        ["model", spec["model"]["name"]],
        ["seed", str(spec["seed"])],
        ["learning rate", f"{spec['training']['learning_rate']:g} ({spec['learning_rate_source']})"],
        [
            "settings",
            ", ".join(f"{k}={v}" for k, v in {**spec["training"], **spec["measuring"]}.items() if v is not None),
        ],
    ]


def _profile_head(spec: dict[str, Any]) -> list[list[str]]:
    settings = ", ".join(f"{key}={value}" for key, value in spec["settings"].items() if value is not None)
    methods = ", ".join(f"{m['name']} {m['parameters'] or ''}".strip() for m in spec["methods"])
    return [["profile of", methods], ["model", spec["model"]["name"]], ["settings", settings]]


def _measurement(measurement: dict[str, Any]) -> list[str]:
    where = " ".join(
        f"{key}={value}" for key, value in measurement.items() if key not in ("name", "value", "unit", "reason")
    )
    value = measurement["reason"] if measurement["value"] is None else f"{measurement['value']:.6g}"
    return [measurement["name"], where, value, measurement["unit"]]
