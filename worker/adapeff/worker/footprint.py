"""What a training step keeps in memory, counted tensor by tensor: weights, gradients, optimiser state, activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind some tensors, each counted once however many tensors look at it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, trained or frozen."""
    return bytes_of([*model.parameters(), *model.buffers()])


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's state, as it stands after at least one step."""
    return bytes_of(
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    )


def step_bytes(model: nn.Module, loss: Callable[[], torch.Tensor]) -> dict[str, int]:
    """Bytes that a step keeps for its backward pass (`activations`), and of its `gradients`.

    Activations are what the graph saves in the forward pass, measured by hooks on what is saved; the weights among it
    are not counted again. Gradients that were there are given up.

    Args:
        loss: runs the forward pass.
    """
    model.zero_grad(set_to_none=True)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    activations = sum(saved.values())
    value.backward()
    gradients = bytes_of(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad(set_to_none=True)
    return {"activations": activations, "gradients": gradients}
