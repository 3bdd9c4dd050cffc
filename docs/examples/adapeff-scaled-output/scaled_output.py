"""A method in its own package: scale the outputs of attention and feed-forward by learned vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from adapeff.service.errors import ModelError
from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class ScaledOutput(Method):
    """Multiply the output of each `output.dense` of a BERT-like layer by a trained vector, and freeze the rest."""

    paper: ClassVar[str] = "none; an example"
    default_learning_rate: ClassVar[float] = 1e-3
    learning_rate_source: ClassVar[str] = "Kingma & Ba 2015, Adam, algorithm 1 (suggested default)"

    start: float = 1.0
    """Value of all vector elements before training."""

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Wrap the layers. Importing torch here lets machines without it list and submit the method."""
        import torch
        from torch import nn

        class Scaled(nn.Module):
            def __init__(self, dense: nn.Linear, start: float) -> None:
                super().__init__()
                self.dense = dense
                self.scale = nn.Parameter(torch.full((dense.out_features,), start))

            def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
                return self.dense(hidden_states) * self.scale

        encoder.requires_grad_(False)
        names = [name for name, _ in encoder.named_modules() if name.endswith("output.dense")]
        if not names:
            raise ModelError(
                f"scaled_output needs output.dense modules, but {type(encoder).__name__} has none; use a BERT-like one"
            )
        for name in names:
            parent = encoder.get_submodule(name.rpartition(".")[0])
            parent.dense = Scaled(parent.dense, self.start)
        return encoder


METHODS = {"scaled_output": ScaledOutput}
