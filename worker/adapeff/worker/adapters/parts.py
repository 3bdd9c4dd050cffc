"""The parts of an adapter, as PEFT saves them in adapter_config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig

from adapeff.worker.adapters.layouts import LinearRole, SiteRole


class AdapeffPeftType(StrEnum):
    """The type of adapeff's tuner; PEFT compares types as strings and reads `.value`."""

    ADAPEFF = "ADAPEFF"


@dataclass
class PhmPart:
    """Parameterised hypercomplex multiplication instead of linear layers (Karimi Mahabadi et al. 2021, section 3)."""

    dim: int = 4
    """n: the weight is a sum of n Kronecker products."""
    rank: int = 1
    factorised_weight: bool = True
    """Each W_i is a product of rank `rank` instead of a full matrix."""
    shared_rule: bool = True
    """One rule for all sites and layers instead of one per projection."""
    factorised_rule: bool = False
    weight_init: str = "xavier_normal"
    """Or `xavier_uniform`, which adapter-transformers used up to 3.2.0."""


@dataclass
class BottleneckPart:
    """Bottleneck adapters; see `modules.Bottleneck` for B and `sites.SiteLayer` for where it is added."""

    sites: list[SiteRole] = field(default_factory=lambda: ["attention_output", "ffn_output"])
    reduction_factor: float | dict[str, float] = 16
    """Hidden size divided by bottleneck size; or a mapping from layer index, with `default` for the other layers."""
    non_linearity: str = "swish"
    parallel: bool = False
    """B reads the sublayer's residual input instead of its output."""
    norm_before: bool = False
    """B reads LayerNorm(output + residual), with the model's own LayerNorm."""
    residual: str = "output"
    """What is added to B: `output` (h), `sum` (h + x) or `input` (what B reads)."""
    residual_before_ln_after: bool = False
    """Whether the residual is added before `ln_after` instead of after it."""
    ln_before: bool = False
    ln_after: bool = False
    scaling: float | str = 1.0
    """A number, or `learned` (one scalar) or `channel` (one per hidden unit)."""
    gated: bool = False
    dropout: float = 0.0
    init: str = "bert"
    """`bert`: N(0, 0.02^2); `lora`: as LoRA, with up zero; `houlsby`: normal with std 0.01, truncated at 2 std."""
    phm: PhmPart | None = None
    leave_out: list[int] = field(default_factory=list)

    def reduction(self, layer: int) -> float:
        """The reduction factor of a layer."""
        if isinstance(self.reduction_factor, dict):
            return self.reduction_factor.get(str(layer), self.reduction_factor["default"])
        return self.reduction_factor


@dataclass
class PrefixPart:
    """Keys and values in front of those of the tokens (Li & Liang 2021); see `modules.PrefixEncoder`."""

    length: int = 30
    bottleneck_size: int = 512
    flat: bool = False
    """Train the keys and values themselves instead of an MLP that computes them, as after ejecting the MLP."""
    gated: bool = False
    dropout: float = 0.0
    leave_out: list[int] = field(default_factory=list)


@dataclass
class LoraPart:
    """Low-rank updates with an optional gate, for unions; plain LoRA is PEFT's."""

    rank: int = 8
    alpha: float = 16
    gated: bool = False
    """Scale by a learned gate instead of alpha / rank (Mao et al. 2022)."""
    dropout: float = 0.0
    roles: list[LinearRole] = field(default_factory=lambda: ["query", "value"])
    leave_out: list[int] = field(default_factory=list)


@dataclass
class FusionPart:
    """Attention over the outputs of other adapters (Pfeiffer et al. 2021)."""

    members: list[str] = field(default_factory=list)
    """Names of adapters of the same model, frozen."""
    value: bool = True
    """Whether there is a value matrix ("dynamic" fusion) or the outputs themselves are mixed ("static")."""


_PARTS = {"bottleneck": BottleneckPart, "prefix": PrefixPart, "lora": LoraPart, "fusion": FusionPart}


@dataclass
class AdapterConfig(PeftConfig):  # type: ignore[misc]  # peft ships no types
    """An adapter: the union of the parts that are set."""

    bottleneck: BottleneckPart | None = None
    prefix: PrefixPart | None = None
    lora: LoraPart | None = None
    fusion: FusionPart | None = None
    target_modules: str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = AdapeffPeftType.ADAPEFF
        for name, kind in _PARTS.items():
            value: Any = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, kind(**value))
        if self.bottleneck is not None and isinstance(self.bottleneck.phm, dict):
            self.bottleneck.phm = PhmPart(**self.bottleneck.phm)
