"""AdapterFusion: attention over adapters trained beforehand, on this task or on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from adapeff.service.plugins.contracts import Method
from adapeff.worker.methods.adapterdrop import AdapterDropMethod
from adapeff.worker.methods.bottleneck import BottleneckMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdapterFusion(Method):
    """Mix frozen adapters by attention wherever they are (Pfeiffer et al. 2021, arXiv:2005.00247, section 3.2).

    The fusion layers and the head are trained. The target task's own adapter is not added automatically: list it as one
    of the sources to include it.
    """

    paper: ClassVar[str] = "Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247"
    default_learning_rate: ClassVar[float] = 5e-5
    learning_rate_source: ClassVar[str] = "Pfeiffer et al. 2021 (AdapterFusion, 5e-5)"

    sources: tuple[str, ...] = Field(min_length=1)
    """Finished jobs that kept their weights, by id or job hash, or folders of a run or saved by PEFT."""
    value: bool = True
    """Whether there is a value matrix ("dynamic" fusion); the auxiliary loss 0.01 ||I - V||^2 keeps it near the
    identity."""

    @field_validator("sources", mode="before")
    @classmethod
    def _ids_are_numbers(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        names = [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{repeated[0]}' appears twice; list each source once")
        return names

    def source_names(self) -> tuple[str, ...]:
        """The sources."""
        return self.sources

    def check_source(self, method: Method) -> None:
        """Accept bottleneck adapters only.

        Raises:
            ValueError: if it is another method; the message names valid ones.
        """
        inner = method.adapter_method() if isinstance(method, AdapterDropMethod) else method
        if not isinstance(inner, BottleneckMethod):
            raise ValueError("adapterfusion only mixes bottleneck adapters, such as houlsby, pfeiffer and compacter")

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Load the sources' adapters, freeze them, and add the fusion layers.

        Raises:
            ModelError: if a source is missing, is not a bottleneck adapter, or does not fit the model.
        """
        from adapeff.worker.adapters.parts import AdapterConfig, FusionPart
        from adapeff.worker.methods.stored import load_adapter

        names = []
        for number, source in enumerate(self.sources):
            encoder = load_adapter(encoder, source, name := f"source_{number}")
            names.append(name)
        encoder.add_adapter("fusion", AdapterConfig(fusion=FusionPart(members=names, value=self.value)))  # type: ignore[operator]
        encoder.set_adapter("fusion")  # type: ignore[operator]
        return encoder

    def auxiliary_loss(self, adapted: nn.Module) -> Callable[[], Tensor] | None:
        """0.01 times the sum of ||I - V||^2 over all fusion layers."""
        if not self.value:
            return None
        from adapeff.worker.adapters.modules import Fusion

        fusions = [module for module in adapted.modules() if isinstance(module, Fusion)]
        return lambda: (
            0.01 * sum((fusion.auxiliary_loss() for fusion in fusions[1:]), start=fusions[0].auxiliary_loss())
        )
