"""Bottleneck adapters: Houlsby, Pfeiffer, their parallel forms, the scaled parallel one, Compacter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from adapeff.worker.methods.hosted import HostedMethod

if TYPE_CHECKING:
    from torch import nn

Activation = Literal["swish", "relu", "gelu", "leakyrelu", "tanh"]
BOTH_SITES = ("attention_output", "ffn_output")
FFN_SITE = ("ffn_output",)


class BottleneckMethod(HostedMethod):
    """The base of bottleneck methods; a subclass sets where its adapters are, what they read and how they start."""

    sites: ClassVar[tuple[str, ...]]
    parallel: ClassVar[bool] = False
    norm_before: ClassVar[bool] = False

    reduction_factor: PositiveFloat | dict[str, PositiveFloat] = 16
    """Hidden size divided by bottleneck size; or a mapping from layer (from 0), with `default` for the other layers."""
    non_linearity: Activation = "swish"
    scaling: float | Literal["learned", "channel"] = 1.0
    """Factor of the adapter's output: a number, a learned scalar, or a learned number per hidden unit."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers without an adapter, counted from 0."""

    @field_validator("reduction_factor", mode="before")
    @classmethod
    def _by_layer(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        by_layer = {str(key): factor for key, factor in value.items()}
        if invalid := [key for key in by_layer if key != "default" and not key.isdecimal()]:
            raise ValueError(
                f"'{invalid[0]}' is not a layer; expected layers from 0 and `default`, such as {{0: 8, default: 16}}"
            )
        if "default" not in by_layer:
            raise ValueError(
                "`default` is missing, for the layers that are not listed; write for example {0: 8, default: 16}"
            )
        return by_layer

    def peft_config(self, encoder: nn.Module) -> Any:
        """The tuner's configuration; the same for every architecture."""
        from adapeff.worker.adapters.parts import AdapterConfig

        return AdapterConfig(bottleneck=self.part())

    def part(self) -> Any:
        """The `BottleneckPart` of this method."""
        from adapeff.worker.adapters.parts import BottleneckPart

        return BottleneckPart(
            sites=list(self.sites),  # type: ignore[arg-type]
            reduction_factor=self.reduction_factor,
            non_linearity=self.non_linearity,
            parallel=self.parallel,
            norm_before=self.norm_before,
            scaling=self.scaling,
            dropout=self.dropout,
            leave_out=list(self.leave_out),
        )


class LinearBottleneck(BottleneckMethod):
    """A bottleneck of two linear layers, with a choice of initialisations."""

    init: Literal["bert", "lora", "houlsby"] = "bert"
    """Weights from N(0, 0.02^2); up zero and down Kaiming uniform; or a truncated normal with std 0.01."""

    def part(self) -> Any:
        """The bottleneck with its initialisation."""
        part = super().part()
        part.init = self.init
        return part


class Houlsby(LinearBottleneck):
    """Bottlenecks after attention and feed-forward (Houlsby et al. 2019, arXiv:1902.00751, section 2.1).

    Reduction factor and initialisation as AdapterHub's `double_seq_bn` (Pfeiffer et al. 2020, arXiv:2007.07779).
    """

    paper: ClassVar[str] = "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751"
    default_learning_rate: ClassVar[float] = 3e-4
    learning_rate_source: ClassVar[str] = "Houlsby et al. 2019, section 3.2 (middle of 3e-5, 3e-4, 3e-3)"
    sites: ClassVar[tuple[str, ...]] = BOTH_SITES


class Pfeiffer(LinearBottleneck):
    """One bottleneck per layer, after the feed-forward and its LayerNorm (Pfeiffer et al. 2021, AdapterFusion)."""

    paper: ClassVar[str] = "Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247"
    default_learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "Pfeiffer et al. 2021 (single-task adapters, 0.0001)"
    sites: ClassVar[tuple[str, ...]] = FFN_SITE
    norm_before: ClassVar[bool] = True

    non_linearity: Activation = "relu"


class HoulsbyParallel(LinearBottleneck):
    """Houlsby's two bottlenecks, parallel to the sublayers instead of after them (He et al. 2022, section 4.1)."""

    paper: ClassVar[str] = "He et al. 2022, Towards a Unified View, arXiv:2110.04366 (on Houlsby et al. 2019)"
    default_learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "He et al. 2022, appendix A (MNLI, SST-2: 1e-4)"
    sites: ClassVar[tuple[str, ...]] = BOTH_SITES
    parallel: ClassVar[bool] = True


class PfeifferParallel(LinearBottleneck):
    """One bottleneck per layer, parallel to the feed-forward (He et al. 2022, section 4.1)."""

    paper: ClassVar[str] = "He et al. 2022, Towards a Unified View, arXiv:2110.04366 (on Pfeiffer et al. 2021)"
    default_learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "He et al. 2022, appendix A (MNLI, SST-2: 1e-4)"
    sites: ClassVar[tuple[str, ...]] = FFN_SITE
    parallel: ClassVar[bool] = True

    non_linearity: Activation = "relu"


class ParallelScaled(LinearBottleneck):
    """The scaled parallel adapter as published (He et al. 2022, section 4.6): wide, scaled by 4, LoRA's init."""

    paper: ClassVar[str] = "He et al. 2022, Towards a Unified View, arXiv:2110.04366"
    default_learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "He et al. 2022, appendix A (MNLI, SST-2: 1e-4)"
    sites: ClassVar[tuple[str, ...]] = FFN_SITE
    parallel: ClassVar[bool] = True

    reduction_factor: PositiveFloat | dict[str, PositiveFloat] = 2
    non_linearity: Activation = "relu"
    scaling: float | Literal["learned", "channel"] = 4.0
    init: Literal["bert", "lora", "houlsby"] = "lora"


class Compacter(BottleneckMethod):
    """Houlsby's sites with hypercomplex, low-rank, shared weights (Karimi Mahabadi et al. 2021, arXiv:2106.04647)."""

    paper: ClassVar[str] = "Karimi Mahabadi et al. 2021, Compacter, arXiv:2106.04647"
    default_learning_rate: ClassVar[float] = 3e-3
    learning_rate_source: ClassVar[str] = "Karimi Mahabadi et al. 2021 (the authors' configs/compacter.json)"
    sites: ClassVar[tuple[str, ...]] = BOTH_SITES

    reduction_factor: PositiveFloat | dict[str, PositiveFloat] = 32
    non_linearity: Activation = "gelu"
    phm_dim: PositiveInt = 4
    """n: a weight is a sum of n Kronecker products; n must divide the hidden and the bottleneck size."""
    phm_rank: PositiveInt = 1
    shared_rule: bool = True
    """One n x n x n rule for all projections of the model."""
    factorised_rule: bool = False
    factorised_weight: bool = True
    weight_init: Literal["xavier_normal", "xavier_uniform"] = "xavier_normal"
    """AdapterHub uses normal since its release 3.2.1, uniform before."""

    def part(self) -> Any:
        """The bottleneck with PHM layers instead of linear ones."""
        from adapeff.worker.adapters.parts import PhmPart

        part = super().part()
        part.phm = PhmPart(
            dim=self.phm_dim,
            rank=self.phm_rank,
            factorised_weight=self.factorised_weight,
            shared_rule=self.shared_rule,
            factorised_rule=self.factorised_rule,
            weight_init=self.weight_init,
        )
        return part


class CompacterPlusPlus(Compacter):
    """Compacter with one adapter per layer, at Pfeiffer's site (Karimi Mahabadi et al. 2021, section 4)."""

    sites: ClassVar[tuple[str, ...]] = FFN_SITE
    norm_before: ClassVar[bool] = True
