"""The tuner that PEFT calls: it puts the parts of an adapter into a model, and removes them.

PEFT's `register_peft_method` only accepts names of its closed enum, so the type is added to PEFT's own tables instead.
Saving, loading and switching are PEFT's. Modules that several layers share are in the tuner, under `adapeff_shared`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import set_additional_trainable_modules
from torch import nn

from adapeff.service.errors import ModelError
from adapeff.worker.adapters.layers import AdapterLayer, LinearLayer
from adapeff.worker.adapters.layouts import SITE_ROLES, Layout, find_layout
from adapeff.worker.adapters.modules import Bottleneck, Fusion, Gate, LowRank, PhmRule, PrefixEncoder
from adapeff.worker.adapters.parts import (
    AdapeffPeftType,
    AdapterConfig,
    BottleneckPart,
    FusionPart,
    LoraPart,
    PrefixPart,
)
from adapeff.worker.adapters.prefixed_attention import AttentionLayer, OutsideAttention, PreNormAttention
from adapeff.worker.adapters.sites import AroundSite, InsideSite, OutsideSite, PreNormSite, SiteLayer


class AdapterModel(BaseTuner):  # type: ignore[misc]  # peft ships no types
    """A model with adapeff's adapters; it may have several, of which one is active."""

    prefix = "adapeff_"
    tuner_layer_cls = AdapterLayer
    target_module_mapping: dict[str, str] = {}

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Put the adapter `adapter_name` into the model, according to its configuration.

        Raises:
            ModelError: if the architecture is unknown, or the configuration does not fit the model.
        """
        config: AdapterConfig = self.peft_config[adapter_name]
        self._check_new_adapter_config(config)
        if "adapeff_shared" not in self._modules:
            self.adapeff_shared = nn.ModuleDict({})
            self._layout = (find_layout(model),)
            self._layers: dict[tuple[int, str], AdapterLayer] = {}
        before = [(parameter, parameter.requires_grad) for parameter in model.parameters()] if self._layers else []
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            self._build(adapter_name, config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        set_additional_trainable_modules(
            model=model,
            peft_config=config,
            model_config=BaseTuner.get_model_config(self),
            adapter_name=adapter_name,
            activate_adapter=adapter_name in self.active_adapters,
        )
        for parameter, trainable in before:  # a new adapter does not change the others
            parameter.requires_grad_(trainable)

    def _build(self, name: str, config: AdapterConfig) -> None:
        shared = nn.Module()
        if config.bottleneck is not None:
            self._add_bottlenecks(name, config.bottleneck, shared)
        if config.prefix is not None:
            self._add_prefix(name, config.prefix, shared)
        if config.lora is not None:
            self._add_lora(name, config.lora)
        if config.fusion is not None:
            self._add_fusion(name, config.fusion)
        if any(True for _ in shared.parameters()):
            reference = next(self.model.parameters())
            if reference.device.type != "meta" and next(shared.parameters()).device.type != "meta":
                shared.to(device=reference.device, dtype=reference.dtype)
            self.adapeff_shared[name] = shared

    def _layer(self, index: int, role: str) -> Any:
        """The adapter layer at a role of a layer, created if needed."""
        if (index, role) in self._layers:
            return self._layers[index, role]
        layout = self.layout
        place = layout.places[index, role]
        roles = [other for other in layout.architecture.roles if layout.places[index, other] == place]
        parent, name = place
        norms = [layout.norms[index, other] for other in roles if other in SITE_ROLES]
        wrapped = _layer_kind(layout.architecture.residual, roles)(getattr(parent, name), index, *norms)
        setattr(parent, name, wrapped)
        self._layers |= {(index, other): wrapped for other in roles}
        return wrapped

    @property
    def layout(self) -> Layout:
        """Where this model has each role."""
        return self._layout[0]

    def _add_bottlenecks(self, name: str, part: BottleneckPart, shared: nn.Module) -> None:
        if isinstance(part.reduction_factor, dict):
            layers = {str(index) for index in self.layout.layers}
            if absent := sorted(set(part.reduction_factor) - layers - {"default"}):
                raise ModelError(
                    f"reduction_factor names layer {absent[0]}, but the model has the layers 0 to {len(layers) - 1}"
                )
        rule = None
        if part.phm is not None and part.phm.shared_rule:
            rule = shared.phm_rule = PhmRule(part.phm, std=1e-4)
        for index in self.layout.kept_layers(part.leave_out):
            for role in part.sites:
                bottleneck = Bottleneck(self.layout.hidden_size, index, part, rule)
                self._layer(index, role).put("adapeff_bottleneck", name, bottleneck)

    def _add_prefix(self, name: str, part: PrefixPart, shared: nn.Module) -> None:
        kept = self.layout.kept_layers(part.leave_out)
        hidden = self.layout.hidden_size
        shared.prefix = encoder = PrefixEncoder(hidden, len(kept), part)
        for number, index in enumerate(kept):
            gate = Gate(hidden, zero_bias=False) if part.gated else None
            self._layer(index, "attention").add_prefix(name, encoder, number, gate)

    def _add_lora(self, name: str, part: LoraPart) -> None:
        roles = {self.layout.architecture.roles[role]: role for role in part.roles}  # a fused projection counts once
        for index in self.layout.kept_layers(part.leave_out):
            for role in roles.values():
                layer = self._layer(index, role)
                linear = layer.get_base_layer()
                layer.put("adapeff_lora", name, LowRank(linear.in_features, linear.out_features, part))

    def _add_fusion(self, name: str, part: FusionPart) -> None:
        if missing := [member for member in part.members if member not in self.peft_config]:
            raise ModelError(f"fusion needs the adapter '{missing[0]}', which the model does not have; add it first")
        for member in part.members:
            config = self.peft_config[member]
            if config.bottleneck is None or config.prefix is not None or config.lora is not None:
                raise ModelError(f"fusion mixes plain bottleneck adapters, but '{member}' is not one; leave it out")
        dropout = float(getattr(self.model.config, "attention_probs_dropout_prob", 0.0))
        for layer in dict.fromkeys(self._layers.values()):
            if not isinstance(layer, SiteLayer):
                continue
            if members := [member for member in part.members if member in layer.adapeff_bottleneck]:
                fusion = Fusion(self.layout.hidden_size, part, dropout)
                fusion.members = tuple(members)
                layer.put("adapeff_fusion", name, fusion)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate an adapter, and make it the only trainable one."""
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        active = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        for name, shared in self.adapeff_shared.items():
            shared.requires_grad_(name in active and not inference_mode)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        for name, shared in self.adapeff_shared.items():
            shared.requires_grad_(enabled and name in self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; if it was active, activate the first of the others.

        Raises:
            ModelError: if a fusion uses it.
        """
        for name, config in self.peft_config.items():
            if config.fusion is not None and adapter_name in config.fusion.members:
                raise ModelError(f"adapter '{adapter_name}' is part of the fusion '{name}'; delete that first")
        others = [name for name in self.peft_config if name != adapter_name]
        if adapter_name in self.active_adapters and others:
            self.set_adapter(others[0])
        super().delete_adapter(adapter_name)
        if adapter_name in self.adapeff_shared:
            del self.adapeff_shared[adapter_name]

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        for index, role in self._layers:
            parent, name = self.layout.places[index, role]
            if isinstance(wrapped := getattr(parent, name), AdapterLayer):
                setattr(parent, name, wrapped.release())
        self._layers.clear()
        base: nn.Module = super()._unload_and_optionally_merge(False, *args, **kwargs)
        return base

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The key without the adapter's name, which follows the kind of module in adapeff's keys."""
        plain = re.sub(rf"(adapeff_\w+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key)
        return plain if plain != key else super()._remove_adapter_name_from_key(key, adapter_name)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Keep adapters in the base model's precision, because they read and write its hidden states."""

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ModelError("only one of these adapters can be active at a time; adapter_names is not supported")
        yield

    def _check_merge_allowed(self) -> None:
        raise ModelError(
            "these adapters cannot be merged, because they are not linear updates of the weights; unload them instead"
        )

    def _prepare_adapter_config(self, peft_config: AdapterConfig, model_config: dict[str, Any]) -> AdapterConfig:
        return peft_config

    @staticmethod
    def _check_target_module_exists(peft_config: AdapterConfig, key: str) -> bool:
        return False

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("inject_adapter puts adapters in place")


PEFT_TYPE_TO_CONFIG_MAPPING[AdapeffPeftType.ADAPEFF] = AdapterConfig
PEFT_TYPE_TO_TUNER_MAPPING[AdapeffPeftType.ADAPEFF] = AdapterModel
PEFT_TYPE_TO_PREFIX_MAPPING[AdapeffPeftType.ADAPEFF] = AdapterModel.prefix


def add_adapter(model: nn.Module, config: AdapterConfig, name: str = "default") -> PeftModel:
    """Add an adapter to an encoder; a further one stays inactive.

    Raises:
        ModelError: if the architecture is unknown, or the configuration does not fit the model.
    """
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
        return model
    return get_peft_model(model, config, adapter_name=name)


def eject_prefixes(model: PeftModel) -> None:
    """Replace the MLPs of all prefixes by the keys and values they compute, for inference."""
    for module in model.modules():
        if isinstance(module, PrefixEncoder):
            module.eject()
    for config in model.peft_config.values():
        if config.prefix is not None:
            config.prefix.flat = True


__all__ = ["AdapterConfig", "AdapterModel", "add_adapter", "eject_prefixes"]


def _layer_kind(residual: Mapping[str, str], roles: Container[str]) -> type[AdapterLayer]:
    """The class for a module that has these roles, in an architecture with this form of residual for each site."""
    site = next((role for role in SITE_ROLES if role in roles), None)
    if site is not None and "attention" in roles:
        return {"outside": OutsideAttention, "pre_norm": PreNormAttention}[residual[site]]
    if site is not None:
        return {"inside": InsideSite, "around": AroundSite, "outside": OutsideSite, "pre_norm": PreNormSite}[
            residual[site]
        ]
    return AttentionLayer if "attention" in roles else LinearLayer
