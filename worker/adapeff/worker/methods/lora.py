"""LoRA and (IA)^3, as PEFT implements them, on the layers that the papers adapt."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from adapeff.service.errors import ModelError
from adapeff.worker.methods.hosted import HostedMethod

if TYPE_CHECKING:
    from torch import nn


ALL_LINEAR = "all-linear"


def one_as_list(value: Any) -> Any:
    """A single module or layer as a tuple of one; `all-linear` stays a string."""
    is_one = isinstance(value, str | int) and not isinstance(value, bool) and value != ALL_LINEAR
    return (value,) if is_one else value


def left_out(encoder: nn.Module, leave_out: Sequence[int], layers_to_transform: Sequence[int] | None) -> Sequence[int]:
    """The layers that are not adapted, from either of the two settings.

    Raises:
        ModelError: if the model does not have such layers.
    """
    if layers_to_transform is None:
        return leave_out
    from adapeff.worker.adapters.layouts import find_layout

    layers = find_layout(encoder).layers
    if absent := [index for index in layers_to_transform if index not in layers]:
        raise ModelError(
            f"layers_to_transform names layer {absent[0]}, but the model has the layers 0 to {len(layers) - 1}"
        )
    return [index for index in layers if index not in layers_to_transform]


def target_pattern(encoder: nn.Module, targets: Sequence[str] | str, leave_out: Sequence[int], *, method: str) -> str:
    """A regular expression for linear layers, given by role (query, ffn_dense ...) or by the end of their names.

    Args:
        targets: roles or names, or `all-linear` for every linear layer of the model's layers.

    Raises:
        ModelError: if a name is neither a role nor a module of the model.
    """
    import re

    from adapeff.worker.adapters.layouts import LINEAR_ROLES, find_layout

    if targets == ALL_LINEAR:
        return _every_linear(encoder, leave_out)
    roles = [name for name in targets if name in LINEAR_ROLES]
    names = [name for name in targets if name not in LINEAR_ROLES]
    paths = [path for path, _ in encoder.named_modules()]
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise ModelError(
                f"{method}: {type(encoder).__name__} has no module '{name}' to adapt; list linear layers of the model "
                f"or roles ({', '.join(LINEAR_ROLES)})"
            )
    kept = r"(?:.*\.)?"
    if leave_out:
        layout = find_layout(encoder)
        indices = "|".join(str(index) for index in layout.kept_layers(leave_out))
        kept = rf"(?:.*\.)?{re.escape(layout.prefix)}\.(?:{indices})\.(?:.*\.)?"
    patterns = [kept + re.escape(name) for name in names]
    if roles:
        patterns.append(find_layout(encoder).pattern(roles, leave_out))
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def _every_linear(encoder: nn.Module, leave_out: Sequence[int]) -> str:
    import re

    from torch import nn as layers

    from adapeff.worker.adapters.layouts import find_layout

    layout = find_layout(encoder)
    inside = tuple(f"{layout.prefix}.{index}." for index in layout.kept_layers(leave_out))
    linears = [name for name in own_modules(encoder, layers.Linear) if name.startswith(inside)]
    return "|".join(re.escape(name) for name in linears)


def own_modules(encoder: nn.Module, kind: type[nn.Module]) -> list[str]:
    """The paths of an encoder's own modules of a kind, without those of adapters."""
    from torch import nn as layers

    modules = dict(encoder.named_modules())
    return [
        path.removesuffix(".base_layer")
        for path, module in modules.items()
        if isinstance(module, kind) and not isinstance(modules.get(path.rpartition(".")[0]), layers.ModuleDict)
    ]


class Lora(HostedMethod):
    """Low-rank updates of the attention's query and value (Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4)."""

    paper: ClassVar[str] = "Hu et al. 2021, LoRA, arXiv:2106.09685"
    default_learning_rate: ClassVar[float] = 5e-4
    learning_rate_source: ClassVar[str] = "Hu et al. 2021, table 9 (RoBERTa base: MNLI, SST-2)"

    rank: PositiveInt = 8
    """r in the paper; its table 9 uses 8."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank; 16 as in the study arXiv:2305.07491 (the paper's table 9 uses 8)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Linear layers to adapt, by role (query, key, value, intermediate, ffn_dense) or name, or `all-linear` for all of
    the model's layers; None: query and value."""
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers that are not adapted, counted from 0."""
    layers_to_transform: tuple[NonNegativeInt, ...] | None = None
    """The layers that are adapted; use it instead of `leave_out`."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Train the model's own biases too: all, or those of the adapted layers."""
    dora: bool = False
    """Weight-decomposed updates (Liu et al. 2024, DoRA, arXiv:2402.09353)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA, arXiv:2312.03732)."""

    @field_validator("target_modules", "layers_to_transform", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return one_as_list(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.target_modules == () or self.layers_to_transform == ():
            raise ValueError("target_modules or layers_to_transform is empty; list at least one, or leave it out")
        if self.leave_out and self.layers_to_transform is not None:
            raise ValueError("leave_out and layers_to_transform both select layers; give one of them")
        return self

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's `LoraConfig` with the targets of this architecture."""
        from peft import LoraConfig

        skipped = left_out(encoder, self.leave_out, self.layers_to_transform)
        targets = ("query", "value") if self.target_modules is None else self.target_modules
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=target_pattern(encoder, targets, skipped, method="lora"),
            use_dora=self.dora,
            use_rslora=self.rslora,
            bias=self.bias,
        )

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """The model with the updates merged into its weights, which is as large and as fast as the base."""
        merged: Any = copy.deepcopy(adapted)
        yield {"merged": True}, merged.merge_and_unload()


class IA3(HostedMethod):
    """Learned scales of keys, values and the feed-forward's inner activations (Liu et al. 2022, arXiv:2205.05638).

    The scale of the feed-forward acts before its activation. ModernBERT has query, key and value in one matrix, so all
    three are scaled there.
    """

    paper: ClassVar[str] = "Liu et al. 2022, Few-Shot PEFT is Better and Cheaper, (IA)^3, arXiv:2205.05638"
    default_learning_rate: ClassVar[float] = 3e-3
    learning_rate_source: ClassVar[str] = "Liu et al. 2022, T-Few (3e-3)"

    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers that are not adapted, counted from 0."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's `IA3Config` with the targets of this architecture."""
        from peft import IA3Config

        targets = target_pattern(encoder, ("key", "value", "intermediate"), self.leave_out, method="ia3")
        return IA3Config(target_modules=targets, feedforward_modules=[])
