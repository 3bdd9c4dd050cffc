"""Full fine-tuning: the reference every other method is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from adapeff.service.plugins import Method

if TYPE_CHECKING:
    from torch import nn


class Full(Method):
    """Train every weight of the encoder, and the head (Devlin et al. 2019, "BERT", arXiv:1810.04805)."""

    paper: ClassVar[str] = "Devlin et al. 2019, BERT, arXiv:1810.04805"
    default_learning_rate: ClassVar[float] = 5e-5
    learning_rate_source: ClassVar[str] = "Devlin et al. 2019, appendix A.3 (largest of 5e-5, 3e-5, 2e-5)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Leave the encoder as it is, all of it trainable."""
        return encoder.requires_grad_(True)
