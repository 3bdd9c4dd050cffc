"""LoRA, as PEFT implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from adapeff.service.errors import ModelError
from adapeff.service.plugins import Method

if TYPE_CHECKING:
    from torch import nn

_QUERY_AND_VALUE: tuple[tuple[str, ...], ...] = (
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("Wqkv",),
)


class Lora(Method):
    """Low-rank updates of the attention's query and value (Hu et al. 2021, "LoRA", arXiv:2106.09685, section 4)."""

    paper: ClassVar[str] = "Hu et al. 2021, LoRA, arXiv:2106.09685"
    default_learning_rate: ClassVar[float] = 5e-4
    learning_rate_source: ClassVar[str] = "Hu et al. 2021, table 9 (RoBERTa base: MNLI, SST-2)"

    rank: PositiveInt = 8
    """r in the paper; 8 is what its table 9 uses."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; None takes the attention's query and value."""

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Add LoRA to the target layers and freeze the rest."""
        from peft import LoraConfig, get_peft_model

        names = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
        targets = self.target_modules
        if targets is None:
            targets = next((found for found in _QUERY_AND_VALUE if names.issuperset(found)), None)
            if targets is None:
                raise ModelError(
                    f"lora finds no query and value layers in {type(encoder).__name__}; name linear layers with "
                    "lora[target_modules=[...]]"
                )
        if missing := [name for name in targets if name not in names]:
            raise ModelError(f"lora: {type(encoder).__name__} has no module '{missing[0]}' to adapt")
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=list(targets), bias="none"
        )
        adapted: nn.Module = get_peft_model(encoder, config)
        return adapted
