"""Where adapters act in each encoder architecture: the roles of its modules, and their paths inside a layer.

| role | module |
| --- | --- |
| attention_output, ffn_output | the sublayer whose output, after dense and dropout, joins the residual stream |
| attention | the self-attention itself, which computes keys and values |
| query, key, value | the linear layer of the attention with that name |
| intermediate, ffn_dense | the first and the second linear layer of the feed-forward |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from adapeff.service.errors import ModelError

LinearRole = Literal["query", "key", "value", "intermediate", "ffn_dense"]
SiteRole = Literal["attention_output", "ffn_output"]
LINEAR_ROLES: tuple[LinearRole, ...] = get_args(LinearRole)
SITE_ROLES: tuple[SiteRole, ...] = get_args(SiteRole)

_LAYER = re.compile(r"(?:.*\.)?layers?\.(?P<index>\d+)")


@dataclass(frozen=True)
class Architecture:
    """A type of encoder: where the residual stream is normalised, and the path of each role inside a layer."""

    name: str
    residual: dict[str, Literal["inside", "around", "outside", "pre_norm"]]
    """Site role -> what adds the residual and applies the LayerNorm: the output module (`inside`), a module around the
    whole sublayer (`around`) or the layer (`outside`); `pre_norm`: the layer, which normalises first."""
    roles: dict[str, str]
    norms: dict[str, str]
    """Site role -> the LayerNorm of that sublayer."""

    def fits(self, layer: nn.Module) -> bool:
        """Whether a layer has every module of this architecture."""
        return all(_submodule(layer, path) is not None for path in (*self.roles.values(), *self.norms.values()))


def _bert(name: str, query: str, key: str, value: str) -> Architecture:
    return Architecture(
        name=name,
        residual=dict.fromkeys(SITE_ROLES, "inside"),
        roles={
            "attention_output": "attention.output",
            "ffn_output": "output",
            "attention": "attention.self",
            "query": f"attention.self.{query}",
            "key": f"attention.self.{key}",
            "value": f"attention.self.{value}",
            "intermediate": "intermediate.dense",
            "ffn_dense": "output.dense",
        },
        norms={"attention_output": "attention.output.LayerNorm", "ffn_output": "output.LayerNorm"},
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    _bert("BERT", "query", "key", "value"),  # and RoBERTa, XLM-R, ELECTRA, CamemBERT
    _bert("DeBERTa-v2", "query_proj", "key_proj", "value_proj"),
    Architecture(
        name="MPNet",
        residual={"attention_output": "around", "ffn_output": "inside"},
        roles={
            "attention_output": "attention",
            "ffn_output": "output",
            "attention": "attention.attn",
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "intermediate": "intermediate.dense",
            "ffn_dense": "output.dense",
        },
        norms={"attention_output": "attention.LayerNorm", "ffn_output": "output.LayerNorm"},
    ),
    Architecture(
        name="DistilBERT",
        residual=dict.fromkeys(SITE_ROLES, "outside"),
        roles={
            "attention_output": "attention",
            "ffn_output": "ffn",
            "attention": "attention",
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "intermediate": "ffn.lin1",
            "ffn_dense": "ffn.lin2",
        },
        norms={"attention_output": "sa_layer_norm", "ffn_output": "output_layer_norm"},
    ),
    Architecture(
        name="ModernBERT",
        residual=dict.fromkeys(SITE_ROLES, "pre_norm"),
        roles={
            "attention_output": "attn",
            "ffn_output": "mlp",
            "attention": "attn",
            "query": "attn.Wqkv",  # query, key and value are one matrix here
            "key": "attn.Wqkv",
            "value": "attn.Wqkv",
            "intermediate": "mlp.Wi",
            "ffn_dense": "mlp.Wo",
        },
        norms={"attention_output": "attn_norm", "ffn_output": "mlp_norm"},
    ),
)


@dataclass(frozen=True)
class Layout:
    """The layers of one model, by index, and their architecture."""

    architecture: Architecture
    layers: dict[int, nn.Module]
    prefix: str
    """Path of the list of layers, such as `encoder.layer`."""
    places: dict[tuple[int, str], tuple[nn.Module, str]]
    """Layer and role -> the parent module and the attribute's name in it, as in the unadapted model."""
    norms: dict[tuple[int, str], nn.Module]
    """Layer and site role -> the sublayer's LayerNorm."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        weight: torch.Tensor = self.norms[max(self.layers), "ffn_output"].weight  # type: ignore[assignment]
        return weight.shape[0]

    def kept_layers(self, leave_out: Sequence[int]) -> list[int]:
        """The indices of the layers that are not left out.

        Raises:
            ModelError: if a left-out layer does not exist, or none is kept.
        """
        if absent := sorted(set(leave_out) - set(self.layers)):
            raise ModelError(f"leave_out names layer {absent[0]}, but the model has the layers 0 to {max(self.layers)}")
        if not (kept := sorted(set(self.layers) - set(leave_out))):
            raise ModelError("leave_out names every layer, so no adapter is left; leave at least one")
        return kept

    def pattern(self, roles: Iterable[str], leave_out: Sequence[int] = ()) -> str:
        """A regular expression for the full paths of `roles` in the layers that are not left out, in PEFT's form."""
        indices = "|".join(str(index) for index in self.kept_layers(leave_out))
        paths = sorted({re.escape(self.architecture.roles[role]) for role in roles})
        return rf"(?:.*\.)?{re.escape(self.prefix)}\.(?:{indices})\.(?:{'|'.join(paths)})"


def find_layout(encoder: nn.Module) -> Layout:
    """Recognise an encoder by the modules in its layers, whatever the name of its class.

    Raises:
        ModelError: if the layers have no known form.
    """
    stacks: dict[str, dict[int, nn.Module]] = {}
    for path, module in encoder.named_modules():
        if match := _LAYER.fullmatch(path):
            stacks.setdefault(path.rpartition(".")[0], {})[int(match["index"])] = module
    for prefix, layers in stacks.items():
        for architecture in ARCHITECTURES:
            if all(architecture.fits(layer) for layer in layers.values()):
                return _layout(architecture, layers, prefix)
    if hasattr(encoder, "encoder") and hasattr(encoder.encoder, "albert_layer_groups"):
        raise ModelError(
            "this method changes single layers, but ALBERT's layers all share their weights; use full, head, bitfit, "
            "layernorm, or lora with target_modules by name"
        )
    raise ModelError(
        f"this method supports BERT, RoBERTa, XLM-R, ELECTRA, DeBERTa-v2, MPNet, DistilBERT and ModernBERT type "
        f"encoders, not {type(encoder).__name__}; use full, head, bitfit, or lora with target_modules by name"
    )


def _layout(architecture: Architecture, layers: dict[int, nn.Module], prefix: str) -> Layout:
    places: dict[tuple[int, str], tuple[nn.Module, str]] = {}
    norms: dict[tuple[int, str], nn.Module] = {}
    for index, layer in layers.items():
        for role, path in architecture.roles.items():
            above, _, name = path.rpartition(".")
            if (parent := _submodule(layer, above)) is not None:
                places[index, role] = (parent, name)
        for role, path in architecture.norms.items():
            if (norm := _submodule(layer, path)) is not None:
                norms[index, role] = norm
    return Layout(architecture, layers, prefix, places, norms)


def _submodule(layer: nn.Module, path: str) -> nn.Module | None:
    """The module at a path, seen through tuner layers that wrap modules on the way."""
    module: Any = layer
    for name in filter(None, path.split(".")):
        while not hasattr(module, name) and hasattr(module, "base_layer"):
            module = module.base_layer
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None
