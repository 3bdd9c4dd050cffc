"""Mixed precision for tuners that do not follow autocast."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def follow_autocast(model: nn.Module) -> None:
    """Make adapted query layers of DeBERTa return autocast's precision.

    Many of PEFT's tuners return float32 there. DeBERTa masks its scores with the smallest number of the query's
    precision, but the scores are bfloat16 by then, and float32's smallest number is out of range.
    """
    for name, module in model.named_modules():
        if name.endswith(".query_proj") and isinstance(module, BaseTunerLayer):
            module.register_forward_hook(_as_autocast)


def _as_autocast(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    kind = output.device.type
    return output.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else output
