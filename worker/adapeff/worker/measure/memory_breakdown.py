"""Count the memory of a training step tensor by tensor: weights, gradients, optimizer state, activations."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind some tensors, each counted once, however many tensors view it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, trained or frozen."""
    return bytes_of([*model.parameters(), *model.buffers()])


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's state, after at least one step."""
    return bytes_of(
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    )


def step_bytes(model: nn.Module, loss: Callable[[], torch.Tensor]) -> dict[str, int]:
    """Bytes that a step keeps for its backward pass (`activations`, `cast weights`), and of its `gradients`.

    Activations are the tensors that the graph saves in the forward pass, measured by saved-tensor hooks; weights
    among them are not counted, and autocast's copies of weights are counted separately. Existing gradients are
    dropped.

    Args:
        loss: runs the forward pass.
    """
    model.zero_grad(set_to_none=True)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}
    held: list[torch.Tensor] = []  # tensors that are alive keep their address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    casts = _Casts(own)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), casts:
        value = loss()
    of_weights = sum(size for address, size in saved.items() if address in casts.copies)
    activations = sum(saved.values()) - of_weights
    held.clear()
    casts.copies.clear()
    value.backward()
    gradients = bytes_of(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad(set_to_none=True)
    return {"activations": activations, "cast weights": of_weights, "gradients": gradients}


class _Casts(TorchDispatchMode):
    """Collects tensors that are copies of weights in another precision."""

    def __init__(self, weights: Container[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = weights
        self.copies: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage().data_ptr() in self._weights:
            self.copies[output.untyped_storage().data_ptr()] = output
        return output
