"""Methods that PEFT hosts: a configuration is all they need to say."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from adapeff.service.errors import ModelError, ResourceError, first_line
from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class HostedMethod(Method):
    """A method that is a PEFT tuner, ours or PEFT's own."""

    refusals: ClassVar[tuple[type[Exception], ...]] = (ValueError,)
    """What PEFT raises when a tuner does not run on a model; anything else is a fault, and shown as one."""

    @abstractmethod
    def peft_config(self, encoder: nn.Module) -> Any:
        """The `PeftConfig` for an encoder.

        Raises:
            ModelError: if the method cannot be applied to this architecture.
        """

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Put the tuner into the encoder and freeze the rest; what PEFT says against it becomes one line.

        Raises:
            ModelError: if the tuner does not run on this model.
            ResourceError: if it needs a package that is not installed.
        """
        try:
            return self.host(encoder)
        except ImportError as error:
            raise ResourceError(f"{self.label()} needs a package that is absent: {first_line(error)}") from error
        except self.refusals as error:
            if "out of memory" in str(error) or "allocate memory" in str(error):
                raise  # the machine's refusal, not the tuner's
            what = type(encoder).__name__
            raise ModelError(f"{self.label()} does not run on {what}: {first_line(error)}") from error

    def host(self, encoder: nn.Module) -> nn.Module:
        """Have PEFT put the tuner into the encoder."""
        from peft import get_peft_model

        import adapeff.worker.adapters.tuner  # noqa: F401  # enters our tuner in PEFT's tables

        adapted: nn.Module = get_peft_model(encoder, self.peft_config(encoder))
        return adapted

    def label(self) -> str:
        """What to call the method in a message."""
        return type(self).__name__.lower()
