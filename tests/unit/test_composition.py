"""Adapters of several tasks on one base, from what runs leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapeff.service.errors import ModelError
from adapeff.worker.modeling.models import TaskModel
from adapeff.worker.modeling.weights import WEIGHTS
from adapeff.worker.serving import Host
from tests.encoders import adapt, batch, make_encoder, store, take_steps


def trained(folder: Path, method: str, architecture: str) -> torch.Tensor:
    """What a method trained and stored answers, alone."""
    store(folder, method, architecture)
    model, _ = adapt(method, architecture)
    take_steps(model)
    return logits(model)


def logits(model: TaskModel) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model.eval()(batch())
        return made


@pytest.mark.parametrize(
    "architecture",
    ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("distilbert", "deberta-v2", "modernbert"))],
)
@pytest.mark.parametrize(
    ("one", "other"),
    [("houlsby", "unipelt"), ("lora", "lora[rank=2,target_modules=[intermediate]]"), ("ia3", "ia3[leave_out=[0]]")],
)
def test_tasks_share_a_base_and_give_what_each_gave_alone(
    tmp_path: Path, one: str, other: str, architecture: str
) -> None:
    wanted = {
        "one": trained(tmp_path / "one", one, architecture),
        "other": trained(tmp_path / "other", other, architecture),
    }
    encoder = make_encoder(architecture).eval()
    with torch.no_grad():
        bare = encoder(**batch()).last_hidden_state
    host = Host(encoder)
    for name in wanted:
        host.add(name, tmp_path / name)

    assert host.names == ["one", "other"]
    for name in ("other", "one", "other"):
        assert torch.equal(logits(host.use(name)), wanted[name])
    with host.switched_off() as off, torch.no_grad():
        assert torch.equal(off(**batch()).last_hidden_state, bare)
    host.remove("one")
    assert torch.equal(logits(host.use("other")), wanted["other"])
    host.remove("other")
    with torch.no_grad():
        assert torch.equal(encoder(**batch()).last_hidden_state, bare)


@pytest.mark.parametrize("method", ["lora", "lora[dora=true]", "ia3", "peft:hira"])
def test_merged_task_is_a_plain_model_with_the_same_outputs(tmp_path: Path, method: str) -> None:
    wanted = trained(tmp_path / "task", method, "bert")
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "task")

    merged = host.merge("task", batch())

    assert torch.allclose(logits(merged), wanted, atol=1e-4)
    assert sum(p.numel() for p in merged.encoder.parameters()) == sum(
        p.numel() for p in make_encoder("bert").parameters()
    )
    assert torch.equal(logits(host.use("task")), wanted), "merging left the adapter as it was"


def test_merged_outputs_that_differ_are_an_error(tmp_path: Path) -> None:
    store(tmp_path / "task", "lora", "bert")
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "task")

    with pytest.raises(ModelError, match="changed the outputs"):
        host.merge("task", batch(), tolerance=-1.0)


def test_what_cannot_be_composed_is_named(tmp_path: Path) -> None:
    store(tmp_path / "houlsby", "houlsby", "bert")
    store(tmp_path / "lora", "lora", "bert")
    store(tmp_path / "full", "full", "bert")
    store(tmp_path / "prompt", "peft:prompt_tuning", "bert")
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "houlsby")

    for name, folder, message in (
        ("task", "houlsby", "there is already an adapter 'task'"),
        ("second", "lora", "contains a LORA adapter, but the model has ADAPEFF ones"),
        ("second", "full", "contains full, which cannot share a model"),
        ("second", "prompt", "contains peft:prompt_tuning, which cannot share a model"),
        ("a.b", "houlsby", "'a.b' cannot name an adapter"),
        ("second", "nowhere", "contains no weights.safetensors"),
    ):
        with pytest.raises(ModelError, match=message):
            host.add(name, tmp_path / folder)
    assert host.names == ["task"]
    with pytest.raises(ModelError, match="cannot be merged"):
        host.merge("task", batch())
    with pytest.raises(ModelError, match="no adapter 'x'; there are: task"):
        host.use("x")


def test_half_a_file_is_not_taken(tmp_path: Path) -> None:
    store(tmp_path / "task", "houlsby", "bert")
    file = tmp_path / "task" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelError, match="is incomplete"):
        Host(make_encoder("bert")).add("task", tmp_path / "task")
