"""Adapters of several tasks on one base, from what runs leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapeff.service.errors import ModelError
from adapeff.service.references import parse_plugin
from adapeff.worker.composition import Host
from adapeff.worker.models import Classifier, trained_state
from adapeff.worker.weights import WEIGHTS, describe
from tests.encoders import adapt, batch, make_encoder, take_steps


def store(folder: Path, method: str, architecture: str = "bert") -> torch.Tensor:
    """Train a little, leave the weights as a run does, and give the logits they make."""
    model, _ = adapt(method, architecture)
    take_steps(model)
    reference = parse_plugin(method)
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in trained_state(model).items()}
    description = describe(method=reference.name, parameters=reference.parameters, model="tiny", task="t")
    save_file(state, folder / WEIGHTS, metadata=description)
    return logits(model)


def logits(model: Classifier) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model.eval()(batch())
        return made


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize(
    ("one", "other"),
    [("houlsby", "unipelt"), ("lora", "lora[rank=2,target_modules=[intermediate]]"), ("ia3", "ia3[leave_out=[0]]")],
)
def test_tasks_share_a_base_and_give_what_each_gave_alone(
    tmp_path: Path, one: str, other: str, architecture: str
) -> None:
    wanted = {
        "one": store(tmp_path / "one", one, architecture),
        "other": store(tmp_path / "other", other, architecture),
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
    wanted = store(tmp_path / "task", method)
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "task")

    merged = host.merge("task", batch())

    assert torch.allclose(logits(merged), wanted, atol=1e-4)
    assert sum(p.numel() for p in merged.encoder.parameters()) == sum(
        p.numel() for p in make_encoder("bert").parameters()
    )
    assert torch.equal(logits(host.use("task")), wanted), "merging left the adapter as it was"


def test_merged_outputs_that_differ_are_an_error(tmp_path: Path) -> None:
    store(tmp_path / "task", "lora")
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "task")

    with pytest.raises(ModelError, match="gives other outputs"):
        host.merge("task", batch(), tolerance=-1.0)


def test_what_cannot_be_composed_is_named(tmp_path: Path) -> None:
    store(tmp_path / "houlsby", "houlsby")
    store(tmp_path / "lora", "lora")
    store(tmp_path / "full", "full")
    store(tmp_path / "wide", "houlsby[reduction_factor=4]")
    host = Host(make_encoder("bert"))
    host.add("task", tmp_path / "houlsby")

    for name, folder, message in (
        ("task", "houlsby", "there is an adapter 'task' already"),
        ("second", "lora", "holds a LORA adapter, but the model has ADAPEFF ones"),
        ("second", "full", "holds full, which is no adapter that PEFT hosts"),
        ("second", "nowhere", "holds no weights.safetensors"),
    ):
        with pytest.raises(ModelError, match=message):
            host.add(name, tmp_path / folder)
    assert host.names == ["task"]
    with pytest.raises(ModelError, match="cannot be merged"):
        host.merge("task", batch())
    with pytest.raises(ModelError, match="no adapter 'x'; there are: task"):
        host.use("x")


def test_half_a_file_is_not_taken(tmp_path: Path) -> None:
    store(tmp_path / "task", "houlsby")
    file = tmp_path / "task" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelError, match="is not whole"):
        Host(make_encoder("bert")).add("task", tmp_path / "task")
