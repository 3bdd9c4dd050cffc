"""Bottleneck adapters inside PEFT: config, layer and tuner of our own; saving, switching, disabling are PEFT's.

At a site, `x` is the residual input of the sublayer, `h` its output after dense and dropout, `LN` the site's own
pre-trained LayerNorm; the unadapted model gives `LN(h + x)`. The sequential adapter gives

    LN(h + B(h) + x)        B(z) = dropout(scaling * (U a(D z + b_D) + b_U))

with D of shape bottleneck x hidden, U of shape hidden x bottleneck,
bottleneck = max(1, floor(hidden / reduction_factor)).
D and U start as N(0, 0.02^2), biases as 0 (near the identity). Source: Houlsby et al. 2019, arXiv:1902.00751; placement
and initialisation as AdapterHub's `double_seq_bn` (Poth et al. 2023, arXiv:2311.11077).

The sites are the modules that hold `dense`, `dropout` and `LayerNorm` (BERT, RoBERTa, XLM-R, ELECTRA, DeBERTa). PEFT's
`register_peft_method` takes only names of its closed enum, so the type is entered in PEFT's own tables instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from adapeff.service.errors import ModelError

_SITE = re.compile(r"(?:.*\.)?layer\.(?P<layer>\d+)\.(?:attention\.output|output)")
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}


class AdapeffPeftType(StrEnum):
    """Our tuners' types; PEFT compares them as strings and reads `.value`."""

    ADAPEFF_BOTTLENECK = "ADAPEFF_BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]  # peft ships no types
    """What a bottleneck adapter is made of; PEFT saves it as adapter_config.json."""

    reduction_factor: float = field(default=16)
    non_linearity: str = field(default="swish")
    scaling: float = field(default=1.0)
    bottleneck_dropout: float = field(default=0.0)
    leave_out: list[int] = field(default_factory=list)
    target_modules: str | None = field(default=None)
    bias: str = field(default="none")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = AdapeffPeftType.ADAPEFF_BOTTLENECK


class Bottleneck(nn.Module):
    """B(z): down, activation, up, scaling; z and B(z) are ... x hidden."""

    def __init__(self, hidden_size: int, config: BottleneckConfig) -> None:
        super().__init__()
        size = max(1, int(hidden_size // config.reduction_factor))
        self.down = nn.Linear(hidden_size, size)
        self.activation = _ACTIVATIONS[config.non_linearity]()
        self.up = nn.Linear(size, hidden_size)
        self.dropout = nn.Dropout(config.bottleneck_dropout)
        self.scaling = config.scaling
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        delta: torch.Tensor = self.up(self.activation(self.down(z)))
        scaled: torch.Tensor = self.dropout(delta if self.scaling == 1.0 else delta * self.scaling)
        return scaled


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft ships no types
    """A sublayer's output module with bottlenecks in it, one active at a time; without one it is the module itself."""

    adapter_layer_names = ("bottleneck",)
    bottleneck: nn.ModuleDict
    active_adapters: list[str]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck = nn.ModuleDict({})
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = [adapter_name]
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add the adapter `adapter_name`, on the base layer's device and in its precision."""
        site: Any = self.base_layer
        reference: torch.Tensor = site.dense.weight
        bottleneck = Bottleneck(reference.shape[0], config)
        if reference.device.type != "meta":
            bottleneck = bottleneck.to(device=reference.device, dtype=reference.dtype)
        self.bottleneck[adapter_name] = bottleneck
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        site: Any = self.base_layer
        active: list[str] = [name for name in self.active_adapters if name in self.bottleneck]
        if self.disable_adapters or not active:
            untouched: torch.Tensor = site(hidden_states, input_tensor)
            return untouched
        if len(active) > 1:
            raise ModelError(f"bottleneck adapters act one at a time, but {', '.join(active)} are active")
        h = site.dropout(site.dense(hidden_states))
        adapted: torch.Tensor = site.LayerNorm(h + self.bottleneck[active[0]](h) + input_tensor)
        return adapted


class BottleneckModel(BaseTuner):  # type: ignore[misc]  # peft ships no types
    """Puts bottlenecks at both sites of every layer that is not left out."""

    prefix = "bottleneck"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, str] = {}

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        return peft_config

    @staticmethod
    def _check_target_module_exists(peft_config: BottleneckConfig, key: str) -> bool:
        match = _SITE.fullmatch(key)
        return match is not None and int(match["layer"]) not in peft_config.leave_out

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
        else:
            setattr(parent, target_name, BottleneckLayer(target, adapter_name, peft_config))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ModelError("a bottleneck adapter has a non-linearity, so it cannot be merged into the weights")


PEFT_TYPE_TO_CONFIG_MAPPING[AdapeffPeftType.ADAPEFF_BOTTLENECK] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[AdapeffPeftType.ADAPEFF_BOTTLENECK] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[AdapeffPeftType.ADAPEFF_BOTTLENECK] = BottleneckModel.prefix


def add_bottlenecks(encoder: nn.Module, config: BottleneckConfig) -> nn.Module:
    """Adapt an encoder, freezing everything but the bottlenecks.

    Raises:
        ModelError: if the architecture has no sites of the known form, or a left-out layer does not exist.
    """
    sites = [(name, module) for name, module in encoder.named_modules() if _SITE.fullmatch(name)]
    unfit = [
        name for name, module in sites if not all(hasattr(module, part) for part in ("dense", "dropout", "LayerNorm"))
    ]
    if not sites or unfit:
        raise ModelError(
            f"bottleneck adapters know BERT, RoBERTa, XLM-R, ELECTRA and DeBERTa type encoders, "
            f"not {type(encoder).__name__}"
        )
    layers = {int(match["layer"]) for name, _ in sites if (match := _SITE.fullmatch(name))}
    if absent := sorted(set(config.leave_out) - layers):
        raise ModelError(f"leave_out names layer {absent[0]}, but the model has the layers 0 to {max(layers)}")
    if layers <= set(config.leave_out):
        raise ModelError("leave_out names every layer, so no adapter is left; leave at least one")
    adapted: nn.Module = get_peft_model(encoder, config)
    return adapted
