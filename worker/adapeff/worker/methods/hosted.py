"""Methods that PEFT hosts: a configuration is all they need to say."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from adapeff.service.plugins import Method

if TYPE_CHECKING:
    from torch import nn


class HostedMethod(Method):
    """A method that is a PEFT tuner, ours or PEFT's own."""

    @abstractmethod
    def peft_config(self, encoder: nn.Module) -> Any:
        """The `PeftConfig` for an encoder.

        Raises:
            ModelError: if the method cannot be applied to this architecture.
        """

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Put the tuner into the encoder and freeze the rest."""
        from peft import get_peft_model

        import adapeff.worker.adapters.tuner  # noqa: F401  # enters our tuner in PEFT's tables

        adapted: nn.Module = get_peft_model(encoder, self.peft_config(encoder))
        return adapted
