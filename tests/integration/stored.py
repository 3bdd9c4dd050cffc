"""Finished profiles for tests of reports; finished runs are made by `test_report.store`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapeff.service.specs.profile import plan_profile
from adapeff.service.store import results, sweeps
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from tests.factories import claimer

Interval = tuple[float, float, float]
"""A ratio with its bounds: ratio, low, high."""


def store_profile(
    database: Database,
    steps: Mapping[str, Interval],
    latency: Mapping[str, Interval] | None = None,
    *,
    device: str = "Test CPU",
    shape: tuple[int, int] = (1, 64),
    latency_of: Mapping[str, tuple[float, float]] | None = None,
    batches: Mapping[int, float] | None = None,
    forward_flops: Mapping[str, float] | None = None,
    parts: Mapping[str, float] | None = None,
    versions: Mapping[str, int] | None = None,
    **settings: Any,
) -> int:
    """A finished profile of `full` and the methods with these ratios of a training step and of a forward pass.

    Args:
        latency_of: the interval of a method's forward pass, which takes 1 s.
        batches: further batches, of the same length -> seconds of `full`'s forward pass.
        parts: phase -> seconds of it in a training step of every method.
        versions: the versions of figures whose meaning has changed.

    Returns:
        Its job id.
    """
    request = plan_profile("org/model", list(steps), settings={"batch": 32, "length": 64, **settings})
    with database.session() as session:
        (job_id,) = sweeps.submit(session, request, [request.spec], max_failures=3, force=True).job_ids
    claim = claimer(database)(job_id)
    assert claim is not None
    found = RunResults(environment={"device_name": device, "precision": "fp32", "torch": "2.13.0", "torch_threads": 1})
    batch, length = shape
    for method in ("full", *steps):
        variant = {"method": method}
        for name, where in (("step_latency_s", {}), ("latency_s", {"batch": batch, "length": length})):
            event = {"event": "measurement", "name": name, "value": 1.0, "unit": "s", "statistic": "p50"}
            found.take({**event, "variant": variant, **where})
        for phase, seconds in (parts or {}).items():
            event = {
                "event": "measurement",
                "name": "step_latency_s",
                "value": seconds,
                "unit": "s",
                "statistic": "p50",
            }
            found.take({**event, "variant": variant, "phase": phase})
        for side, seconds in zip(("low", "high"), (latency_of or {}).get(method, ()), strict=False):
            event = {"event": "measurement", "name": "latency_s", "value": seconds, "unit": "s"}
            at = {"statistic": f"p50_{side}", "batch": batch, "length": length}
            found.take({**event, "variant": variant, **at})
    for further, seconds in (batches or {}).items():
        event = {"event": "measurement", "name": "latency_s", "value": seconds, "unit": "s", "statistic": "p50"}
        where = {"batch": further, "length": length}
        found.take({**event, "variant": {"method": "full"}, **where})
        for statistic in ("ratio", "low", "high"):
            event = {"event": "measurement", "name": "latency_ratio", "value": 1.0, "unit": "1", "statistic": statistic}
            found.take({**event, "variant": {"method": "full", "reference": "full"}, **where})
    for method, flops in (forward_flops or {}).items():
        event = {"event": "measurement", "name": "step_flops", "value": flops, "unit": "1", "phase": "forward"}
        found.take({**event, "variant": {"method": method}})
    for name, ratios, where in (
        ("step_ratio", steps, {}),
        ("latency_ratio", latency or steps, {"batch": batch, "length": length}),
    ):
        for method, interval in ratios.items():
            for statistic, value in zip(("ratio", "low", "high"), interval, strict=True):
                event = {"event": "measurement", "name": name, "value": value, "unit": "1", "statistic": statistic}
                found.take({**event, "variant": {"method": method, "reference": "full"}, **where})
    resolved = {"random_weights": False, **({"measurement_versions": dict(versions)} if versions else {})}
    with database.session() as session:
        results.finish(session, claim, RunOutcome("succeeded", resolved=resolved), found)
    return job_id
