"""Self-attention with prefixes in front of its keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adapeff.service.errors import ModelError
from adapeff.worker.adapters.layers import AdapterLayer
from adapeff.worker.adapters.modules import Gate, PrefixEncoder
from adapeff.worker.adapters.sites import OutsideSite, PreNormSite

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
    """SDPA with keys and values (batch x heads x length x head) prepended to the tokens' own and never masked."""
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
    """A self-attention with prefixes; token positions are not shifted, and only tokens have queries.

    Attention that uses transformers' attention interface gets the prefix as an argument, and this module alone is
    switched to an SDPA that accepts it. DeBERTa's disentangled attention and MPNet's are computed here; a prefix has
    no position, so its scores are content-to-content only.
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
                f"prefix tuning needs attention that uses transformers' attention interface, but "
                f"{type(site).__name__} does not use it; choose another method"
            )
        self._config = site.config
        if site.config._attn_implementation != "sdpa":
            raise ModelError(
                f"prefix tuning needs the sdpa attention, but this model only supports "
                f"{site.config._attn_implementation}; choose another method"
            )
        site.config = copy.copy(site.config)
        site.config._attn_implementation = PREFIXED

    def add_prefix(self, adapter_name: str, encoder: PrefixEncoder, number: int, gate: Gate | None) -> None:
        """Use slice `number` of a prefix encoder that several layers share."""
        self._prefixes[adapter_name] = (encoder, number)
        if gate is not None:
            self.put("adapeff_prefix_gate", adapter_name, gate)

    def _all_available_adapter_names(self) -> list[str]:
        return sorted({*super()._all_available_adapter_names(), *self._prefixes})

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter's prefix."""
        self._prefixes.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def release(self) -> nn.Module:
        """The wrapped attention, with its own configuration restored."""
        if not self._disentangled and not self._of_mpnet:
            site: Any = self.base_layer
            site.config = self._config
        return super().release()

    def sublayer(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The attention's output with the active prefix."""
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
        """MPNet's attention (Song et al. 2020, arXiv:2004.09297), with relative positions as biases of the scores."""
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
        # the model computes its scale in float32 in every precision, so this does too
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
    """A self-attention whose output goes through a separate module, which is the site."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.sublayer(hidden_states, *args, **kwargs)


class OutsideAttention(_Prefixed, OutsideSite):
    """DistilBERT's attention, which is also a site."""

    adapter_layer_names = (*OutsideSite.adapter_layer_names, *_Prefixed.adapter_layer_names)


class PreNormAttention(_Prefixed, PreNormSite):
    """ModernBERT's attention, which is also a site."""

    adapter_layer_names = (*PreNormSite.adapter_layer_names, *_Prefixed.adapter_layer_names)
