"""`adapeff tasks`: list the installed benchmark tasks, and prepare your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import note
from adapeff.cli.options import DataRoot, Json
from adapeff.cli.render.records import print_record, print_records
from adapeff.cli.render.tables import print_table
from adapeff.cli.worker_client import WorkerClient
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Task

app = typer.Typer(name="tasks", help="List benchmark tasks, and prepare your own.", no_args_is_help=True)


@app.command("ls")
def list_tasks(as_json: Json = False) -> None:
    """List the tasks.

    Example:

        adapeff tasks ls
    """
    records = [_record(task) for _, task in sorted(catalog.tasks().items())]
    print_records("tasks", records, ["name", "family", "languages", "licence"], as_json=as_json)


@app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.task_names)],
    as_json: Json = False,
) -> None:
    """Show a task: its data, labels, languages, licence and parameters.

    Example:

        adapeff tasks show xnli
    """
    record = _record(catalog.get_task(name))
    if as_json:
        print(json.dumps(record, indent=1))
        return
    data_sets = record.pop("data_sets", {})
    print_record(record, as_json=False)
    for data_set, declared in data_sets.items():
        revision = declared["revision"] or "null: the latest commit"
        print_record({"name": f"data set {data_set}", **declared, "revision": revision}, as_json=False)


def _record(task: Task) -> dict[str, Any]:
    ceiling = task.ceiling()
    return {**task.record(), **({"ceiling": ceiling} if ceiling is not None else {})}


@app.command("init")
def init_task(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A data file: CSV, TSV, JSON, JSON lines, Parquet, CoNLL.")
    ],
    as_json: Json = False,
) -> None:
    """Draft a task.yaml for a data file, in the same folder; review it before use.

    Example:

        adapeff tasks init reviews/data.csv
    """
    draft = WorkerClient(Invocation.of(context).child_environment()).init_task(file)
    if as_json:
        print(json.dumps(draft, indent=1))
        return
    print(f"wrote {draft['file']}:\n")
    print(yaml.safe_dump(draft["task"], sort_keys=False, allow_unicode=True))
    folder = str(Path(draft["file"]).parent)
    name = folder if folder.startswith(("/", ".")) else f"./{folder}"
    note(f"review it, then run: adapeff tasks validate {name}")


@app.command("validate")
def validate_task(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="TASK", help="A task's name, or the path of your own task's file or folder.")
    ],
    model: Annotated[str | None, typer.Option("--model", help="Count lengths in this model's tokens.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens to which examples are truncated; default: the task's own.")
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Check a task's data: sizes, labels, lengths, duplicates, leakage. Exits with 1 if `submit` would refuse it.

    Examples:

        adapeff tasks validate ./reviews

        adapeff tasks validate xnli --data-root /data --model xlm-roberta-base
    """
    invocation = Invocation.of(context, data_root=data_root)
    invocation.check_settings()
    client = WorkerClient(invocation.child_environment())
    parts = client.validate_task(name, model=model, max_length=max_length)
    if as_json:
        print(json.dumps(parts, indent=1))
    else:
        _print_validation(name, parts)
    if any(part["error"] for part in parts):
        raise typer.Exit(1)


def _print_validation(name: str, parts: list[dict[str, Any]]) -> None:
    readable = [part for part in parts if not part["error"]]
    unit = next((part["length_unit"] for part in readable), "words")
    truncated = ["truncated"] if any(part["cut"] is not None for part in parts) else []
    rows = [
        [
            part["split"],
            part["language"],
            f"{part['examples']:,}",
            f"{part['length_p50']} / {part['length_p95']} / {part['length_max']}",
            *([str(part["cut"])] if truncated else []),
            _shares(part["labels"]),
        ]
        for part in readable
    ]
    if rows:
        print_table(name, ["split", "language", "examples", f"{unit} p50 / p95 / max", *truncated, "labels"], rows)
    for part in parts:
        for warning in part["warnings"]:
            print(f"warning: {part['split']} {part['language']}: {warning}")
    errors = list(dict.fromkeys(part["error"] for part in parts if part["error"]))
    for error in errors:
        print(f"error: {error}")
    warnings = sum(len(part["warnings"]) for part in parts)
    print(f"{_count(len(errors), 'error')}, {_count(warnings, 'warning')}")


def _shares(labels: dict[str, int]) -> str:
    total = sum(labels.values())
    shown = [f"{label} {count / total * 100:.0f} %" for label, count in list(labels.items())[:10]]
    return ", ".join(shown) + (f", {len(labels) - 10} more" if len(labels) > 10 else "")


@app.command("verify")
def verify_data_sets(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA_SET", help="Names of data sets; default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that data sets on the hub match their declarations, and pin their commits. Requires access to the hub.

    Example:

        adapeff tasks verify xnli paws-x
    """
    results = WorkerClient(Invocation.of(context).child_environment()).verify_data_sets(names or [])
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        rows = [
            [result["data_set"], result["hub"], result["commit"][:12], "; ".join(result["faults"]) or "as declared"]
            for result in results
        ]
        print_table("data sets", ["data set", "hub id", "commit", "result"], rows)
    if any(result["faults"] for result in results):
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
