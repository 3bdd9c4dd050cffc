"""The base of all layers that put adapters into a model; without an active adapter, outputs are bit-identical."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from adapeff.service.errors import ModelError


class AdapterLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft ships no types
    """A wrapped module of the model with its adapters, of which one is active at a time."""

    active_adapters: list[str]
    adapter_layer_names: tuple[str, ...]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module, layer: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layer = layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict({}))

    def put(self, kind: str, adapter_name: str, module: nn.Module) -> None:
        """Add a module of an adapter, on the base layer's device and in its precision."""
        reference = next(self.base_layer.parameters())
        if reference.device.type != "meta" and next(module.parameters()).device.type != "meta":
            module = module.to(device=reference.device, dtype=reference.dtype)
        getattr(self, kind)[adapter_name] = module

    def active(self, *kinds: nn.ModuleDict | dict[str, Any]) -> str | None:
        """The active adapter, if it has a module of one of these kinds here."""
        if self._disable_adapters:
            return None
        here = [name for name in self.active_adapters if any(name in kind for kind in kinds)]
        if len(here) > 1:
            raise ModelError(
                f"only one of these adapters can be active at a time, but {', '.join(here)} are; activate one"
            )
        return here[0] if here else None

    def release(self) -> nn.Module:
        """The wrapped module, unchanged."""
        base: nn.Module = self.base_layer
        return base


class LinearLayer(AdapterLayer):
    """A linear layer with low-rank updates, optionally gated."""

    adapter_layer_names = ("adapeff_lora",)
    adapeff_lora: nn.ModuleDict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.base_layer(x)
        if (name := self.active(self.adapeff_lora)) is None:
            return output
        updated: torch.Tensor = output + self.adapeff_lora[name](x)
        return updated
