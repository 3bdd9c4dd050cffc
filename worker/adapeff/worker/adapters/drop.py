"""AdapterDrop: forward passes without the adapters of some layers, for any tuner hosted by PEFT.

A layer whose adapters are skipped runs as in the unadapted model. If these are the lowest layers, nothing in them is
trained, so the backward pass ends above them. Source: Rücklé et al. 2021, AdapterDrop, arXiv:2010.11918, section 3.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from adapeff.service.errors import ModelError

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


def adapted_layers(model: nn.Module) -> dict[int, list[BaseTunerLayer]]:
    """The adapted modules by the index of their encoder layer."""
    modules: dict[int, list[BaseTunerLayer]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and (match := _LAYER.search(name)):
            modules.setdefault(int(match[1]), []).append(module)
    return modules


@contextmanager
def skipping(places: dict[int, list[BaseTunerLayer]], layers: set[int]) -> Iterator[None]:
    """Disable the adapters of `layers` within the context; those that were disabled before stay disabled after it."""
    skipped = [place for index in layers for place in places.get(index, []) if not place._disable_adapters]
    for place in skipped:
        place._disable_adapters = True
    try:
        yield
    finally:
        for place in skipped:
            place._disable_adapters = False


class AdapterDrop(nn.Module):
    """An adapted encoder that skips the adapters of layers 0 to n - 1 in training, with a new n for each pass.

    n is uniform on 0..`most`. In evaluation, `depth` layers are skipped, 0 by default. What a pass skips stays skipped
    until the next one, so that activation checkpointing recomputes the same forward pass.
    """

    def __init__(self, adapted: nn.Module, most: int) -> None:
        super().__init__()
        self.adapted = adapted
        self.most = most
        self.depth = 0
        self.drawn: int | None = None
        """Replaces the draw in training if set."""
        self._places = adapted_layers(adapted)
        self._skipped: list[BaseTunerLayer] = []
        self._draw = random.Random(torch.initial_seed())
        if not self._places:
            raise ModelError(
                "adapterdrop needs an adapter in the encoder's layers, but this one has none there; choose another"
            )

    def draws(self) -> list[Any]:
        """The state of the random draws, as JSON values."""
        version, numbers, gauss = self._draw.getstate()
        return [version, list(numbers), gauss]

    def set_draws(self, state: Sequence[Any]) -> None:
        """Go on from a state of `draws`."""
        self._draw.setstate((state[0], tuple(state[1]), state[2]))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiled graph would keep the first draw
    def _skip(self) -> None:
        top = self._places[max(self._places)]
        if all(place._disable_adapters and place not in self._skipped for place in top):
            return  # all adapters are disabled, and stay so
        for place in self._skipped:
            place._disable_adapters = False
        depth = self.depth
        if self.training:
            depth = self._draw.randint(0, self.most) if self.drawn is None else self.drawn
        self._skipped = [place for index in range(depth) for place in self._places.get(index, [])]
        for place in self._skipped:
            place._disable_adapters = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._skip()
        return self.adapted(*args, **kwargs)
