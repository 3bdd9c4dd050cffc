"""`adapeff methods`: list the installed methods of adapting a model."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from adapeff.cli import completion
from adapeff.cli.invocation import Invocation
from adapeff.cli.options import Json
from adapeff.cli.render.records import print_record, print_records
from adapeff.cli.render.tables import print_table
from adapeff.cli.worker_client import WorkerClient
from adapeff.service.errors import UnknownNameError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Method

app = typer.Typer(name="methods", help="List methods of adapting a model.", no_args_is_help=True)


@app.command("ls")
def list_methods(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Count the parameters each method would train on this model; loads no weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods: built-in ones, PEFT's, and those of installed plug-ins.

    Examples:

        adapeff methods ls

        adapeff methods ls --model xlm-roberta-large
    """
    known = sorted(catalog.methods().items(), key=lambda item: (":" in item[0], item[0]))
    records = [_record(name, method) for name, method in known]
    if model is None:
        print_records("methods", records, ["name", "learning_rate", "paper"], as_json=as_json)
        return
    client = WorkerClient(Invocation.of(context).child_environment())
    size, answers = client.count(model, [record["name"] for record in records])
    counts = {answer["method"]: answer for answer in answers}
    for record in records:
        record |= {key: counts[record["name"]][key] for key in ("trainable_parameters", "reason")}
    if as_json:
        print(json.dumps({"model": size, "methods": records}, indent=1))
        return
    print_table(
        f"{size['model']} ({size['class']}): {size['parameters']:,} parameters; trainable by method, without the head",
        ["method", "trainable", "%", "learning rate", "paper, or why not applicable"],
        [
            [
                record["name"],
                *_share(record["trainable_parameters"], size["parameters"]),
                f"{record['learning_rate']:g}",
                record["reason"] or record["paper"],
            ]
            for record in records
        ],
    )


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.method_names)],
    as_json: Json = False,
) -> None:
    """Show a method's hyper-parameters with their defaults, its learning rate and its sources.

    Example:

        adapeff methods show lora
    """
    if name not in catalog.methods():
        raise UnknownNameError("method", name, catalog.methods())
    print_record(_record(name, catalog.methods()[name]), as_json=as_json)


def _record(name: str, method: type[Method]) -> dict[str, Any]:
    return {
        "name": name,
        "description": " ".join((method.__doc__ or "").split()),
        "paper": method.paper,
        "learning_rate": method.default_learning_rate,
        "learning_rate_source": method.learning_rate_source,
        "parameters": {
            field: "(required)" if info.is_required() else info.default for field, info in method.model_fields.items()
        },
    }


def _share(trained: int | None, total: int) -> list[str]:
    return ["–", "–"] if trained is None else [f"{trained:,}", f"{trained / total * 100:.3g}"]
