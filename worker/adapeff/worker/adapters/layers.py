"""The layers that put adapters into a model, one kind per place; inactive, each is the module it wraps, bit for bit."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adapeff.service.errors import ModelError
from adapeff.worker.adapters.layouts import SITE_ROLES
from adapeff.worker.adapters.modules import Gate, PrefixEncoder


class AdapterLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft ships no types
    """A module of the model with adapters at it, one of them active at a time."""

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
        """Add a module of an adapter, where and as precise as the base layer is."""
        reference = next(self.base_layer.parameters())
        if reference.device.type != "meta" and next(module.parameters()).device.type != "meta":
            module = module.to(device=reference.device, dtype=reference.dtype)
        getattr(self, kind)[adapter_name] = module

    def active(self, *kinds: nn.ModuleDict | dict[str, Any]) -> str | None:
        """The adapter that acts here now, if it has something of one of these kinds."""
        if self._disable_adapters:
            return None
        here = [name for name in self.active_adapters if any(name in kind for kind in kinds)]
        if len(here) > 1:
            raise ModelError(f"these adapters act one at a time, but {', '.join(here)} are active; set one")
        return here[0] if here else None

    def release(self) -> nn.Module:
        """The wrapped module, as it was."""
        base: nn.Module = self.base_layer
        return base


class SiteLayer(AdapterLayer):
    """Bottlenecks and fusion at the output of a sublayer.

    `x` is the residual input of the sublayer, `h` its output after dense and dropout, `LN` the site's LayerNorm. The
    unadapted model goes on with LN(h + x) (post-norm) or h + x (pre-norm); the adapted one with o in h's place:

    sequential: o = B(z) + r, z = LN(h + x) where `norm_before` is set, else h; r as `residual` says, h by default
    parallel:   o = h + B(x)
    fusion:     o = Fusion(z, the members' B) + r, z and r as the last member says; parallel members: z = x, r = h + x

    In a pre-norm model `x` is the sublayer's normed input for parallel adapters, and the residual stream in h + x.
    Source: the formulas of Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2007.07779) and He et
    al. 2022 (arXiv:2110.04366), with AdapterHub's options (Poth et al. 2023, arXiv:2311.11077).
    """

    adapter_layer_names: tuple[str, ...] = ("adapeff_bottleneck", "adapeff_fusion")
    adapeff_bottleneck: nn.ModuleDict
    adapeff_fusion: nn.ModuleDict

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        super().__init__(base_layer, layer)
        self._norm = (norm,)  # in a tuple, so that it is not registered here as well

    def adapted(self, name: str, h: torch.Tensor, x: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """o, given what a parallel adapter reads (`x`) and what h is added to (`stream`)."""
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
        """What the wrapped sublayer gives."""
        return self.base_layer(hidden_states, *args, **kwargs)

    def replaced(self, output: Any, x: torch.Tensor, stream: torch.Tensor) -> Any:
        """A sublayer's output with o in h's place, alone or first of a tuple."""
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
        # of parallel members AdapterHub adds the input once more than a single parallel adapter does; so do we
        return mixed + (h + x if part.parallel else _residual(part.residual, h, stream, z))


def _residual(kind: str, h: torch.Tensor, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    if kind == "output":
        return h
    return h + x if kind == "sum" else z


class InsideSite(SiteLayer):
    """BERT's form: the output module itself adds the residual and norms."""

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        takes = inspect.signature(base_layer.forward).parameters
        if len(takes) != 2 or not all(hasattr(base_layer, part) for part in ("dense", "dropout", "LayerNorm")):
            raise ModelError(
                f"adapters at a sublayer's output need BERT's form of it, LayerNorm(dropout(dense(h)) + x), which "
                f"{type(base_layer).__name__} is not; lora and prefix_tuning may run"
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
    """MPNet's form: one module computes the attention, adds the residual and norms."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        site: Any = self.base_layer
        if (name := self.active(self.adapeff_bottleneck, self.adapeff_fusion)) is None:
            return site(hidden_states, *args, **kwargs)
        output = site.attn(hidden_states, *args, **kwargs)
        adapted = self.adapted(name, site.dropout(output[0]), hidden_states, hidden_states)
        return (site.LayerNorm(adapted + hidden_states), *output[1:])


class OutsideSite(SiteLayer):
    """DistilBERT's form: the layer adds the residual, which is the sublayer's input, and norms."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.replaced(self.sublayer(hidden_states, *args, **kwargs), hidden_states, hidden_states)


class PreNormSite(SiteLayer):
    """ModernBERT's form: the sublayer reads the normed residual stream, and the layer adds its output to the stream."""

    def __init__(self, base_layer: nn.Module, layer: int, norm: nn.Module) -> None:
        super().__init__(base_layer, layer, norm)
        self._stream: torch.Tensor | None = None
        self._listening = norm.register_forward_pre_hook(self._listen)

    def _listen(self, _norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self._stream = arguments[0]

    def release(self) -> nn.Module:
        """The wrapped module, with nobody listening to its norm."""
        self._listening.remove()
        return super().release()

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stream, self._stream = self._stream, None
        assert stream is not None
        output = self.replaced(self.sublayer(hidden_states, *args, **kwargs), hidden_states, stream)
        self._stream = None  # an adapter that uses the norm is heard too
        return output


PREFIXED = "adapeff_prefixed_sdpa"


def _prefixed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    adapeff_prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA with keys and values (batch x heads x length x head) put before the tokens' own, never masked."""
    if adapeff_prefix is not None:
        before_key, before_value = adapeff_prefix
        key = torch.cat([before_key.to(key.dtype), key], dim=2)
        value = torch.cat([before_value.to(value.dtype), value], dim=2)
        if attention_mask is not None:
            seen = 1 if attention_mask.dtype == torch.bool else 0.0
            attention_mask = functional.pad(attention_mask, (before_key.shape[2], 0), value=seen)
    result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return result


AttentionInterface.register(PREFIXED, _prefixed_attention)


class _Prefixed(AdapterLayer):
    """Prefixes in a self-attention; token positions are not shifted, and queries exist for the tokens only.

    Attention that goes through transformers' interface is given the prefix as an argument, and this one module is
    switched to an SDPA that takes it. DeBERTa's disentangled attention and MPNet's are computed here; a prefix has no
    position, so its scores are content to content alone.
    """

    adapter_layer_names: tuple[str, ...] = ("adapeff_prefix_gate",)
    adapeff_prefix_gate: nn.ModuleDict

    def __init__(self, base_layer: nn.Module, *where: Any) -> None:
        super().__init__(base_layer, *where)
        self._prefixes: dict[str, tuple[PrefixEncoder, int]] = {}
        site: Any = base_layer
        self._disentangled = hasattr(site, "disentangled_attention_bias")
        self._of_mpnet = all(isinstance(getattr(site, part, None), nn.Linear) for part in "qkvo")
        if self._disentangled or self._of_mpnet:
            return
        if not hasattr(getattr(site, "config", None), "_attn_implementation"):
            raise ModelError(
                f"prefix tuning needs attention that goes through transformers' interface, and {type(site).__name__} "
                "does not"
            )
        self._config = site.config
        if site.config._attn_implementation != "sdpa":
            raise ModelError(
                f"prefix tuning needs the sdpa attention, but the model was loaded with "
                f"{site.config._attn_implementation}"
            )
        site.config = copy.copy(site.config)
        site.config._attn_implementation = PREFIXED

    def add_prefix(self, adapter_name: str, encoder: PrefixEncoder, number: int, gate: Gate | None) -> None:
        """Take slice `number` of a prefix encoder that lives elsewhere."""
        self._prefixes[adapter_name] = (encoder, number)
        if gate is not None:
            self.put("adapeff_prefix_gate", adapter_name, gate)

    def _all_available_adapter_names(self) -> list[str]:
        return sorted({*super()._all_available_adapter_names(), *self._prefixes})

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter's prefix."""
        self._prefixes.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def release(self) -> nn.Module:
        """The wrapped attention with its own configuration."""
        if not self._disentangled and not self._of_mpnet:
            site: Any = self.base_layer
            site.config = self._config
        return super().release()

    def sublayer(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attention with the active prefix."""
        if (name := self.active(self._prefixes)) is None:
            return self.base_layer(hidden_states, *args, **kwargs)
        prefix = self._prefix(name, hidden_states)
        if self._disentangled:
            return self._disentangled_attention(prefix, hidden_states, *args, **kwargs)
        if self._of_mpnet:
            return self._mpnet_attention(prefix, hidden_states, *args, **kwargs)
        return self.base_layer(hidden_states, *args, adapeff_prefix=prefix, **kwargs)

    def _prefix(self, name: str, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoder, number = self._prefixes[name]
        both = encoder(number).expand(hidden_states.shape[0], -1, -1)
        if name in self.adapeff_prefix_gate:
            both = both * self.adapeff_prefix_gate[name](hidden_states)
        site: Any = self.base_layer
        size = getattr(site, "attention_head_size", None) or site.head_dim
        key, value = both.chunk(2, dim=-1)
        return key.unflatten(-1, (-1, size)).transpose(1, 2), value.unflatten(-1, (-1, size)).transpose(1, 2)

    def _mpnet_attention(
        self,
        prefix: tuple[torch.Tensor, torch.Tensor],
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        output_attentions: bool = False,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """MPNet's attention (Song et al. 2020, arXiv:2004.09297), its relative positions biases of the scores."""
        site: Any = self.base_layer
        query, key, value = (
            part(hidden_states).unflatten(-1, (-1, site.attention_head_size)).transpose(1, 2)
            for part in (site.q, site.k, site.v)
        )
        before_key, before_value = (part.to(key.dtype) for part in prefix)
        scale = site.attention_head_size**0.5
        scores = query @ key.transpose(-1, -2) / scale
        scores = scores if position_bias is None else scores + position_bias
        scores = scores if attention_mask is None else scores + attention_mask
        before = query @ before_key.transpose(-1, -2) / scale
        probabilities = site.dropout(torch.cat([before, scores], dim=-1).softmax(dim=-1))
        context = probabilities @ torch.cat([before_value, value], dim=2)
        output = site.o(context.transpose(1, 2).flatten(2))
        return (output, probabilities) if output_attentions else (output,)

    def _disentangled_attention(
        self,
        prefix: tuple[torch.Tensor, torch.Tensor],
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        output_attentions: bool = False,
        query_states: torch.Tensor | None = None,
        relative_pos: torch.Tensor | None = None,
        rel_embeddings: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """DeBERTa-v2's attention (He et al. 2021, arXiv:2006.03654, equation 4) with content-only prefix columns."""
        site: Any = self.base_layer
        heads, size = site.num_attention_heads, site.attention_head_size
        batch, length, _ = hidden_states.shape

        def split(projected: torch.Tensor) -> torch.Tensor:
            joined: torch.Tensor = site.transpose_for_scores(projected, heads)
            return joined  # batch * heads x length x head

        query = split(site.query_proj(hidden_states if query_states is None else query_states))
        key, value = split(site.key_proj(hidden_states)), split(site.value_proj(hidden_states))
        terms = 1 + sum(kind in site.pos_att_type for kind in ("c2p", "p2c"))
        before_key, before_value = (part.reshape(batch * heads, -1, size).to(key.dtype) for part in prefix)
        # the model computes its scale in float32 whatever it runs in, and so must this
        scale = torch.sqrt(torch.tensor(size * terms, dtype=torch.float)).to(device=key.device, dtype=key.dtype)
        scores = query @ (key.transpose(1, 2) / scale)
        if site.relative_attention:
            scores = scores + site.disentangled_attention_bias(
                query, key, relative_pos, site.pos_dropout(rel_embeddings), terms
            )
        scores = scores.view(batch, heads, length, length)
        scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        before = (query @ (before_key.transpose(1, 2) / scale)).view(batch, heads, length, -1)
        probabilities = site.dropout(torch.cat([before, scores], dim=-1).softmax(dim=-1))
        values = torch.cat([before_value, value], dim=1).view(batch, heads, -1, size)
        context = (probabilities @ values).transpose(1, 2).reshape(batch, length, -1)
        return context, probabilities if output_attentions else None


class AttentionLayer(_Prefixed):
    """A self-attention that is no site: its output goes through a module of its own."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.sublayer(hidden_states, *args, **kwargs)


class OutsideAttention(_Prefixed, OutsideSite):
    """DistilBERT's attention, which is a site too."""

    adapter_layer_names = (*OutsideSite.adapter_layer_names, *_Prefixed.adapter_layer_names)


class PreNormAttention(_Prefixed, PreNormSite):
    """ModernBERT's attention, which is a site too."""

    adapter_layer_names = (*PreNormSite.adapter_layer_names, *_Prefixed.adapter_layer_names)


class LinearLayer(AdapterLayer):
    """A linear layer with low-rank updates that may be gated."""

    adapter_layer_names = ("adapeff_lora",)
    adapeff_lora: nn.ModuleDict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.base_layer(x)
        if (name := self.active(self.adapeff_lora)) is None:
            return output
        updated: torch.Tensor = output + self.adapeff_lora[name](x)
        return updated


def layer_kind(residual: Mapping[str, str], roles: Container[str]) -> type[AdapterLayer]:
    """The class for a place that has these roles, in an architecture with these forms by site."""
    site = next((role for role in SITE_ROLES if role in roles), None)
    if site is not None and "attention" in roles:
        return {"outside": OutsideAttention, "pre_norm": PreNormAttention}[residual[site]]
    if site is not None:
        return {"inside": InsideSite, "around": AroundSite, "outside": OutsideSite, "pre_norm": PreNormSite}[
            residual[site]
        ]
    return AttentionLayer if "attention" in roles else LinearLayer
