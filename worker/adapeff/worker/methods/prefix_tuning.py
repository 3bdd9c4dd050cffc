"""Prefix tuning on encoders."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from adapeff.worker.methods.hosted import HostedMethod

if TYPE_CHECKING:
    from torch import nn


class PrefixTuning(HostedMethod):
    """Learned keys and values in front of those of the tokens, computed by an MLP (Li & Liang 2021, arXiv:2101.00190).

    The MLP can be ejected after training, which leaves 2 x layers x length x hidden weights to store.
    """

    paper: ClassVar[str] = "Li & Liang 2021, Prefix-Tuning, arXiv:2101.00190"
    default_learning_rate: ClassVar[float] = 2e-4
    learning_rate_source: ClassVar[str] = "Mao et al. 2022, UniPELT, arXiv:2110.07577 (prefix tuning on GLUE)"

    length: PositiveInt = 30
    bottleneck_size: PositiveInt = 512
    """Width of the MLP's hidden layer."""
    flat: bool = False
    """Train the keys and values themselves, without an MLP."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers without a prefix, counted from 0."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """The tuner's configuration; the same for every architecture."""
        from adapeff.worker.adapters.parts import AdapterConfig, PrefixPart

        return AdapterConfig(
            prefix=PrefixPart(
                length=self.length,
                bottleneck_size=self.bottleneck_size,
                flat=self.flat,
                dropout=self.dropout,
                leave_out=list(self.leave_out),
            )
        )

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """The model with the MLP replaced by the keys and values it computes."""
        if self.flat:
            return
        from adapeff.worker.adapters.tuner import eject_prefixes

        ejected: Any = copy.deepcopy(adapted)
        eject_prefixes(ejected)
        yield {"ejected": True}, ejected
