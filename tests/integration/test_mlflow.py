"""Runs in MLflow: each once, with the figures as stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from adapeff.cli.mlflow_export import copy_runs
from adapeff.service.errors import ConfigError
from adapeff.service.measured import Key
from adapeff.service.measurements import MEASUREMENTS
from adapeff.service.reporting.mlflow_records import metric_name, mlflow_record
from adapeff.service.store.archive import write_archive
from adapeff.service.store.archive_import import ImportedFiles, import_lines
from adapeff.service.store.database import Database, upgrade
from tests.integration.test_run_exports import database, runs

__all__ = ["database"]


@pytest.fixture
def mlflow_uri(tmp_path: Path) -> str:
    """A store of MLflow in a file."""
    pytest.importorskip("mlflow", reason="MLflow is not installed; pip install 'adapeff[mlflow]'")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def in_mlflow(uri: str) -> dict[str, Any]:
    """The active runs of the experiment, by adapeff's run id."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "adapeff"]
    found = client.search_runs([experiment.experiment_id])
    by_id = {run.data.tags["adapeff.run_id"]: run for run in found}
    assert len(by_id) == len(found)
    return by_id


BY_MLFLOW = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@BY_MLFLOW
def test_mlflow_holds_each_run_with_its_settings_and_figures(database: Database, mlflow_uri: str) -> None:
    from mlflow import MlflowClient

    copied = copy_runs(runs(database, ("train", "profile")), mlflow_uri)
    there = in_mlflow(mlflow_uri)
    lora = there["3"]

    assert copied == (4, 0) and set(there) == {"1", "2", "3", "4"}
    assert lora.info.status == "FINISHED" and "lora[rank=4] seed 1" in lora.info.run_name
    parameters = lora.data.params
    assert (parameters["method"], parameters["method.rank"], parameters["seed"]) == ("lora[rank=4]", "4", "1")
    assert parameters["training.batch_size"] == "32"
    metrics = lora.data.metrics
    assert (metrics["accuracy/en/test"], metrics["accuracy/de/test"], metrics["train_compute_s"]) == (0.78, 0.51, 50)
    assert metrics["latency_s/p50/batch-32/length-64"] == 0.5
    assert not [name for name in metrics if "peak_memory_allocated" in name]
    assert (metrics["curves/tuning/0.0001"], metrics["curves/tuning/0.0005"]) == (0.6, 0.7)
    assert lora.data.tags["adapeff.device"] == "Test CPU" and lora.data.tags["version.torch"] == "2.13.0"
    history = MlflowClient(tracking_uri=mlflow_uri).get_metric_history(lora.info.run_id, "curves/train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert there["4"].data.metrics["step_ratio/ratio/method-lora/reference-full"] == 0.7


@BY_MLFLOW
def test_a_second_copy_adds_nothing_and_completes_what_was_interrupted(database: Database, mlflow_uri: str) -> None:
    from mlflow import MlflowClient

    copy_runs(runs(database), mlflow_uri)
    before = {run.info.run_id for run in in_mlflow(mlflow_uri).values()}

    assert copy_runs(runs(database), mlflow_uri) == (0, 3)
    assert {run.info.run_id for run in in_mlflow(mlflow_uri).values()} == before

    MlflowClient(tracking_uri=mlflow_uri).set_terminated(in_mlflow(mlflow_uri)["2"].info.run_id, status="RUNNING")
    assert copy_runs(runs(database), mlflow_uri) == (1, 2)
    assert {run.info.status for run in in_mlflow(mlflow_uri).values()} == {"FINISHED"}


@BY_MLFLOW
def test_runs_that_another_database_imported_are_the_same_runs(
    database: Database, mlflow_uri: str, tmp_path: Path
) -> None:
    lines: list[str] = []
    with database.session(read_only=True) as session:
        write_archive(session, None, lines.append)
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    upgrade(other)
    with ImportedFiles(tmp_path / "artifacts") as files, other.session() as session:
        import_lines(session, lines, "archive.gz", files)
    copy_runs(runs(database), mlflow_uri)

    assert copy_runs(runs(other), mlflow_uri) == (0, 3)
    other.close()


@BY_MLFLOW
def test_a_store_that_mlflow_does_not_know_is_an_error_of_one_line(database: Database, mlflow_uri: str) -> None:
    with pytest.raises(ConfigError, match="MLflow at 'nowhere://x' cannot be used: ") as caught:
        copy_runs(runs(database), "nowhere://x")
    assert "\n" not in str(caught.value)


def test_without_mlflow_the_error_names_the_extra(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed

    with pytest.raises(ConfigError, match=r"pip install 'adapeff\[mlflow\]'"):
        copy_runs(runs(database), "sqlite://")


def test_metrics_of_a_run_have_names_of_their_own(database: Database) -> None:
    for run in runs(database, ("train", "profile")):
        record = mlflow_record(run)
        once = [point.metric for point in record.points if not point.metric.startswith("curves/")]

        assert len(set(once)) == len(once)
        assert {point.value for point in record.points if point.metric in once} == {
            one.value for one in run.measured if one.value is not None
        }


def test_names_in_mlflow_are_without_the_folders_of_this_machine(database: Database) -> None:
    record = next(record for run in runs(database) if "Modèle" in (record := mlflow_record(run)).name)

    assert record.name == "Modèle: 1 offline_sentiment lora[rank=4] seed 0 (run 2)"
    assert "secret" not in str(record)


def test_names_of_figures_end_with_their_unit() -> None:
    """So that a metric's name in MLflow says its unit."""
    endings = {"s": "_s", "B": "_bytes", "J": "_j", "1/s": "_per_s", "B/s": "_bytes_per_s"}

    for definition in MEASUREMENTS.values():
        assert definition.unit == "1" or definition.name.endswith(endings[definition.unit])
    key = Key("latency_s", "p99", batch=1, length=0, variant='{"lengths":"real"}')
    assert metric_name(key) == "latency_s/p99/batch-1/lengths-real"
