"""AdapterDrop on any adapter: robust to a depth drawn anew in each training step, or without the lowest adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class AdapterDropMethod(Method):
    """Leave out the adapters of the lowest layers (Rücklé et al. 2021, AdapterDrop, arXiv:2010.11918).

    Robust, unless `layers` is set: each training step skips layers 0 to n - 1, n uniform on 0..`most`; validation and
    test skip none, and with `variants: true` each depth is measured. With `layers` these have no adapter from the start
    ("specialised" in the paper). Layers below the lowest adapter get no backward pass.
    """

    paper: ClassVar[str] = "Rücklé et al. 2021, AdapterDrop, arXiv:2010.11918"
    default_learning_rate: ClassVar[float] = 3e-4
    learning_rate_source: ClassVar[str] = "that of the adapter it is used on; for houlsby: Houlsby et al. 2019"

    adapter: str = "houlsby"
    """The method to drop from, such as `pfeiffer` or `lora[rank=4]`."""
    layers: PositiveInt | None = None
    """How many of the lowest layers have no adapter, in training and after it."""
    most: int | None = Field(default=None, ge=0)
    """The largest depth that is drawn; None: all layers but the last, as the paper's 0 to 11 of 12."""

    @field_validator("adapter")
    @classmethod
    def _known_adapter(cls, text: str) -> str:
        from adapeff.service.errors import SpecError
        from adapeff.service.plugins.catalog import get_method
        from adapeff.service.plugins.plugin_reference import PluginReference, parse_plugin
        from adapeff.worker.methods.hosted import HostedMethod

        try:
            reference = parse_plugin(text)
            method = get_method(reference.name, reference.parameters)
        except SpecError as error:
            raise ValueError(str(error)) from error
        if not isinstance(method, HostedMethod):
            raise ValueError(f"'{reference.name}' puts no adapters into the layers; name one that does, e.g. houlsby")
        if getattr(method, "rewrites_base", False):
            raise ValueError(
                f"'{text}' rewrites the model's own weights, so that a layer without it is not the model's"
            )
        return str(
            PluginReference(name=reference.name, parameters=method.model_dump(mode="json", exclude_defaults=True))
        )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.layers is None:
            return self
        if self.most is not None:
            raise ValueError("`layers` fixes the depth and `most` bounds one that is drawn; give one of them")
        if getattr(self._inner(), "leave_out", None) != ():
            raise ValueError(f"`layers` needs an adapter whose leave_out is free, not '{self.adapter}'")
        return self

    def _inner(self) -> Any:
        from adapeff.service.plugins.catalog import get_method
        from adapeff.service.plugins.plugin_reference import parse_plugin

        reference = parse_plugin(self.adapter)
        return get_method(reference.name, reference.parameters)

    def adapter_method(self) -> Any:
        """The adapter's method, without the layers that never have one."""
        if self.layers is None:
            return self._inner()
        return self._inner().model_copy(update={"leave_out": tuple(range(self.layers))})

    def learning_rate(self) -> tuple[float, str]:
        """That of the adapter."""
        rate: tuple[float, str] = self._inner().learning_rate()
        return rate

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Attach the adapter, and drop from it.

        Raises:
            ModelError: if the adapter does not run on the model, or the model has fewer layers than are dropped.
        """
        from adapeff.service.errors import ModelError
        from adapeff.worker.adapters.drop import AdapterDrop
        from adapeff.worker.adapters.layouts import find_layout

        depth = len(find_layout(encoder).layers)
        for name in ("layers", "most"):
            if (asked := getattr(self, name)) is not None and asked >= depth:
                raise ModelError(f"adapterdrop: {name} is {asked}, but the model has {depth} layers; drop fewer")
        adapted: nn.Module = self.adapter_method().attach(encoder)
        if self.layers is not None:
            return adapted
        return AdapterDrop(adapted, depth - 1 if self.most is None else self.most)

    def step_kinds(self, adapted: nn.Module) -> Iterator[None]:
        """Each depth that may be drawn."""
        from adapeff.worker.adapters.drop import AdapterDrop

        if not isinstance(adapted, AdapterDrop):
            yield
            return
        for depth in range(adapted.most + 1):
            adapted.drawn = depth
            yield
        adapted.drawn = None

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """Each depth that was drawn in training, 0 apart."""
        from adapeff.worker.adapters.drop import AdapterDrop

        if not isinstance(adapted, AdapterDrop):
            return
        for depth in range(1, adapted.most + 1):
            adapted.depth = depth
            yield {"dropped_layers": depth}, adapted
            adapted.depth = 0
