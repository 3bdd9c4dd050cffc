"""Go on from the trained weights of another job: the base of an extension."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from adapeff.service.errors import ModelError
from adapeff.service.specs.job import JobSpec
from adapeff.worker.modeling.models import TaskModel, trained_state
from adapeff.worker.modeling.weights import read_weights


@dataclass(frozen=True)
class Base:
    """The trained weights of a job, by their names in a model with further heads."""

    folder: Path
    heads: int
    """The number of tasks it has learned."""
    weights: Mapping[str, torch.Tensor]

    def put(self, model: TaskModel, *, freeze_heads: bool) -> None:
        """Copy the weights into the encoder and the first heads of a model.

        Args:
            freeze_heads: whether those heads are not trained any further.

        Raises:
            ModelError: if they do not fit the model.
        """
        assert isinstance(model.head, nn.ModuleList)
        new_heads = tuple(f"head.{number}." for number in range(self.heads, len(model.head)))
        expected = {name: tensor for name, tensor in trained_state(model).items() if not name.startswith(new_heads)}
        for name in sorted(expected.keys() | self.weights.keys()):
            ours, theirs = expected.get(name), self.weights.get(name)
            if ours is None or theirs is None or ours.shape != theirs.shape:
                raise ModelError(f"the weights in '{self.folder}' do not fit this model and method: {name}")
            ours.copy_(theirs)
        for head in model.head[: self.heads]:
            head.requires_grad_(not freeze_heads)


def read_base(spec: JobSpec, folder: Path, heads: int) -> Base:
    """Read the weights that an extension starts from.

    Args:
        folder: of the run that trained them.
        heads: the number of tasks it has learned.

    Raises:
        ModelError: if there are none, or another method trained them.
    """
    description, weights = read_weights(folder)
    if description["method"] != spec.method.name:
        raise ModelError(
            f"the weights in '{folder}' were trained by {description['method']}, not by {spec.method.name}"
        )
    if heads == 1:
        weights = {re.sub(r"^head\.", "head.0.", name): tensor for name, tensor in weights.items()}
    return Base(folder, heads, weights)
