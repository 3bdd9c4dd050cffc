"""LoRA and (IA)^3, as PEFT implements them, on the layers that the papers name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from adapeff.service.errors import ModelError
from adapeff.worker.methods.hosted import HostedMethod

if TYPE_CHECKING:
    from torch import nn


def target_pattern(encoder: nn.Module, targets: Sequence[str], leave_out: Sequence[int], *, method: str) -> str:
    """A regular expression for linear layers, given by role (query, ffn_dense ...) or by the end of their names.

    Raises:
        ModelError: if a name is neither a role nor a module of the model.
    """
    import re

    from adapeff.worker.adapters.layouts import LINEAR_ROLES, find_layout

    roles = [name for name in targets if name in LINEAR_ROLES]
    names = [name for name in targets if name not in LINEAR_ROLES]
    paths = [path for path, _ in encoder.named_modules()]
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise ModelError(
                f"{method}: {type(encoder).__name__} has no module '{name}' to adapt; name linear layers of the model "
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


class Lora(HostedMethod):
    """Low-rank updates of the attention's query and value (Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4)."""

    paper: ClassVar[str] = "Hu et al. 2021, LoRA, arXiv:2106.09685"
    default_learning_rate: ClassVar[float] = 5e-4
    learning_rate_source: ClassVar[str] = "Hu et al. 2021, table 9 (RoBERTa base: MNLI, SST-2)"

    rank: PositiveInt = 8
    """r in the paper; 8 is what its table 9 uses."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank; 16 is the study's, arXiv:2305.07491 (the paper's table 9: 8)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Linear layers to adapt, by role (query, key, value, intermediate, ffn_dense) or name; None: query and value."""
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers, counted from 0, that are not adapted."""
    dora: bool = False
    """Weight-decomposed updates (Liu et al. 2024, DoRA, arXiv:2402.09353)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA, arXiv:2312.03732)."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's `LoraConfig` with the targets of this architecture."""
        from peft import LoraConfig

        targets = ("query", "value") if self.target_modules is None else self.target_modules
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=target_pattern(encoder, targets, self.leave_out, method="lora"),
            use_dora=self.dora,
            use_rslora=self.rslora,
            bias="none",
        )

    def variants(self, adapted: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
        """The model with the updates merged into its weights: as large and as fast as the base."""
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
    """Layers, counted from 0, that are not adapted."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's `IA3Config` with the targets of this architecture."""
        from peft import IA3Config

        targets = target_pattern(encoder, ("key", "value", "intermediate"), self.leave_out, method="ia3")
        return IA3Config(target_modules=targets, feedforward_modules=[])
