"""AdapterDrop on any adapter: robust to a random depth in each training step, or without the lowest adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class AdapterDropMethod(Method):
    """Leave out the adapters of the lowest layers (Rücklé et al. 2021, AdapterDrop, arXiv:2010.11918).

    By default it is robust: each training step skips layers 0 to n - 1, n uniform on 0..`most`; validation and test
    skip none, and with `variants: true` each depth is measured. With `layers`, the lowest layers never have an adapter
    ("specialised" in the paper). Layers below the lowest adapter have no backward pass.
    """

    paper: ClassVar[str] = "Rücklé et al. 2021, AdapterDrop, arXiv:2010.11918"
    default_learning_rate: ClassVar[float] = 3e-4
    learning_rate_source: ClassVar[str] = "the adapter's; for houlsby: Houlsby et al. 2019"

    adapter: str = "houlsby"
    """The method whose adapters are dropped, such as `pfeiffer` or `lora[rank=4]`."""
    layers: PositiveInt | None = None
    """The number of lowest layers without an adapter, in training and after it."""
    most: int | None = Field(default=None, ge=0)
    """The largest depth that is drawn; None: all layers but the last, as in the paper (0 to 11 of 12)."""

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
            raise ValueError(f"'{reference.name}' puts no adapters into the layers; use one that does, such as houlsby")
        if getattr(method, "rewrites_base", False):
            raise ValueError(
                f"'{text}' changes the model's own weights, so no layer can drop it; choose another adapter"
            )
        return str(
            PluginReference(name=reference.name, parameters=method.model_dump(mode="json", exclude_defaults=True))
        )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.layers is None:
            return self
        if self.most is not None:
            raise ValueError("`layers` fixes the depth and `most` limits a random one; give one of them")
        if getattr(self._inner(), "leave_out", None) != ():
            raise ValueError(
                f"`layers` sets the adapter's leave_out, which '{self.adapter}' sets itself or does not have"
            )
        return self

    def _inner(self) -> Any:
        from adapeff.service.plugins.catalog import get_method
        from adapeff.service.plugins.plugin_reference import parse_plugin

        reference = parse_plugin(self.adapter)
        return get_method(reference.name, reference.parameters)

    def adapter_method(self) -> Any:
        """The adapter's method, leaving out the layers that never have an adapter."""
        if self.layers is None:
            return self._inner()
        return self._inner().model_copy(update={"leave_out": tuple(range(self.layers))})

    def learning_rate(self) -> tuple[float, str]:
        """The adapter's."""
        rate: tuple[float, str] = self._inner().learning_rate()
        return rate

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Attach the adapter so that it can be dropped.

        Raises:
            ModelError: if the adapter does not run on the model, or the model has fewer layers than are dropped.
        """
        from adapeff.service.errors import ModelError
        from adapeff.worker.adapters.drop import AdapterDrop
        from adapeff.worker.adapters.layouts import find_layout

        depth = len(find_layout(encoder).layers)
        for name in ("layers", "most"):
            if (dropped := getattr(self, name)) is not None and dropped >= depth:
                raise ModelError(f"adapterdrop: {name} is {dropped}, but the model has {depth} layers; drop fewer")
        adapted: nn.Module = self.adapter_method().attach(encoder)
        if self.layers is not None:
            return adapted
        return AdapterDrop(adapted, depth - 1 if self.most is None else self.most)

    def training_state(self, adapted: nn.Module) -> dict[str, Any]:
        """Where the draws of depths are, and the adapter's own state."""
        from adapeff.worker.adapters.drop import AdapterDrop

        if not isinstance(adapted, AdapterDrop):
            state: dict[str, Any] = self.adapter_method().training_state(adapted)
            return state
        return {"draws": adapted.draws(), **self.adapter_method().training_state(adapted.adapted)}

    def restore_training_state(self, adapted: nn.Module, state: Mapping[str, Any]) -> None:
        """Go on with the draws."""
        from adapeff.worker.adapters.drop import AdapterDrop

        inner = adapted
        if isinstance(adapted, AdapterDrop):
            adapted.set_draws(state["draws"])
            inner = adapted.adapted
        self.adapter_method().restore_training_state(inner, state)

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
        """Each depth that training could draw, except 0."""
        from adapeff.worker.adapters.drop import AdapterDrop

        if not isinstance(adapted, AdapterDrop):
            return
        for depth in range(1, adapted.most + 1):
            adapted.depth = depth
            yield {"dropped_layers": depth}, adapted
            adapted.depth = 0
