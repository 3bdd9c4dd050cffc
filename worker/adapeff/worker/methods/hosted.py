"""Methods hosted by PEFT, which only have to provide a configuration."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from adapeff.service.errors import ModelError, ResourceError, first_line
from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class HostedMethod(Method):
    """A method that is a PEFT tuner, adapeff's or PEFT's own."""

    refusals: ClassVar[tuple[type[Exception], ...]] = (ValueError,)
    """What PEFT raises if a tuner does not run on a model; any other exception is a bug and is shown as one."""

    @abstractmethod
    def peft_config(self, encoder: nn.Module) -> Any:
        """The `PeftConfig` for an encoder.

        Raises:
            ModelError: if the method cannot be applied to this architecture.
        """

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Put the tuner into the encoder and freeze the rest; an error of PEFT becomes one line.

        Raises:
            ModelError: if the tuner does not run on this model.
            ResourceError: if it needs a package that is not installed.
        """
        try:
            return self.host(encoder)
        except ImportError as error:
            raise ResourceError(f"{self.label()} needs a package that is not installed: {first_line(error)}") from error
        except self.refusals as error:
            if "out of memory" in str(error) or "allocate memory" in str(error):
                raise  # the device's limit, not the tuner's
            model = type(encoder).__name__
            raise ModelError(f"{self.label()} does not run on {model}: {first_line(error)}") from error

    def host(self, encoder: nn.Module) -> nn.Module:
        """Let PEFT put the tuner into the encoder."""
        from peft import get_peft_model

        import adapeff.worker.adapters.tuner  # noqa: F401  # registers adapeff's tuner with PEFT

        adapted: nn.Module = get_peft_model(encoder, self.peft_config(encoder))
        return adapted

    def label(self) -> str:
        """The method's name in messages."""
        return type(self).__name__.lower()
