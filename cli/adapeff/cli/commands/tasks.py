"""`adapeff methods`, `tasks`, `suites`: what is registered, ours and strangers'."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapeff.cli import completion
from adapeff.cli import invocation as context
from adapeff.cli.options import DataRoot, Json

if TYPE_CHECKING:
    from adapeff.service.plugins.contracts import Method, Suite, Task

methods_app = typer.Typer(name="methods", help="Ways of adapting a model.", no_args_is_help=True)
tasks_app = typer.Typer(name="tasks", help="Benchmark tasks.", no_args_is_help=True)
suites_app = typer.Typer(name="suites", help="Named sets of tasks.", no_args_is_help=True)
MethodName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.method_names)]
TaskName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.task_names)]
SuiteName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.suite_names)]


@methods_app.command("ls")
def list_methods(
    model: Annotated[
        str | None, typer.Option("--model", help="Count what each would train on this model; its weights are not read.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods: ours, PEFT's, and those of installed plug-ins.

    Examples:

        adapeff methods ls

        adapeff methods ls --model xlm-roberta-large
    """
    from adapeff.service.plugins import catalog

    known = sorted(catalog.methods().items(), key=lambda item: (":" in item[0], item[0]))
    rows = [_method(name, kind) for name, kind in known]
    if model is None:
        _print_list("methods", rows, ["name", "learning_rate", "paper"], as_json=as_json)
        return
    size, counts = _count(model, [row["name"] for row in rows])
    for row in rows:
        row |= {"trainable_parameters": counts[row["name"]][0], "reason": counts[row["name"]][1]}
    if as_json:
        print(json.dumps({"model": size, "methods": rows}, indent=1))
        return
    from adapeff.cli.render.tables import print_table

    print_table(
        f"{size['model']} ({size['class']}): {size['parameters']:,} parameters; what each method trains, head apart",
        ["method", "trains", "%", "learning rate", "paper, or why not"],
        [[row["name"], *_share(row["trainable_parameters"], size["parameters"]), f"{row['learning_rate']:g}",
          row["reason"] or row["paper"]] for row in rows],
    )  # fmt: skip


def _share(trained: int | None, total: int) -> list[str]:
    return ["–", "–"] if trained is None else [f"{trained:,}", f"{trained / total * 100:.3g}"]


def _count(model: str, names: list[str]) -> tuple[dict[str, Any], dict[str, tuple[int | None, str]]]:
    size, *answers = _ask_worker("count", "--model", model, *names)
    return size, {answer["method"]: (answer["trainable_parameters"], answer["reason"]) for answer in answers}


@methods_app.command("show")
def show_method(name: MethodName, as_json: Json = False) -> None:
    """Show a method's hyper-parameters with their defaults, its learning rate and the sources.

    Example:

        adapeff methods show lora
    """
    from adapeff.service.errors import UnknownNameError
    from adapeff.service.plugins import catalog

    if name not in catalog.methods():
        raise UnknownNameError("method", name, catalog.methods())
    _print_one(_method(name, catalog.methods()[name]), as_json=as_json)


def _method(name: str, kind: type[Method]) -> dict[str, Any]:
    return {
        "name": name,
        "description": " ".join((kind.__doc__ or "").split()),
        "paper": kind.paper,
        "learning_rate": kind.default_learning_rate,
        "learning_rate_source": kind.learning_rate_source,
        "parameters": {
            field: "(required)" if info.is_required() else info.default for field, info in kind.model_fields.items()
        },
    }


@tasks_app.command("ls")
def list_tasks(as_json: Json = False) -> None:
    """List the tasks.

    Example:

        adapeff tasks ls
    """
    from adapeff.service.plugins import catalog

    _print_list("tasks", [_task(task) for _, task in sorted(catalog.tasks().items())],
                ["name", "family", "languages", "licence"], as_json=as_json)  # fmt: skip


@tasks_app.command("show")
def show_task(name: TaskName, as_json: Json = False) -> None:
    """Show a task: data, labels, languages, licence, parameters.

    Example:

        adapeff tasks show xnli
    """
    from adapeff.service.plugins import catalog

    values = _task(catalog.get_task(name))
    if as_json:
        print(json.dumps(values, indent=1))
        return
    data_sets = values.pop("data_sets", {})
    _print_one(values, as_json=False)
    for data_set, declared in data_sets.items():
        shown = {**declared, "revision": declared["revision"] or "null: the branch as it stands"}
        _print_one({"name": f"data set {data_set}", **shown}, as_json=False)


def _task(task: Task) -> dict[str, Any]:
    values = task.record()
    ceiling = task.ceiling()
    return {**values, **({"ceiling": ceiling} if ceiling is not None else {})}


@tasks_app.command("init")
def init_task(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A data file: CSV, TSV, JSON, JSON lines, Parquet, CoNLL.")
    ],
    as_json: Json = False,
) -> None:
    """Write a task.yaml beside a data file from what it shows: a draft to look over.

    Example:

        adapeff tasks init reviews/data.csv
    """
    (made,) = _ask_worker("init", file)
    if as_json:
        print(json.dumps(made, indent=1))
        return
    import yaml

    print(f"wrote {made['file']}:\n")
    print(yaml.safe_dump(made["task"], sort_keys=False, allow_unicode=True))
    folder = str(Path(made["file"]).parent)
    name = folder if folder.startswith(("/", ".")) else f"./{folder}"
    context.note(f"look it over, then: adapeff tasks validate {name}")


@tasks_app.command("validate")
def validate_task(
    name: Annotated[str, typer.Argument(metavar="TASK", help="A task, or the file or folder that describes your own.")],
    model: Annotated[str | None, typer.Option("--model", help="Count lengths in this model's tokens.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens examples are cut to; default: the task's.")
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Look a task's data over: sizes, labels, lengths, repeats, leakage, faults. Exits with 1 where `submit` refuses.

    Examples:

        adapeff tasks validate ./reviews

        adapeff tasks validate xnli --data-root /data --model xlm-roberta-base
    """
    context.set_flags(data_root=data_root)
    context.settings()
    arguments = [name, *(["--model", model] if model else [])]
    arguments += ["--max-length", str(max_length)] if max_length else []
    found = _ask_worker("validate", *arguments)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _print_validation(name, found)
    if any(part["error"] for part in found):
        raise typer.Exit(1)


def _print_validation(name: str, found: list[dict[str, Any]]) -> None:
    from adapeff.cli.render.tables import print_table

    unit = next((part["length_unit"] for part in found if not part["error"]), "words")
    cut = "over max_length" if any(part["cut"] is not None for part in found) else ""
    rows = [
        [part["split"], part["language"], f"{part['examples']:,}", f"{part['length_p50']} / {part['length_p95']} / "
         f"{part['length_max']}", *([str(part["cut"])] if cut else []), _shares(part["labels"])]
        for part in found if not part["error"]
    ]  # fmt: skip
    if rows:
        headings = ["split", "language", "examples", f"{unit} p50 / p95 / max", *([cut] if cut else []), "labels"]
        print_table(name, headings, rows)
    for part in found:
        for warning in part["warnings"]:
            print(f"warning: {part['split']} {part['language']}: {warning}")
    errors = list(dict.fromkeys(part["error"] for part in found if part["error"]))
    for error in errors:
        print(f"error: {error}")
    warnings = sum(len(part["warnings"]) for part in found)
    print(f"{len(errors)} error(s), {warnings} warning(s)")


def _shares(labels: dict[str, int]) -> str:
    total = sum(labels.values())
    shown = [f"{label} {count / total * 100:.0f} %" for label, count in list(labels.items())[:10]]
    return ", ".join(shown) + (f", {len(labels) - 10} more" if len(labels) > 10 else "")


@tasks_app.command("verify")
def verify_data_sets(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA_SET]...", help="Data sets by name; default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the hub's data sets as they are declared, and pin the commits that were read. Needs the hub.

    Example:

        adapeff tasks verify xnli paws-x
    """
    found = _ask_worker("verify", *(names or []))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        from adapeff.cli.render.tables import print_table

        rows = [[one["data_set"], one["hub"], one["commit"][:12], "; ".join(one["faults"]) or "reads as declared"]
                for one in found]  # fmt: skip
        print_table("data sets", ["data set", "hub id", "commit", "result"], rows)
    if any(one["faults"] for one in found):
        raise typer.Exit(1)


def _ask_worker(verb: str, *arguments: str) -> list[dict[str, Any]]:
    """Have the worker do it, in a process of its own: this one has no torch."""
    command = [sys.executable, "-m", "adapeff.worker", verb, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=context.child_environment(), check=False)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)  # the worker has said why
    return [json.loads(line) for line in done.stdout.splitlines()]


@suites_app.command("ls")
def list_suites(as_json: Json = False) -> None:
    """List the suites.

    Example:

        adapeff suites ls
    """
    from adapeff.service.plugins import catalog

    _print_list("suites", [_suite(suite) for _, suite in sorted(catalog.suites().items())],
                ["name", "tasks", "description"], as_json=as_json)  # fmt: skip


@suites_app.command("show")
def show_suite(name: SuiteName, as_json: Json = False) -> None:
    """Show a suite's tasks.

    Example:

        adapeff suites show offline
    """
    from adapeff.service.plugins import catalog

    _print_one(_suite(catalog.get_suite(name)), as_json=as_json)


def _suite(suite: Suite) -> dict[str, Any]:
    return {"name": suite.name, "tasks": list(suite.tasks), "description": suite.description}


def _print_list(title: str, rows: list[dict[str, Any]], columns: list[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from adapeff.cli.render.tables import print_table

    print_table(
        title, [column.replace("_", " ") for column in columns], [[_text(row[c]) for c in columns] for row in rows]
    )


def _print_one(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1))
        return
    from adapeff.cli.render.tables import print_table

    told = {key: value for key, value in values.items() if key != "name" and value not in (None, "", {}, [])}
    rows = [[key.replace("_", " "), _text(value)] for key, value in told.items()]
    print_table(str(values["name"]), ["", ""], rows)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        if all(isinstance(item, str) for item in value.values()):
            same = all(key == item for key, item in value.items())
            return ", ".join(value if same else [f"{key}: {item}" for key, item in value.items()])
        return "\n".join(f"{key} = {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
