"""Baselines that add nothing to the model: they train all of it, none of it, or a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from adapeff.service.errors import ModelError
from adapeff.service.plugins.contracts import Method

if TYPE_CHECKING:
    from torch import nn


class Full(Method):
    """Train every weight of the encoder, and the head (Devlin et al. 2019, "BERT", arXiv:1810.04805)."""

    paper: ClassVar[str] = "Devlin et al. 2019, BERT, arXiv:1810.04805"
    adds_modules: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 5e-5
    learning_rate_source: ClassVar[str] = "Devlin et al. 2019, appendix A.3 (largest of 5e-5, 3e-5, 2e-5)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Make the whole encoder trainable."""
        return encoder.requires_grad_(True)


class Head(Method):
    """Train only the head, on frozen features (Peters et al. 2019, "To Tune or Not to Tune?", arXiv:1903.05987)."""

    paper: ClassVar[str] = "Peters et al. 2019, To Tune or Not to Tune?, arXiv:1903.05987"
    adds_modules: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 1e-3
    learning_rate_source: ClassVar[str] = "Kingma & Ba 2015, Adam, algorithm 1 (suggested default)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Freeze the whole encoder."""
        return encoder.requires_grad_(False)


class BitFit(Method):
    """Train only the encoder's biases (Ben Zaken et al. 2022, "BitFit", arXiv:2106.10199)."""

    paper: ClassVar[str] = "Ben Zaken et al. 2022, BitFit, arXiv:2106.10199"
    adds_modules: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 1e-3
    learning_rate_source: ClassVar[str] = "Ben Zaken et al. 2022 (largest of 1e-4, 4e-4, 7e-4, 1e-3)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Train every parameter named bias, including those of LayerNorms.

        Raises:
            ModelError: if the encoder has no biases, such as ModernBERT.
        """
        return _train_only(encoder, [name for name, _ in encoder.named_parameters() if name.endswith("bias")], "biases")


class LayerNorms(Method):
    """Train only the LayerNorms (Qi et al. 2022, "Parameter-Efficient Tuning on Layer Normalization")."""

    paper: ClassVar[str] = "Qi et al. 2022, Parameter-Efficient Tuning on Layer Normalization, arXiv:2211.08682"
    adds_modules: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 1e-3
    learning_rate_source: ClassVar[str] = "Kingma & Ba 2015, Adam, algorithm 1 (suggested default)"

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Train weights and biases of the LayerNorms.

        Raises:
            ModelError: if the encoder has none.
        """
        from torch import nn as layers

        norms = [name for name, module in encoder.named_modules() if isinstance(module, layers.LayerNorm)]
        inside = [name for name, _ in encoder.named_parameters() if name.rpartition(".")[0] in norms]
        return _train_only(encoder, inside, "LayerNorms")


class TopKLayers(Method):
    """Train the last layers and freeze the others (Lee et al. 2019, "What Would Elsa Do?", arXiv:1911.03090)."""

    paper: ClassVar[str] = "Lee et al. 2019, What Would Elsa Do?, arXiv:1911.03090"
    adds_modules: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 5e-5
    learning_rate_source: ClassVar[str] = "as `full`: Devlin et al. 2019, appendix A.3"

    layers: PositiveInt = 3
    """How many; the paper finds that a quarter of a 12-layer model reaches about 90 % of full fine-tuning."""

    def attach(self, encoder: nn.Module) -> nn.Module:
        """Train the last `layers` layers, and a LayerNorm after them if there is one.

        Raises:
            ModelError: if the encoder has fewer layers.
        """
        from adapeff.worker.adapters.layouts import find_layout

        layout = find_layout(encoder)
        if self.layers > len(layout.layers):
            raise ModelError(
                f"top_k_layers: layers is {self.layers}, but the model has {len(layout.layers)} layers; train fewer"
            )
        top = sorted(layout.layers)[-self.layers :]
        inside = tuple(f"{layout.prefix}.{index}." for index in top)
        after = {"final_norm.weight", "final_norm.bias"}
        chosen = [name for name, _ in encoder.named_parameters() if name.startswith(inside) or name in after]
        return _train_only(encoder, chosen, "layers")


def _train_only(encoder: nn.Module, names: list[str], what: str) -> nn.Module:
    if not names:
        raise ModelError(f"{type(encoder).__name__} has no {what} to train")
    chosen = set(names)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    return encoder
