"""Our adapters against reference values: the library `adapters` 1.3.0 on the same weights, case by case.

The folder (see its README) holds base models, adapter weights, outputs and gradients. Any folder of the same form is
run in full: `ADAPEFF_TEST_ORACLES` names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from adapeff.service.plugins.catalog import get_method
from adapeff.worker.adapters.drop import adapted_layers, skipping
from adapeff.worker.adapters.parts import AdapterConfig, BottleneckPart, FusionPart, LoraPart, PhmPart, PrefixPart
from adapeff.worker.adapters.tuner import add_adapter
from adapeff.worker.methods.hosted import HostedMethod
from tests.conftest import ROOT, outside_folder


def oracle_cases() -> list[str]:
    """The names of all reference cases at hand."""
    folder = Path(os.environ.get("ADAPEFF_TEST_ORACLES", ROOT.parent / "shared" / "oracles"))
    index = folder / "index.json"
    return [case["case"] for case in json.loads(index.read_text())["cases"]] if index.is_file() else []


EACH_CASE = pytest.mark.parametrize(
    "case", oracle_cases() or [pytest.param("", marks=pytest.mark.skip("no oracles here"))]
)


class Oracle:
    """One case: its manifest and tensors, and our model built from them."""

    def __init__(self, case: str) -> None:
        self.folder = outside_folder("ADAPEFF_TEST_ORACLES", "oracles")
        self.manifest = json.loads((self.folder / f"cases/{case}.json").read_text())
        self.tensors = load_file(self.folder / f"cases/{case}.safetensors")
        self.inputs = {k.removeprefix("input/"): v for k, v in self.tensors.items() if k.startswith("input/")}

    def base(self, dtype: torch.dtype) -> nn.Module:
        """The unadapted model with its head."""
        base = json.loads((self.folder / f"base/{self.manifest['base']}.json").read_text())
        weights = load_file(self.folder / f"base/{self.manifest['base']}.safetensors")
        kind = getattr(transformers, base["model_class"])
        model = kind(kind.config_class(**base["config"]))
        model.load_state_dict({k.removeprefix("weight/"): v for k, v in weights.items() if k.startswith("weight/")})
        adapted: nn.Module = model.to(dtype).eval()
        return adapted

    def adapted(self, dtype: torch.dtype) -> tuple[Any, dict[str, nn.Parameter]]:
        """Our model with the case's weights, and our parameter for each of the reference's weights."""
        model: Any = self.base(dtype)
        for name, config in self.manifest["config"].items():
            ours = peft_config(self.manifest["method"], model, config["fields"])
            model = _add(model, ours, our_adapter(name))
        model.set_adapter(our_adapter(name))
        if (fusion := self.manifest["fusion_config"]) is not None:
            assert not fusion["query_before_ln"] and not fusion["residual_before"] and not fusion["temperature"]
            part = FusionPart(members=[our_adapter(name) for name in self.manifest["config"]], value=fusion["value"])
            model.add_adapter("fused", AdapterConfig(fusion=part))
            model.set_adapter("fused")
        model.eval()
        parameters = dict(model.named_parameters())
        mapped = {}
        for weight in self.manifest["weights"]:
            ours = parameters[our_name(weight, parameters)]
            ours.data.copy_(self.tensors[f"adapter/{weight['name']}"].view(ours.shape))
            mapped[weight["name"]] = ours
        return model, mapped

    def skipped(self, model: nn.Module) -> AbstractContextManager[None]:
        """The layers the case runs without adapters."""
        return skipping(adapted_layers(model), set(self.manifest["adapters_setup"]["skip_layers"] or []))


def our_adapter(name: str) -> str:
    """Our name of an adapter: PEFT warns of names that are a part of a tuner's prefix, as one letter can be."""
    return f"{name}_oracle"


def _add(model: Any, config: Any, name: str) -> PeftModel:
    from peft import get_peft_model

    if isinstance(config, AdapterConfig):
        return add_adapter(model, config, name)
    return get_peft_model(model, config, adapter_name=name)


def peft_config(method: str, model: nn.Module, fields: dict[str, Any]) -> Any:
    """Our configuration for the reference's fields."""
    if fields.get("architecture") == "union":
        parts = [_part(method, model, part) for part in fields["configs"]]
        merged = AdapterConfig()
        for part in parts:
            for kind in ("bottleneck", "prefix", "lora"):
                if (value := getattr(part, kind)) is not None:
                    setattr(merged, kind, value)
        return merged
    if fields.get("architecture") == "prefix_tuning":
        return AdapterConfig(prefix=_prefix(fields))
    if fields.get("architecture") == "lora":
        return AdapterConfig(lora=_lora(fields)) if fields["use_gating"] else _pefts_own(model, fields)
    return AdapterConfig(bottleneck=_bottleneck(fields))


def _part(method: str, model: nn.Module, fields: dict[str, Any]) -> Any:
    """A part of a union: LoRA there is ours, gated or not."""
    if fields.get("architecture") == "lora":
        return AdapterConfig(lora=_lora(fields))
    return peft_config(method, model, fields)


def _roles(fields: dict[str, Any]) -> list[str]:
    names = {"q": "query", "k": "key", "v": "value"}
    roles = [names[letter] for letter in fields["attn_matrices"]] if fields["selfattn_lora"] else []
    return (
        roles
        + (["intermediate"] if fields["intermediate_lora"] else [])
        + (["ffn_dense"] if fields["output_lora"] else [])
    )


def _pefts_own(model: nn.Module, fields: dict[str, Any]) -> Any:
    if fields["composition_mode"] == "scale":
        assert sorted(_roles(fields)) == ["intermediate", "key", "value"]
        method = get_method("ia3", {"leave_out": fields["leave_out"]})
    else:
        chosen = {"rank": fields["r"], "alpha": fields["alpha"], "target_modules": _roles(fields)}
        method = get_method("lora", {**chosen, "leave_out": fields["leave_out"], "dora": fields["use_dora"]})
    assert isinstance(method, HostedMethod)
    return method.peft_config(model)


def _lora(fields: dict[str, Any]) -> LoraPart:
    return LoraPart(
        rank=fields["r"],
        alpha=fields["alpha"],
        gated=fields["use_gating"],
        roles=_roles(fields),  # type: ignore[arg-type]
        leave_out=fields["leave_out"],
    )


def _prefix(fields: dict[str, Any]) -> PrefixPart:
    assert fields["non_linearity"] == "tanh" and fields["shared_gating"]
    return PrefixPart(
        length=fields["prefix_length"],
        bottleneck_size=fields["bottleneck_size"],
        flat=fields["flat"],
        gated=fields["use_gating"],
        leave_out=fields["leave_out"],
    )


def _bottleneck(fields: dict[str, Any]) -> BottleneckPart:
    assert fields["original_ln_after"] and not fields["shared_W_phm"] and not fields["inv_adapter"]
    sites = (["attention_output"] if fields["mh_adapter"] else []) + (
        ["ffn_output"] if fields["output_adapter"] else []
    )
    phm = None
    if fields["phm_layer"]:
        phm = PhmPart(
            dim=fields["phm_dim"],
            rank=fields["phm_rank"],
            factorised_weight=fields["factorized_phm_W"],
            shared_rule=fields["shared_phm_rule"],
            factorised_rule=fields["factorized_phm_rule"],
        )
    return BottleneckPart(
        sites=sites,  # type: ignore[arg-type]
        reduction_factor=fields["reduction_factor"],
        non_linearity=fields["non_linearity"],
        parallel=fields["is_parallel"],
        norm_before=fields["original_ln_before"],
        residual={True: "output", False: "input", "post_add": "sum"}[fields["residual_before_ln"]],
        residual_before_ln_after=fields["adapter_residual_before_ln"] is True,
        ln_before=fields["ln_before"],
        ln_after=fields["ln_after"],
        scaling=fields["scaling"],
        gated=fields["use_gating"],
        init="lora" if fields["init_weights"] == "mam_adapter" else fields["init_weights"],
        phm=phm,
        leave_out=fields["leave_out"],
    )


PARTS = {
    "down.W_left": "down.left",
    "down.W_right": "down.right",
    "down.W": "down.weight",
    "down.b": "down.bias",
    "up.W_left": "up.left",
    "up.W_right": "up.right",
    "up.W": "up.weight",
    "up.b": "up.bias",
    "down.phm_rule": "down.rule.rule",
    "down.phm_rule_left": "down.rule.left",
    "down.phm_rule_right": "down.rule.right",
    "up.phm_rule": "up.rule.rule",
    "up.phm_rule_left": "up.rule.left",
    "up.phm_rule_right": "up.rule.right",
    "prefix.embedding": "prefix.embedding",
    "prefix.mlp_in.weight": "prefix.mlp_in.weight",
    "prefix.mlp_in.bias": "prefix.mlp_in.bias",
    "prefix.mlp_out.weight": "prefix.mlp_out.weight",
    "prefix.mlp_out.bias": "prefix.mlp_out.bias",
    "prefix.flat": "prefix.flat",
    "phm_rule": "phm_rule.rule",
    "phm_rule_left": "phm_rule.left",
    "phm_rule_right": "phm_rule.right",
}
LINEARS = {"query", "key", "value", "intermediate", "ffn_dense"}
PATHS: dict[str, tuple[str, ...]] = {
    "attention_output": ("attention.output", "attention"),
    "ffn_output": ("output", "ffn"),
    "query": ("attention.self.query", "attention.self.query_proj", "attention.q_lin"),
    "key": ("attention.self.key", "attention.self.key_proj", "attention.k_lin"),
    "value": ("attention.self.value", "attention.self.value_proj", "attention.v_lin"),
    "intermediate": ("intermediate.dense", "ffn.lin1"),
    "ffn_dense": ("output.dense", "ffn.lin2"),
    "prefix_gate": ("attention.self", "attention"),
}
"""Where the roles of the manifests are in the supported models, written down apart from the code that is tested."""


def our_name(weight: dict[str, Any], parameters: dict[str, Any]) -> str:
    """The one parameter of ours that a weight of a manifest is."""
    adapter, site, part = our_adapter(weight["adapter"]), weight["site"], weight["part"]
    if site in ("prefix_all_layers", "shared"):
        ending = f"adapeff_shared.{adapter}.{PARTS[part]}"
        return _single(parameters, lambda name: name.endswith(ending), ending)
    if part.startswith("fusion."):
        inner = f"adapeff_fusion.fused.{part.removeprefix('fusion.')}"
    elif site == "prefix_gate":
        inner = f"adapeff_prefix_gate.{adapter}.{part.removeprefix('gate.')}"
    elif site in LINEARS:
        return _linear_name(weight, parameters)
    else:
        inner = f"adapeff_bottleneck.{adapter}.{PARTS.get(part, part)}"
    endings = [f"layer.{weight['layer']}.{path}.{inner}" for path in PATHS[site]]
    return _single(parameters, lambda name: any(_plain(name).endswith(ending) for ending in endings), endings[0])


def _linear_name(weight: dict[str, Any], parameters: dict[str, Any]) -> str:
    adapter, part = our_adapter(weight["adapter"]), weight["part"]
    inner = {
        "lora.A": (f"adapeff_lora.{adapter}.down.weight", f"lora_A.{adapter}.weight"),
        "lora.B": (f"adapeff_lora.{adapter}.up.weight", f"lora_B.{adapter}.weight", f"ia3_l.{adapter}"),
        "gate.weight": (f"adapeff_lora.{adapter}.gate.weight",),
        "gate.bias": (f"adapeff_lora.{adapter}.gate.bias",),
    }[part]
    endings = tuple(f"layer.{weight['layer']}.{path}.{end}" for path in PATHS[weight["site"]] for end in inner)
    return _single(parameters, lambda name: _plain(name).endswith(endings), endings[0])


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _single(parameters: dict[str, Any], fits: Any, wanted: str) -> str:
    found = [name for name in parameters if (fits(name) and "attention.output" in wanted) or fits(name)]
    found = [name for name in found if not ("attention.output" in name and "attention.output" not in wanted)]
    assert len(found) == 1, (wanted, found)
    return found[0]


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two tensors, in float64."""
    return (ours.double() - theirs.double()).abs().max().item()


def hint(manifest: dict[str, Any]) -> float:
    """The float32 error that the reference had itself."""
    return float(manifest["tolerance_hint"]["f32_vs_f64_last_hidden_max_abs"])


@EACH_CASE
def test_outputs_and_gradients_equal_the_oracle_in_float64(case: str) -> None:
    oracle = Oracle(case)
    model, mapped = oracle.adapted(torch.float64)

    with oracle.skipped(model):
        output = model(**oracle.inputs, output_hidden_states=True)

    for number, hidden in enumerate(output.hidden_states):
        assert distance(hidden, oracle.tensors[f"out_f64/hidden_states.{number}"]) < 1e-10, f"layer {number}"
    assert distance(output.hidden_states[-1], oracle.tensors["out_f64/last_hidden_state"]) < 1e-10
    assert distance(output.logits, oracle.tensors["out_f64/logits"]) < 1e-10
    for kind, value in (("sum_logits", output.logits.sum()), ("sum_hidden", output.hidden_states[-1].sum())):
        for name, gradient in _gradients(value, mapped):
            if (theirs := oracle.tensors.get(f"grad_f64/{kind}/{name}")) is not None:
                assert distance(gradient, theirs.view(gradient.shape)) < 1e-8, (kind, name)


def _gradients(value: torch.Tensor, mapped: dict[str, nn.Parameter]) -> Iterator[tuple[str, torch.Tensor]]:
    trained = {name: parameter for name, parameter in mapped.items() if parameter.requires_grad}
    if not value.requires_grad:
        return
    found = torch.autograd.grad(value, list(trained.values()), retain_graph=True, allow_unused=True)
    for (name, parameter), gradient in zip(trained.items(), found, strict=True):
        yield name, torch.zeros_like(parameter) if gradient is None else gradient


@EACH_CASE
@pytest.mark.slow
def test_outputs_equal_the_oracle_in_float32(case: str) -> None:
    oracle = Oracle(case)
    model, _ = oracle.adapted(torch.float32)
    tolerance = max(2e-5, 20 * hint(oracle.manifest))

    with oracle.skipped(model), torch.no_grad():
        output = model(**oracle.inputs, output_hidden_states=True)

    assert distance(output.hidden_states[-1], oracle.tensors["out_f64/last_hidden_state"]) < tolerance
    assert distance(output.logits, oracle.tensors["out_f64/logits"]) < tolerance


@EACH_CASE
def test_trained_weights_are_the_oracles(case: str) -> None:
    """The same tensors are trained, no more, and as many parameters."""
    oracle = Oracle(case)
    model, mapped = oracle.adapted(torch.float32)

    trained = {id(p): p.numel() for p in model.parameters() if p.requires_grad}

    wanted = {w["name"] for w in oracle.manifest["weights"] if w["trainable"]}
    assert {id(mapped[name]) for name in wanted} == set(trained)
    assert sum(trained.values()) == oracle.manifest["param_count"]["adapter_trainable"]


@EACH_CASE
@pytest.mark.slow
def test_switched_off_adapters_leave_the_oracles_base(case: str) -> None:
    oracle = Oracle(case)
    base = oracle.base(torch.float32)
    model, _ = oracle.adapted(torch.float32)

    with torch.no_grad():
        wanted = base(**oracle.inputs).logits
        with model.disable_adapter():
            assert torch.equal(model(**oracle.inputs).logits, wanted)
        assert torch.equal(model.unload()(**oracle.inputs).logits, wanted)
