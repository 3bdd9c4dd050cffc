"""Every method on tiny models of several architectures, and ours against reference values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from adapeff.service.catalog import get_method, methods
from adapeff.service.errors import ModelError, SpecError
from adapeff.worker.methods.bottleneck import BottleneckConfig, add_bottlenecks
from adapeff.worker.models import ClassificationHead, Classifier, count_parameters, trained_state
from tests.conftest import outside_folder

HIDDEN, LAYERS, LABELS = 32, 2, 3
SIZE = {
    "vocab_size": 100,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZE), add_pooling_layer=False),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZE), add_pooling_layer=False),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZE), add_pooling_layer=False),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**SIZE, embedding_size=HIDDEN)),
}


@dataclass(frozen=True)
class Case:
    """A method with parameters, and the parameters it trains in the encoder by its paper's formula."""

    method: str
    parameters: dict[str, Any]
    expected: Callable[[nn.Module], int]


def bottleneck_parameters(sites: int, factor: float) -> int:
    """Houlsby et al. 2019, section 2.1: 2 m d + d + m per adapter, m the bottleneck, d the hidden size."""
    size = max(1, int(HIDDEN // factor))
    return sites * (2 * size * HIDDEN + HIDDEN + size)


CASES = [
    Case("full", {}, lambda encoder: sum(p.numel() for p in encoder.parameters())),
    Case("head", {}, lambda encoder: 0),
    # Hu et al. 2021, section 4.2: r (d_in + d_out) per adapted matrix; query and value.
    Case("lora", {}, lambda encoder: LAYERS * 2 * 8 * 2 * HIDDEN),
    Case("lora", {"rank": 2, "target_modules": ["key"]}, lambda encoder: LAYERS * 2 * 2 * HIDDEN),
    Case("houlsby", {}, lambda encoder: bottleneck_parameters(2 * LAYERS, 16)),
    Case("houlsby", {"reduction_factor": 4, "leave_out": [0]}, lambda encoder: bottleneck_parameters(2, 4)),
]
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}{case.parameters or ''}")
EACH_ENCODER = pytest.mark.parametrize("architecture", list(ENCODERS))


def build(case: Case, architecture: str) -> tuple[Classifier, nn.Module]:
    """The adapted classifier, and an untouched copy of its encoder."""
    torch.manual_seed(0)
    encoder = ENCODERS[architecture]()
    base = copy.deepcopy(encoder).eval()
    adapted = get_method(case.method, case.parameters).attach(encoder)
    return Classifier(adapted, ClassificationHead(HIDDEN, LABELS, 0.1)), base


def batch() -> dict[str, torch.Tensor]:
    """Four sequences of seven tokens, one padded."""
    torch.manual_seed(1)
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[0, 4:] = 0
    return {"input_ids": torch.randint(5, 100, (4, 7)), "attention_mask": mask}


def take_steps(model: Classifier, count: int = 3) -> None:
    """Some optimiser steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch()), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def test_every_registered_method_has_a_case() -> None:
    assert {case.method for case in CASES} == set(methods())


@EACH_CASE
@EACH_ENCODER
def test_trainable_parameters_equal_the_papers_formula(case: Case, architecture: str) -> None:
    model, base = build(case, architecture)

    counts = count_parameters(model)

    assert counts.trainable_method == case.expected(base)
    assert counts.trainable_head == (HIDDEN + 1) * HIDDEN + (HIDDEN + 1) * LABELS
    assert counts.total >= counts.trainable


@EACH_CASE
@EACH_ENCODER
def test_only_what_is_trainable_moves(case: Case, architecture: str) -> None:
    model, _ = build(case, architecture)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    take_steps(model)

    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= set(trained_state(model))
    if case.method != "full":  # there, what the batch does not touch (unused embeddings) has no gradient
        assert moved == set(trained_state(model))


@EACH_CASE
@EACH_ENCODER
def test_output_has_the_encoders_shape(case: Case, architecture: str) -> None:
    model, base = build(case, architecture)

    assert model(batch()).shape == (4, LABELS)
    assert model.encoder(**batch()).last_hidden_state.shape == base(**batch()).last_hidden_state.shape


@EACH_CASE
@EACH_ENCODER
def test_trained_state_is_all_a_task_must_keep(case: Case, architecture: str) -> None:
    model, _ = build(case, architecture)
    take_steps(model)
    kept = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    fresh, _ = build(case, architecture)

    fresh.load_state_dict(kept, strict=False)

    with torch.no_grad():
        assert torch.equal(fresh.eval()(batch()), model.eval()(batch()))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.method in ("lora", "houlsby")],
    ids=lambda case: f"{case.method}{case.parameters or ''}",
)
@EACH_ENCODER
def test_disabled_adapter_is_the_base_model(case: Case, architecture: str) -> None:
    model, base = build(case, architecture)
    take_steps(model)
    model.eval()
    adapted: Any = model.encoder

    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(**batch()).last_hidden_state, base(**batch()).last_hidden_state)
    with torch.no_grad():
        assert torch.equal(adapted.unload()(**batch()).last_hidden_state, base(**batch()).last_hidden_state)


def test_adapter_survives_pefts_own_saving_and_loading(tmp_path: Path) -> None:
    from peft import PeftModel

    model, base = build(Case("houlsby", {"reduction_factor": 4}, lambda _: 0), "bert")
    take_steps(model)
    adapted: Any = model.encoder.eval()
    adapted.save_pretrained(tmp_path)

    loaded = PeftModel.from_pretrained(base, tmp_path).eval()

    with torch.no_grad():
        assert torch.equal(loaded(**batch()).last_hidden_state, adapted(**batch()).last_hidden_state)


def test_two_adapters_are_switched_between() -> None:
    model, _ = build(Case("houlsby", {}, lambda _: 0), "bert")
    adapted: Any = model.encoder.eval()
    adapted.add_adapter("other", BottleneckConfig(reduction_factor=2))

    def output() -> torch.Tensor:
        with torch.no_grad():
            hidden: torch.Tensor = adapted(**batch()).last_hidden_state
            return hidden

    first = output()
    adapted.set_adapter("other")
    second = output()
    adapted.set_adapter("default")

    assert not torch.equal(first, second)
    assert torch.equal(output(), first)
    adapted.delete_adapter("other")
    assert torch.equal(output(), first)


def test_bottleneck_refuses_to_merge() -> None:
    model, _ = build(Case("houlsby", {}, lambda _: 0), "bert")
    adapted: Any = model.encoder

    with pytest.raises(ModelError, match="cannot be merged"):
        adapted.merge_and_unload()


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("lora", {"target_modules": ["qeury"]}, "no module 'qeury' to adapt"),
        ("houlsby", {"leave_out": [7]}, "leave_out names layer 7, but the model has the layers 0 to 1"),
        ("houlsby", {"leave_out": [0, 1]}, "leave_out names every layer"),
    ],
)
def test_method_that_does_not_fit_the_model_says_why(method: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        get_method(method, parameters).attach(ENCODERS["bert"]())


def test_unfit_architecture_is_named() -> None:
    size = {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    distilbert = transformers.DistilBertModel(transformers.DistilBertConfig(**size))

    with pytest.raises(ModelError, match="not DistilBertModel"):
        get_method("houlsby", {}).attach(distilbert)


def test_unknown_parameter_is_suggested() -> None:
    with pytest.raises(SpecError, match="no parameter 'rnak'; did you mean 'rank'"):
        get_method("lora", {"rnak": 8})


def oracle_cases() -> list[str]:
    """The reference cases of this release's own tuner: sequential Houlsby adapters on BERT and RoBERTa types."""
    import os

    from tests.conftest import ROOT

    folder = Path(os.environ.get("ADAPEFF_TEST_ORACLES", ROOT.parent / "shared" / "oracles"))
    if not (folder / "index.json").is_file():
        return []
    cases = json.loads((folder / "index.json").read_text())["cases"]
    bases = {case["base"]: json.loads((folder / f"base/{case['base']}.json").read_text()) for case in cases}
    known = {"bert", "roberta", "xlm-roberta", "electra"}
    return [c["case"] for c in cases if c["method"] == "houlsby" and bases[c["base"]]["model_type"] in known]


@pytest.mark.parametrize("case", oracle_cases() or [pytest.param("", marks=pytest.mark.skip("no oracles here"))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_houlsby_equals_the_oracle(case: str, dtype: torch.dtype) -> None:
    """Outputs and gradients of the library `adapters` 1.3.0 on the same weights (see the oracles' own description)."""
    folder = outside_folder("ADAPEFF_TEST_ORACLES", "oracles")
    manifest = json.loads((folder / f"cases/{case}.json").read_text())
    tensors = load_file(folder / f"cases/{case}.safetensors")
    base = json.loads((folder / f"base/{manifest['base']}.json").read_text())
    weights = load_file(folder / f"base/{manifest['base']}.safetensors")
    kind = getattr(transformers, base["model_class"])
    model = kind(kind.config_class(**base["config"])).eval()
    model.load_state_dict({k.removeprefix("weight/"): v for k, v in weights.items() if k.startswith("weight/")})
    ((_, config),) = manifest["config"].items()
    fields = config["fields"]
    adapted = add_bottlenecks(
        model.to(dtype),
        BottleneckConfig(
            reduction_factor=fields["reduction_factor"],
            non_linearity=fields["non_linearity"],
            scaling=fields["scaling"],
            leave_out=list(fields["leave_out"]),
        ),
    ).eval()
    ours = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    place = {"attention_output": "attention.output", "ffn_output": "output"}
    mapped = {}
    for weight in manifest["weights"]:
        ending = f"layer.{weight['layer']}.{place[weight['site']]}.bottleneck.default.{weight['part']}"
        (name,) = [name for name in ours if name.endswith(ending)]
        ours[name].data.copy_(tensors[f"adapter/{weight['name']}"])
        mapped[weight["name"]] = ours[name]

    inputs = {key.removeprefix("input/"): value for key, value in tensors.items() if key.startswith("input/")}
    output = adapted(**inputs, output_hidden_states=True)

    assert len(mapped) == len(ours)
    assert sum(p.numel() for p in ours.values()) == manifest["param_count"]["adapter_trainable"]
    tolerance = 1e-10 if dtype == torch.float64 else max(2e-5, 20 * _hint(manifest))
    assert _distance(output.logits, tensors["out_f64/logits"]) < tolerance
    assert _distance(output.hidden_states[-1], tensors["out_f64/last_hidden_state"]) < tolerance
    if dtype == torch.float64:
        gradients = torch.autograd.grad(output.logits.sum(), list(mapped.values()))
        for name, gradient in zip(mapped, gradients, strict=True):
            assert _distance(gradient, tensors[f"grad_f64/sum_logits/{name}"]) < 1e-8, name


def _hint(manifest: dict[str, Any]) -> float:
    hint = manifest["tolerance_hint"]
    return max(float(value) for value in hint.values()) if isinstance(hint, dict) else float(hint)


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours.double() - theirs.double()).abs().max().item()


def test_houlsby_counts_equal_the_oracles_table_at_real_size() -> None:
    """12 x 768, reduction 16: 1,789,056 (the oracles' table, and 2 L (2 H d + d + H))."""
    config = transformers.BertConfig()
    with torch.device("meta"):
        encoder = transformers.BertModel(config, add_pooling_layer=False)
        adapted = get_method("houlsby", {}).attach(encoder)

    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 1_789_056
