"""What some tuners need beside gradients, and what adapters of one model must not do to each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.devices.step_clocks import HostStepClock
from adapeff.worker.families.encoding import Batch
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.modeling.models import TaskModel, trained_state
from adapeff.worker.modeling.weights import WEIGHTS, describe
from adapeff.worker.serving import Host
from adapeff.worker.training.train import TrainingStep
from tests.encoders import HIDDEN, LABELS, adapt, batch, make_encoder, store, take_steps

ADALORA = "peft:adalora[init_r=6,target_r=2]"


def method_of(written: str) -> Any:
    reference = parse_plugin(written)
    return get_method(reference.name, reference.parameters)


def train(written: str, steps: int) -> TaskModel:
    """The training loop's own steps, with what the method asks of them."""
    method = method_of(written)
    model, _ = adapt(written, "bert")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    take = TrainingStep(
        model,
        optimizer,
        LambdaLR(optimizer, lambda step: 1.0),
        lambda logits, _: nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])),
        1.0,
        Cpu(),
        "fp32",
        method.auxiliary_loss(model.encoder),
        method.on_step(model.encoder, steps),
    )
    items = Batch(batch(), {}, [1] * 4, [7] * 4)
    for _ in range(steps):
        take(items, HostStepClock())
    return model


def singular_values(model: TaskModel) -> torch.Tensor:
    return torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_E" in name])


def test_adalora_ends_with_the_ranks_it_was_asked_for() -> None:
    """Two layers, query and value: 4 places of rank 6, of which 4 x 2 singular values are to stay."""
    values = singular_values(train(ADALORA, 30))

    assert len(values) == 24
    assert int((values != 0).sum()) == 8
    assert method_of(ADALORA).settles_at(30) == 15  # from here on its ranks are what they will be


def test_adaloras_auxiliary_loss_is_pefts_own() -> None:
    """PEFT adds it in a forward pass with a loss, which an encoder has not; given one, it adds the same number."""
    method = method_of(ADALORA)
    model, _ = adapt(ADALORA, "bert")
    tuner: Any = model.encoder.base_model
    with torch.no_grad():
        for name, parameter in tuner.named_parameters():
            if "lora_" in name:
                parameter.normal_()

    class WithLoss(nn.Module):
        def forward(self) -> Any:
            return type("Output", (), {"loss": torch.zeros(())})()

    term = method.auxiliary_loss(model.encoder)
    assert term is not None
    ours, inner = term(), tuner.model
    tuner.model = WithLoss()
    tuner.model.named_parameters = inner.named_parameters
    theirs = tuner.forward().loss

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert ours.item() > 1


@pytest.mark.parametrize(
    ("written", "steps", "said"),
    [
        (ADALORA, 1, "leaves no room"),
        ("peft:adalora[init_r=6,target_r=2,total_step=99]", 30, "total_step is 99, but training takes 30 steps"),
        ("peft:adalora[init_r=6,target_r=2,tinit=20,tfinal=20]", 30, "leaves no room"),
    ],
)
def test_schedule_that_does_not_fit_is_refused_before_training(written: str, steps: int, said: str) -> None:
    model, _ = adapt(written, "bert")

    with pytest.raises(ModelError, match=said):
        method_of(written).on_step(model.encoder, steps)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("peft:adalora[init_r=4,target_r=4]", "set target_r below init_r"),
        ("peft:adalora[init_r=6,target_r=2,use_dora=true]", "'use_dora' has no effect"),
        ("peft:lora[init_lora_weights=eva]", "init_lora_weights=eva: it is initialised from statistics"),
        ("peft:lora[init_lora_weights=lora_ga]", "initialised from statistics"),
        ("peft:lora[init_lora_weights=corda]", "initialised from statistics"),
        ("peft:lora[use_qalora=true]", "'use_qalora' has no effect"),
        ("peft:lora[alora_invocation_tokens=[1,2]]", "causal language models only"),
        ("peft:adamss[use_asa=true]", "disables parameters"),
        ("peft:shadow[auxiliary_loss_weight=0.5]", "'auxiliary_loss_weight' has no effect"),
    ],
)
def test_setting_that_cannot_work_is_refused(written: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        method_of(written)


@pytest.mark.parametrize("written", ["peft:lora[kasa_config={}]", "peft:lora[monteclora_config={}]"])
def test_loras_with_terms_of_their_own_add_them(written: str) -> None:
    model, _ = adapt(written, "bert")
    model.train()
    model(batch())
    term = method_of(written).auxiliary_loss(model.encoder)

    assert term is not None and term().item() > 0


def run_folder(folder: Path, written: str, seed: int) -> Path:
    """What a run of a method leaves."""
    torch.manual_seed(seed)
    return Path(store(folder, written, "bert"))


def outputs(model: nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**batch()).last_hidden_state
    return found


REWRITING = [
    "peft:lora[init_lora_weights=pissa]",
    "peft:lora[init_lora_weights=pissa_niter_4]",
    "peft:lora[init_lora_weights=olora]",
    "peft:lora[kasa_config={}]",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", REWRITING)
@pytest.mark.parametrize("is_first", [True, False])
def test_adapter_that_rewrites_the_base_is_refused_and_nothing_is_changed(
    tmp_path: Path, written: str, is_first: bool
) -> None:
    encoder = make_encoder("bert").eval()
    bare = outputs(encoder)
    host = Host(encoder)
    if not is_first:
        host.add("one", run_folder(tmp_path / "one", "lora", 1))
        with torch.no_grad():
            before = host.use("one")(batch())

    with pytest.raises(ModelError, match=r"adapters of a model share|that adapters share"):
        host.add("two", run_folder(tmp_path / "two", written, 2))

    if is_first:
        assert torch.equal(outputs(encoder), bare)
    else:
        with torch.no_grad():
            assert torch.equal(host.use("one")(batch()), before)
        with host.switched_off() as plain:
            assert torch.equal(outputs(plain), bare)
        host.add("two", run_folder(tmp_path / "three", "lora", 3))  # the name is free again


def saved_by_peft(folder: Path, config: LoraConfig) -> Path:
    """An adapter as PEFT saves it, with a head as a run stores it beside."""
    torch.manual_seed(5)
    model = get_peft_model(make_encoder("bert"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    head = ClassificationHead(HIDDEN, LABELS, 0.0)
    tensors = {f"head.{name}": tensor.contiguous() for name, tensor in head.state_dict().items()}
    described = {"adapeff": '{"method": "lora", "parameters": {}, "model": "tiny", "task": "t"}'}
    save_file(tensors, folder / WEIGHTS, metadata=described)
    return folder


def test_host_serves_each_task_of_a_mixture_with_its_own_head(tmp_path: Path) -> None:
    single, _ = adapt("houlsby", "bert")
    take_steps(single)
    model = TaskModel(single.encoder, nn.ModuleList([single.head, ClassificationHead(HIDDEN, 5, 0.0)])).eval()
    about = describe(method="houlsby", parameters={}, model="tiny", task="mixture", heads=["sst2", "xnli"])
    save_file({name: tensor.contiguous() for name, tensor in trained_state(model).items()}, tmp_path / WEIGHTS, about)

    host = Host(make_encoder("bert").eval())
    host.add("two", tmp_path)

    with torch.no_grad():
        for number, task in enumerate(("sst2", "xnli")):
            assert torch.equal(host.use("two", task)(batch()), model(batch(), number))
    with pytest.raises(ModelError, match="has heads for 'sst2', 'xnli', not for 'paws'"):
        host.use("two", "paws")
    with pytest.raises(ModelError, match="has heads for 'sst2', 'xnli'"):
        host.use("two")


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_host_gives_each_task_the_biases_it_was_trained_with(tmp_path: Path, bias: str) -> None:
    encoder = make_encoder("bert").eval()
    bare = outputs(encoder)
    folders = {
        "one": run_folder(tmp_path / "one", f"lora[bias={bias}]", 1),
        "two": run_folder(tmp_path / "two", "lora", 2),
    }
    alone = {}
    for name, folder in folders.items():
        host = Host(make_encoder("bert").eval())
        host.add(name, folder)
        with torch.no_grad():
            alone[name] = host.use(name)(batch())

    host = Host(encoder)
    for name, folder in folders.items():
        host.add(name, folder)

    for name in ("one", "two", "one"):
        with torch.no_grad():
            assert torch.equal(host.use(name)(batch()), alone[name])
        with host.switched_off() as plain:
            assert torch.equal(outputs(plain), bare)
        with torch.no_grad():
            assert torch.equal(host.use(name)(batch()), alone[name])
    host.remove("one")
    with torch.no_grad():
        assert torch.equal(host.use("two")(batch()), alone["two"])
    host.remove("two")
    assert torch.equal(outputs(host._encoder), bare)


@pytest.mark.parametrize(
    ("written", "adapted"),
    [
        ("lora[target_modules=all-linear]", 2 * 6),
        ("lora[layers_to_transform=1]", 2),
        ("lora[layers_to_transform=[0],target_modules=all-linear]", 6),
        ("peft:lora[target_modules=all-linear,layers_to_transform=[1]]", 6),
    ],
)
def test_usual_targets_of_lora_are_taken_also_beside_others(tmp_path: Path, written: str, adapted: int) -> None:
    model, _ = adapt(written, "bert")
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == adapted

    host = Host(make_encoder("bert").eval())
    host.add("plain", run_folder(tmp_path / "plain", "lora", 1))
    host.add("wide", run_folder(tmp_path / "wide", written, 2))
    alone = Host(make_encoder("bert").eval())
    alone.add("wide", tmp_path / "wide")
    with torch.no_grad():
        assert torch.equal(host.use("wide")(batch()), alone.use("wide")(batch()))


def test_trained_modules_of_a_task_leave_with_it(tmp_path: Path) -> None:
    folder = saved_by_peft(
        tmp_path / "a", LoraConfig(r=4, target_modules=["query"], modules_to_save=["encoder.layer.1.output.dense"])
    )
    encoder = make_encoder("bert").eval()
    bare = outputs(copy.deepcopy(encoder))
    host = Host(encoder)
    host.add("task", folder)

    host.remove("task")

    assert torch.equal(outputs(host._encoder), bare)


def test_layers_to_transform_beyond_the_model_are_named() -> None:
    with pytest.raises(ModelError, match="layers_to_transform names layer 7, but the model has the layers 0 to 1"):
        adapt("lora[layers_to_transform=[7]]", "bert")
    with pytest.raises(SpecError, match="both select layers"):
        method_of("lora[layers_to_transform=[0],leave_out=[1]]")


def test_steps_go_on_as_before_without_a_hook() -> None:
    model, _ = adapt("lora", "bert")
    take_steps(model, 1)
    assert method_of("lora").on_step(model.encoder, 5) is None
