"""Methods that combine several adapters: MAM and UniPELT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from adapeff.worker.methods.hosted import HostedMethod

if TYPE_CHECKING:
    from torch import nn


class Mam(HostedMethod):
    """Mix-and-match: prefix tuning in attention and a scaled parallel adapter at the feed-forward (He et al. 2022)."""

    paper: ClassVar[str] = "He et al. 2022, Towards a Unified View, arXiv:2110.04366, section 4.6"
    default_learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "He et al. 2022, appendix A (MNLI, SST-2: 1e-4)"

    prefix_length: PositiveInt = 30
    prefix_bottleneck_size: PositiveInt = 800
    reduction_factor: PositiveFloat = 2
    scaling: float = 4.0
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers with neither, counted from 0."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """The union's configuration; the same for every architecture."""
        from adapeff.worker.adapters.parts import AdapterConfig, BottleneckPart, PrefixPart

        return AdapterConfig(
            prefix=PrefixPart(
                length=self.prefix_length, bottleneck_size=self.prefix_bottleneck_size, leave_out=list(self.leave_out)
            ),
            bottleneck=BottleneckPart(
                sites=["ffn_output"],
                reduction_factor=self.reduction_factor,
                non_linearity="relu",
                parallel=True,
                scaling=self.scaling,
                init="lora",
                leave_out=list(self.leave_out),
            ),
        )


class UniPelt(HostedMethod):
    """Prefix tuning, a Pfeiffer adapter and LoRA, each behind a learned gate (Mao et al. 2022)."""

    paper: ClassVar[str] = "Mao et al. 2022, UniPELT, arXiv:2110.07577"
    default_learning_rate: ClassVar[float] = 5e-4
    learning_rate_source: ClassVar[str] = "Mao et al. 2022 (UniPELT on GLUE)"

    prefix_length: PositiveInt = 10
    prefix_bottleneck_size: PositiveInt = 512
    reduction_factor: PositiveFloat = 16
    rank: PositiveInt = 8
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers with none of the three, counted from 0."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """The union's configuration; the same for every architecture."""
        from adapeff.worker.adapters.parts import AdapterConfig, BottleneckPart, LoraPart, PrefixPart

        leave_out = list(self.leave_out)
        return AdapterConfig(
            prefix=PrefixPart(
                length=self.prefix_length,
                bottleneck_size=self.prefix_bottleneck_size,
                gated=True,
                leave_out=leave_out,
            ),
            bottleneck=BottleneckPart(
                sites=["ffn_output"],
                reduction_factor=self.reduction_factor,
                non_linearity="relu",
                norm_before=True,
                gated=True,
                leave_out=leave_out,
            ),
            lora=LoraPart(rank=self.rank, gated=True, leave_out=leave_out),
        )
