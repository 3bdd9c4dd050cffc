"""Files for other tools: results in PEFT's layout and model cards for the hub, with the figures as stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from adapeff.cli.run_files import write_run_files
from adapeff.service.errors import SpecError
from adapeff.service.reporting.finished_runs import FinishedRun, finished_runs
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Artifact
from tests.integration.stored import store_profile
from tests.integration.test_report import store

CURVES = {
    "train_loss": [[step, 1 / step] for step in range(1, 5)],
    "validation_accuracy": [[2, 0.6], [4, 0.7]],
    "train_samples": [[2, 64], [4, 128]],
    "train_compute_s": [[2, 30.0], [4, 50.0]],
    "tuning": [[1e-4, 0.6], [5e-4, 0.7]],
}
RESOLVED = {"metric": "accuracy", "source_language": "en", "licence": "CC0", "data_revision:org/data": "d" * 40}
FIGURES = {
    "train_steps": (4, "1"),
    "train_samples": (128, "1"),
    "trainable_parameters": (15, "1"),
    "total_parameters": (1000, "1"),
}
SHA = "a" * 64


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Three training runs, of which the last kept its weights, and a profile."""
    model = tmp_path_factory.mktemp("secret") / "Modèle: 1"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    opened = Database("sqlite://")
    upgrade(opened)
    more: dict[str, Any] = {"curves": CURVES, "resolved": RESOLVED, "figures": FIGURES}
    store(opened, "full", 0, 0.81234567, 50, **more)
    store(opened, "lora[rank=4]", 0, 0.79, 50, models=[str(model)], **more)
    environment = {"device_type": "cpu", "adapeff": "0.1.0", "platform": "Linux-6.1-x86_64"}
    store(opened, "lora[rank=4]", 1, 0.78, 50, environment=environment, **more)
    store_profile(opened, {"lora": (0.7, 0.68, 0.72)})
    with opened.session() as session:
        session.add(Artifact(run_id=3, name="weights", uri="/runs/3/weights.safetensors", sha256=SHA, bytes=2048))
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "exported"
    made.mkdir()
    return made


def runs(database: Database, kinds: tuple[str, ...] = ("train",)) -> list[FinishedRun]:
    with database.session(read_only=True) as session:
        return list(finished_runs(session, kinds=kinds))


def results(database: Database, folder: Path) -> list[dict[str, Any]]:
    """The exported results by run."""
    write_run_files("peft-results", runs(database), folder)
    read = [json.loads(file.read_text()) for file in folder.iterdir()]
    return sorted(read, key=lambda one: str(one["run_info"]["experiment_name"].rpartition("run")[2]))


def test_results_have_the_layout_of_pefts_method_comparison(database: Database, folder: Path) -> None:
    """The keys are those that its `processing.py` reads, and those of its published results."""
    full, _, lora = results(database, folder)

    assert list(full) == ["run_info", "train_info", "meta_info"]
    assert set(full["run_info"]) == {
        *("created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config", "error_msg")
    }
    assert set(full["train_info"]) == {
        *("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th"),
        *("train_time", "file_size", "num_trainable_params", "num_total_params", "status", "metrics"),
    }
    assert {"model_info", "dataset_info", "package_info", "system_info", "pytorch_info"} == set(full["meta_info"])
    assert full["run_info"]["peft_config"] is None and lora["run_info"]["peft_config"]["peft_type"] == "LORA"
    assert lora["run_info"]["train_config"]["model_id"] == "org/model"
    assert lora["meta_info"]["dataset_info"] == {"org/data": {"sha": "d" * 40, "created_at": None}}
    assert lora["meta_info"]["package_info"]["torch-version"] == "2.13.0"
    assert lora["meta_info"]["system_info"]["processor"] == "Test CPU"


def test_results_hold_the_stored_figures_and_null_for_the_others(database: Database, folder: Path) -> None:
    full = results(database, folder)[0]
    info, metrics = full["train_info"], full["train_info"]["metrics"]

    assert (info["train_time"], full["run_info"]["total_time"], info["file_size"]) == (50, 100, 2**20)
    assert (info["num_trainable_params"], info["num_total_params"]) == (15, 1000)
    assert [info[f"accelerator_memory_{name}"] for name in ("max", "reserved_avg", "reserved_99th")] == [None] * 3
    assert [(one["step"], one["train samples"], one["train time"]) for one in metrics[:2]] == [
        (2, 64, 30),
        (4, 128, 20),
    ]
    assert [one["valid accuracy"] for one in metrics[:2]] == [0.6, 0.7]
    assert [one["train loss"] for one in metrics[:2]] == pytest.approx([(1 + 1 / 2) / 2, (1 / 3 + 1 / 4) / 2])
    assert metrics[0]["eval time"] is None
    assert metrics[-1]["test accuracy"] == 0.81234567 and metrics[-1]["test accuracy (de)"] == 0.51
    assert metrics[-1]["train total tokens"] is None


def test_names_of_files_are_safe_and_unlike(database: Database, folder: Path) -> None:
    count, without = write_run_files("peft-results", runs(database), folder)
    names = sorted(file.name for file in folder.iterdir())

    assert (count, without) == (3, 0) and len({name.lower() for name in names}) == 3
    assert names[1] == "lora--Mod-le-1-offline_sentiment-rank-4-seed0-run2.json"
    assert "secret" not in "".join(file.read_text() for file in folder.iterdir())


def test_a_card_is_valid_and_holds_the_scores_of_each_language(database: Database, folder: Path) -> None:
    count, without = write_run_files("model-cards", runs(database), folder)
    (made,) = folder.iterdir()
    card = ModelCard.load(made / "README.md")

    assert (count, without) == (1, 2)
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == (
        "org/model",
        "adapter",
        "adapeff",
    )
    assert data["datasets"] == ["org/data"] and data["language"] == ["en", "de"] and "lora" in data["tags"]
    name, found = model_index_to_eval_results(data["model-index"])
    assert name == made.name == card.data.model_name
    assert [(one.dataset_config, one.metric_type, one.metric_value) for one in found] == [
        ("en", "accuracy", 0.78),
        ("de", "accuracy", 0.51),
    ]
    for one in found:
        assert (one.task_type, one.dataset_type, one.dataset_split) == ("text-classification", "org/data", "test")
        assert one.dataset_revision == "d" * 40 and one.dataset_name.endswith(f"({one.dataset_config})")


def test_a_card_says_what_was_trained_how_and_at_what_cost(database: Database, folder: Path) -> None:
    write_run_files("model-cards", runs(database), folder)
    text = next(folder.iterdir()).joinpath("README.md").read_text()

    for line in (
        "| rank | 4 |",
        "| seed | 1 |",
        "| train_compute_s | 50.0 s |",
        "| stored_bytes | 32.0 KiB |",
        "| trainable_parameters | 15 |",
        "| device_name | Test CPU |",
        "| torch | 2.13.0 |",
    ):
        assert line in text.splitlines()
    assert SHA in text and "Licence of the training data: CC0." in text
    assert 'resolve_model("org/model@abc")' in text


def test_card_of_a_mixture_has_the_scores_of_each_task_and_names_its_heads(database: Database, folder: Path) -> None:
    tasks = ("offline_sentiment", "offline_ner")
    scores = [("offline_sentiment", "accuracy", "en", 0.9), ("offline_ner", "entity_f1", "de", 0.4)]
    store(
        database,
        "lora",
        0,
        0.65,
        50,
        tasks=[f"mixture[tasks=[{','.join(tasks)}]]"],
        events=[
            {"event": "measurement", "name": name, "value": value, "unit": "1", "split": "test", "language": language}
            | {"task": task}
            for task, name, language, value in scores
        ],
    )
    with database.session() as session:
        session.add(Artifact(run_id=5, name="weights", uri="/runs/5/weights.safetensors", sha256=SHA, bytes=2048))
    write_run_files("model-cards", [run for run in runs(database) if run.run_id == 5], folder)
    (made,) = folder.iterdir()
    card = ModelCard.load(made / "README.md")

    _, found = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert [
        (one.dataset_type, one.metric_type, one.dataset_config, one.metric_value)
        for one in found
        if one.dataset_type in tasks
    ] == scores
    assert "| offline_ner | de | entity_f1 | 0.4 |" in card.text
    assert 'host.use("mixture_tasks_offline_sentiment_offline_ner", "offline_sentiment")' in card.text


def test_without_kept_weights_the_card_says_how_to_keep_them(database: Database, folder: Path) -> None:
    without = [run for run in runs(database) if run.weights is None]

    with pytest.raises(SpecError, match=r"no finished run kept its weights; .* -s keep_weights=true"):
        write_run_files("model-cards", without, folder)
    assert not list(folder.iterdir())
