"""Copy finished runs to MLflow: one way, once each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from adapeff.service.errors import ConfigError, first_line
from adapeff.service.masking import mask
from adapeff.service.reporting.finished_runs import FinishedRun
from adapeff.service.reporting.mlflow_records import KEY, MlflowRecord, mlflow_record

EXPERIMENT = "adapeff"
_METRICS, _PARAMETERS = 1000, 100
"""Entries that MLflow takes in one request."""


class Copied(NamedTuple):
    """Numbers of runs."""

    new: int
    present: int


def check_mlflow() -> None:
    """Refuse to start without MLflow.

    Raises:
        ConfigError: naming what to install.
    """
    _mlflow()


def copy_runs(runs: Iterable[FinishedRun], uri: str) -> Copied:
    """Create a run of MLflow for each run that it does not have yet; one that an interruption left incomplete is new.

    Args:
        uri: of the tracking server or store, such as http://host:5000 or sqlite:///mlflow.db.

    Raises:
        ConfigError: if MLflow is not installed, or does not answer at that URI.
    """
    mlflow = _mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = _experiment(client)
        known = _known(client, experiment)
        new = present = 0
        for run in runs:
            record = mlflow_record(run)
            before = known.get(record.key)
            if before is not None and before.info.status == "FINISHED":
                _update_sweep(client, before, record)
                present += 1
                continue
            if before is not None:
                client.delete_run(before.info.run_id)
            _create(mlflow, client, experiment, record)
            new += 1
    except mlflow.MlflowException as error:
        raise ConfigError(f"MLflow at '{mask(uri)}' cannot be used: {mask(first_line(error)):.300}") from error
    return Copied(new, present)


def _mlflow() -> Any:
    """The package; it sends nothing to its makers, prints nothing, and does not try for minutes to reach a server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:  # an optional dependency
        import mlflow
    except ModuleNotFoundError as error:
        raise ConfigError("--mlflow needs MLflow; run pip install 'adapeff[mlflow]'") from error
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found is not None else client.create_experiment(EXPERIMENT))


def _known(client: Any, experiment: str) -> dict[str, Any]:
    """Key -> each run that was copied before."""
    known: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            if key := run.data.tags.get(KEY):
                known[key] = run
        token = page.token
        if not token:
            return known


def _update_sweep(client: Any, before: Any, record: MlflowRecord) -> None:
    """Name the sweeps of a run again: its job may have become part of another one."""
    sweep = record.tags.get("adapeff.sweep")
    if sweep and sweep != before.data.tags.get("adapeff.sweep"):
        client.set_tag(before.info.run_id, "adapeff.sweep", sweep)


def _create(mlflow: Any, client: Any, experiment: str, record: MlflowRecord) -> None:
    entities = mlflow.entities
    created = client.create_run(experiment, start_time=record.start_ms, tags=dict(record.tags), run_name=record.name)
    run_id = created.info.run_id
    metrics = [entities.Metric(point.metric, point.value, record.end_ms, point.step) for point in record.points]
    parameters = [entities.Param(name, value) for name, value in record.parameters.items()]
    for start in range(0, len(metrics), _METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS])
    for start in range(0, len(parameters), _PARAMETERS):
        client.log_batch(run_id, params=parameters[start : start + _PARAMETERS])
    client.set_terminated(run_id, status="FINISHED", end_time=record.end_ms)
