"""The linear probe's place: a frozen encoder and a trained head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from adapeff.service.plugins import Method

if TYPE_CHECKING:
    from torch import nn


class Head(Method):
    """Train the head alone on frozen features (Peters et al. 2019, "To Tune or Not to Tune?", arXiv:1903.05987)."""

    paper: ClassVar[str] = "Peters et al. 2019, To Tune or Not to Tune?, arXiv:1903.05987"
    default_learning_rate: ClassVar[float] = 1e-3
    learning_rate_source: ClassVar[str] = "Kingma & Ba 2015, Adam, algorithm 1 (suggested default)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Freeze all of the encoder."""
        return encoder.requires_grad_(False)
