"""The Houlsby adapter: two bottlenecks a layer, as a tuner of our own inside PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat

from adapeff.service.plugins import Method

if TYPE_CHECKING:
    from torch import nn


class Houlsby(Method):
    """Bottlenecks after attention and feed-forward (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)."""

    paper: ClassVar[str] = "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751"
    default_learning_rate: ClassVar[float] = 3e-4
    learning_rate_source: ClassVar[str] = "Houlsby et al. 2019, section 3.2 (middle of 3e-5, 3e-4, 3e-3)"

    reduction_factor: PositiveFloat = 16
    """Hidden size over bottleneck size; 16 is AdapterHub's (Pfeiffer et al. 2020, arXiv:2007.07779)."""
    non_linearity: Literal["swish", "relu", "gelu", "leakyrelu", "tanh"] = "swish"
    scaling: float = 1.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    leave_out: tuple[int, ...] = ()
    """Layers, counted from 0, that get no adapter."""

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Put a bottleneck after the attention's and the feed-forward's output, and freeze the rest."""
        from adapeff.worker.methods.bottleneck import BottleneckConfig, add_bottlenecks

        config = BottleneckConfig(
            reduction_factor=self.reduction_factor,
            non_linearity=self.non_linearity,
            scaling=self.scaling,
            bottleneck_dropout=self.dropout,
            leave_out=list(self.leave_out),
        )
        return add_bottlenecks(encoder, config)
