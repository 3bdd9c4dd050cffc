"""Bottlenecks and AdapterFusion at the output of a sublayer, a class for each form that architectures give it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from adapeff.service.errors import ModelError
from adapeff.worker.adapters.layers import AdapterLayer


class SiteLayer(AdapterLayer):
    """Bottlenecks and fusion at the output of a sublayer.

    `x` is the residual input of the sublayer, `h` its output after dense and dropout, `LN` the site's LayerNorm. The
    unadapted model continues with LN(h + x) (post-norm) or h + x (pre-norm); the adapted one uses o instead of h:

    sequential: o = B(z) + r, z = LN(h + x) if `norm_before`, else h; r as `residual` selects, h by default
    parallel:   o = h + B(x)
    fusion:     o = Fusion(z, the members' B) + r, z and r as for the last member; parallel members: z = x, r = h + x

    In a pre-norm model `x` is the sublayer's normalised input for parallel adapters, and the residual stream in h + x.
    Source: the formulas of Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2007.07779) and He et
    al. 2022 (arXiv:2110.04366), with AdapterHub's options (Poth et al. 2023, arXiv:2311.11077).
    """

    adapter_layer_names: tuple[str, ...] = ("adapeff_bottleneck", "adapeff_fusion")
    adapeff_bottleneck: nn.ModuleDict
    adapeff_fusion: nn.ModuleDict

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        super().__init__(base_layer, layer)
        self._norm = (norm,)  # in a tuple, so that it is not registered twice

    def adapted(self, name: str, h: torch.Tensor, x: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """o, given the input of parallel adapters (`x`) and the residual stream that h is added to (`stream`)."""
        if name in self.adapeff_fusion:
            return self._fused(name, h, x, stream)
        bottleneck: Any = self.adapeff_bottleneck[name]
        part = bottleneck.part
        if part.parallel:
            made = bottleneck(x)
            parallel: torch.Tensor = h + (made if bottleneck.ln_after is None else bottleneck.ln_after(made))
            return parallel
        z = self._norm[0](h + stream) if part.norm_before else h
        made = bottleneck(z)
        residual = _residual(part.residual, h, stream, z)
        if bottleneck.ln_after is None:
            o: torch.Tensor = made + residual
        elif part.residual_before_ln_after:
            o = bottleneck.ln_after(made + residual)
        else:
            o = bottleneck.ln_after(made) + residual
        return o

    def sublayer(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output of the wrapped sublayer."""
        return self.base_layer(hidden_states, *args, **kwargs)

    def replaced(self, output: Any, x: torch.Tensor, stream: torch.Tensor) -> Any:
        """A sublayer's output, a tensor or a tuple that starts with one, with o instead of h."""
        if (name := self.active(self.adapeff_bottleneck, self.adapeff_fusion)) is None:
            return output
        if isinstance(output, tuple):
            return (self.adapted(name, output[0], x, stream), *output[1:])
        return self.adapted(name, output, x, stream)

    def _fused(self, name: str, h: torch.Tensor, x: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        fusion: Any = self.adapeff_fusion[name]
        members: list[Any] = [self.adapeff_bottleneck[member] for member in fusion.members]
        part = members[-1].part
        z = x if part.parallel else self._norm[0](h + stream) if part.norm_before else h
        outputs = torch.stack([member.delta(z) for member in members])
        mixed: torch.Tensor = fusion(z, outputs)
        # for parallel members, AdapterHub adds the input once more than for a single parallel adapter; so do we
        return mixed + (h + x if part.parallel else _residual(part.residual, h, stream, z))


def _residual(kind: str, h: torch.Tensor, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    if kind == "output":
        return h
    return h + x if kind == "sum" else z


class InsideSite(SiteLayer):
    """BERT's form: the output module itself adds the residual and applies the LayerNorm."""

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        takes = inspect.signature(base_layer.forward).parameters
        if len(takes) != 2 or not all(hasattr(base_layer, part) for part in ("dense", "dropout", "LayerNorm")):
            raise ModelError(
                f"adapters at a sublayer's output need BERT's form, LayerNorm(dropout(dense(h)) + x), which "
                f"{type(base_layer).__name__} does not have; try lora or prefix_tuning"
            )
        super().__init__(base_layer, layer, norm)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        site: Any = self.base_layer
        if (name := self.active(self.adapeff_bottleneck, self.adapeff_fusion)) is None:
            untouched: torch.Tensor = site(hidden_states, input_tensor)
            return untouched
        h = site.dropout(site.dense(hidden_states))
        normed: torch.Tensor = site.LayerNorm(self.adapted(name, h, input_tensor, input_tensor) + input_tensor)
        return normed


class AroundSite(SiteLayer):
    """MPNet's form: one module computes the attention, adds the residual and applies the LayerNorm."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        site: Any = self.base_layer
        if (name := self.active(self.adapeff_bottleneck, self.adapeff_fusion)) is None:
            return site(hidden_states, *args, **kwargs)
        output = site.attn(hidden_states, *args, **kwargs)
        adapted = self.adapted(name, site.dropout(output[0]), hidden_states, hidden_states)
        return (site.LayerNorm(adapted + hidden_states), *output[1:])


class OutsideSite(SiteLayer):
    """DistilBERT's form: the layer adds the residual, which is the sublayer's input, and applies the LayerNorm."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.replaced(self.sublayer(hidden_states, *args, **kwargs), hidden_states, hidden_states)


class PreNormSite(SiteLayer):
    """ModernBERT's form: the sublayer reads the normalised residual stream, and the layer adds its output to it."""

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        super().__init__(base_layer, layer, norm)
        self._stream: torch.Tensor | None = None
        self._hook = norm.register_forward_pre_hook(self._record_stream)

    def _record_stream(self, _norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._stream = arguments[0]

    def release(self) -> nn.Module:
        """The wrapped module, without the hook on its LayerNorm."""
        self._hook.remove()
        return super().release()

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stream, self._stream = self._stream, None
        assert stream is not None
        output = self.replaced(self.sublayer(hidden_states, *args, **kwargs), hidden_states, stream)
        self._stream = None  # an adapter that calls the LayerNorm triggers the hook too
        return output
