"""Models with their weights in the precision they are served in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def served_in(precision: str, models: Iterable[nn.Module]) -> Iterator[None]:
    """Cast the weights of models to a precision for a while; weights they share stay shared.

    Autocast, which training uses, would cast fp32 weights in every forward pass; serving in bf16 casts once.
    """
    casts: dict[tuple[Any, ...], torch.Tensor] = {}
    originals: list[tuple[torch.Tensor, torch.Tensor]] = []
    for tensor in (t for model in models for t in (*model.parameters(), *model.buffers())):
        if precision == "bf16" and tensor.dtype == torch.float32:
            key = (tensor.data_ptr(), tensor.shape, tensor.stride())
            originals.append((tensor, tensor.data))
            if key not in casts:
                casts[key] = tensor.data.bfloat16()
            tensor.data = casts[key]
    try:
        yield
    finally:
        for tensor, data in originals:
            tensor.data = data
