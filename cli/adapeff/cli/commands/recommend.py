"""`adapeff recommend`: which method holds your limits, and what it costs over its life."""

from __future__ import annotations

from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import AllJobs, Json, SweepName, check_exclusive
from adapeff.cli.output import ReportFormat, print_grids_as
from adapeff.cli.report_options import price_of, read_margin
from adapeff.service.errors import JobError, SpecError
from adapeff.service.reporting.quantities import (
    read_bytes,
    read_latency,
    read_price,
    read_rate,
    read_shape,
    read_storage_price,
)
from adapeff.service.reporting.recommend import Life, Limits
from adapeff.service.reporting.recommend import recommend as recommend_method
from adapeff.service.reporting.recommend_grids import recommendation_grids
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.selection import Selection
from adapeff.service.store import sweeps


def recommend(
    context: typer.Context,
    sweep: SweepName = None,
    named: Annotated[str | None, typer.Option("--sweep", help="The sweep, in place of the argument.")] = None,
    all_jobs: AllJobs = False,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only these runs, as for `report`.")
    ] = None,
    min_quality: Annotated[
        float | None, typer.Option(help="Share of the reference's score to hold, such as 0.99.", min=0.0, max=1.0)
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="How far below the reference still counts as equal; default: 1pt.")
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="Longest forward pass at a batch x tokens, such as 20ms@8x128.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory of training, such as 2GiB.")] = None,
    tasks_planned: Annotated[int, typer.Option(help="Tasks to train and store.", min=1, max=10**6)] = 1,
    requests: Annotated[str | None, typer.Option(help="Requests to serve, such as 1e6/month or 50/s.")] = None,
    serve_at: Annotated[
        str | None, typer.Option(help="Batch x tokens of serving; default: the shape of --max-latency.")
    ] = None,
    months: Annotated[float, typer.Option(help="How long to serve.", min=0.01, max=1200)] = 12,
    price: Annotated[
        str | None, typer.Option(help="Price of a device hour, such as 2.5/h; default: the setting.")
    ] = None,
    storage_price: Annotated[
        str | None, typer.Option(help="Price of storage, such as 0.02/GiB-month; needs a price of devices.")
    ] = None,
    pscp: Annotated[
        bool, typer.Option("--pscp", help="Add PEFT-Bench's score, which lowers quality by parameters, FLOPs, memory.")
    ] = False,
    form: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = "table",
    as_json: Json = False,
) -> None:
    """Rank the methods by whether they hold your limits, then by their cost over a stated life.

    Limits are held for sure, perhaps or not, by 95 % intervals; one seed is never sure. A latency counts only if it was
    measured at exactly the shape; otherwise the command that measures it is printed. The cost is that of tuning,
    training and serving (device hours), and of storage if it has a price. A second table says what it rests on.

    Examples:

        adapeff recommend demo

        adapeff recommend demo --min-quality 0.99 --max-latency 20ms@1x32

        adapeff recommend demo --tasks-planned 20 --requests 1e6/month --serve-at 32x32 --price 2.5/h
    """
    check_exclusive("a sweep", sweep is not None, "--sweep", named is not None)
    sweep = sweep or named
    check_exclusive("a sweep", sweep is not None, "--all", all_jobs)
    check_exclusive("--min-quality", min_quality is not None, "--margin", margin is not None)
    check_exclusive("--json", as_json, f"--format {form}", form not in ("table", "json"))
    seconds, shape = read_latency("--max-latency", max_latency) if max_latency else (None, "")
    served = read_shape("--serve-at", serve_at) if serve_at else shape
    if shape and served != shape:
        raise SpecError(f"--serve-at is {served}, but --max-latency is at {shape}; give one shape")
    if requests and not served:
        raise SpecError("--requests needs the shape of serving; add --serve-at, such as --serve-at 8x128")
    invocation = Invocation.of(context)
    setting = price_of(invocation.settings)
    hourly = read_price("--price", price) if price else setting.hourly if setting else None
    stored = read_storage_price("--storage-price", storage_price) if storage_price else None
    if stored is not None and hourly is None:
        raise SpecError("--storage-price needs the price of a device hour to add up; add --price, such as 2.5/h")
    limits = Limits(min_quality, seconds, served, read_bytes("--max-memory", max_memory) if max_memory else None)
    life = Life(tasks_planned, read_rate("--requests", requests) if requests else None, months, hourly, stored)
    options = Options(margin=read_margin(margin), selection=Selection.parse(where or ()))
    with invocation.database() as database, database.session(read_only=True) as session:
        sweep_ids = None if all_jobs else sweeps.find_sweep_ids(session, sweep)
        decisions = build_report(session, sweep_ids=sweep_ids, options=options).decisions
    if not decisions:
        raise JobError("no job has finished yet, so there is nothing to recommend; see `adapeff status`")
    found = [recommend_method(decision, limits, life, with_pscp=pscp) for decision in decisions]
    print_grids_as([grid for each in found for grid in recommendation_grids(each)], "json" if as_json else form)
