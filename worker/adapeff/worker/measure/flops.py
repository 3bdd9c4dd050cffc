"""FLOPs of a model's real graph, frozen weights counted as frozen, forward and backward separately.

A multiply-add is two FLOPs. Only matrix products are counted (`torch.utils.flop_counter`),
under the math attention kernel, since fused kernels hide their products from the counter (torch 2.13 counts SDPA on a
CPU as 0). Element-wise work, reductions and data movement count as 0, as is usual in the field; any other
operation the counter does not know is listed in `uncounted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from adapeff.service.plugins.contracts import Method
from adapeff.worker.modeling.models import TaskModel

_FREE = frozenset(
    """
    _fused_rms_norm _fused_rms_norm_backward _linalg_check_errors _local_scalar_dense _log_softmax
    _log_softmax_backward_data _reshape_alias _safe_softmax _softmax _softmax_backward_data _to_copy _unsafe_view
    alias arange as_strided bernoulli_ block_diag cat constant_pad_nd copy_ cumsum detach embedding
    embedding_dense_backward empty empty_like empty_strided expand eye fill_ full full_like gather index index_put
    index_put_ index_select lift_fresh masked_fill max native_dropout native_dropout_backward native_layer_norm
    native_layer_norm_backward new_empty new_empty_strided new_full new_ones new_zeros nll_loss2d_backward
    nll_loss2d_forward nll_loss_backward nll_loss_forward one_hot ones ones_like permute rand rand_like randint
    randn repeat resize_ roll scalar_tensor scatter scatter_ scatter_add select select_backward set_ slice
    slice_backward sort split split_with_sizes squeeze stack sum t topk transpose tril triu unbind unfold
    unfold_backward unsqueeze view where zero_ zeros zeros_like
    """.split()  # noqa: SIM905
)
"""Operations without products of matrices that torch tags neither as pointwise nor as reductions."""
_SHAPES = ((1, 8), (1, 16), (1, 32), (2, 8), (2, 16), (2, 32))


@dataclass(frozen=True)
class Flops:
    """FLOPs of one step: `uncounted` names operations that may do arithmetic the counter does not know."""

    forward: float
    backward: float
    uncounted: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


class _Unknown(TorchDispatchMode):
    """Collects the names of operations that are neither counted nor free of products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        tags = set(func.tags)
        known = func._overloadpacket in flop_registry or name in _FREE or func.is_view
        if not known and not tags & {torch.Tag.pointwise, torch.Tag.reduction}:
            self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting() -> Iterator[Callable[[], tuple[int, frozenset[str]]]]:
    unknown, counter = _Unknown(), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), unknown, counter:
        yield lambda: (int(counter.get_total_flops()), frozenset(unknown.names))


def count_forward(forward: Callable[[], Any]) -> Flops:
    """Count the FLOPs of a call without gradients."""
    with torch.no_grad(), _counting() as counted:
        forward()
    flops, names = counted()
    return Flops(flops, 0, names)


def count_step(forward: Callable[[], torch.Tensor]) -> Flops:
    """Count the FLOPs of a forward pass and of the backward pass to all trainable parameters.

    The loss has no matrix products, so the sum of the logits replaces it. Existing gradients are unchanged.
    """
    with _counting() as counted:
        logits = forward()
    forwards, names = counted()
    if not logits.requires_grad:
        return Flops(forwards, 0, names)
    with _counting() as counted:
        logits.float().sum().backward()
    backwards, more = counted()
    return Flops(forwards, backwards, names | more)


def synthetic_inputs(
    names: Iterable[str], *, batch: int, length: int, vocabulary: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Make inputs of batch x length: uniformly drawn tokens, no padding, identical in every call."""
    ids = torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: inputs[name].to(device) for name in names}


def draws_its_steps(method: Method, encoder: nn.Module) -> bool:
    """Whether steps differ by what the method draws, so that the spread of their times does not show disturbance."""
    return sum(1 for _ in method.step_kinds(encoder)) > 1


@dataclass
class FlopCounter:
    """FLOPs of a training step of any shape, each shape counted at most once.

    An encoder's products grow linearly with the batch and quadratically with the length, so six small steps fix the
    count of every shape. The first requested shape is also counted directly; if the counts differ (the form of
    some models' attention depends on the length), every requested shape is counted directly.

    Args:
        inputs: makes the model's inputs for a batch and a length.
    """

    model: TaskModel
    method: Method
    inputs: Callable[[int, int], Mapping[str, torch.Tensor]]
    _seen: dict[tuple[int, int], Flops] = field(default_factory=dict)

    def step(self, batch: int, length: int) -> Flops:
        """FLOPs of one step of batch x length; where the method draws its structure, the mean over its draws."""
        if (batch, length) not in self._seen:
            direct = self._direct(batch, length) if not self._seen or not self.is_regular else None
            self._seen[batch, length] = direct or self._regular(batch, length)
        return self._seen[batch, length]

    @cached_property
    def is_regular(self) -> bool:
        """Whether six small steps predict the first requested shape, to 1e-9."""
        (shape, direct) = next(iter(self._seen.items()))
        predicted = self._regular(*shape)
        return all(
            abs(a - b) <= 1e-9 * max(a, b, 1)
            for a, b in ((predicted.forward, direct.forward), (predicted.backward, direct.backward))
        )

    @cached_property
    def _small(self) -> dict[tuple[int, int], Flops]:
        return {shape: self._direct(*shape) for shape in _SHAPES}

    def _regular(self, batch: int, length: int) -> Flops:
        def predicted(part: str) -> float:
            at = {shape: getattr(flops, part) for shape, flops in self._small.items()}
            ones, twos = (_quadratic([at[rows, n] for n in (8, 16, 32)], length) for rows in (1, 2))
            return ones + (batch - 1) * (twos - ones)

        uncounted = frozenset[str]().union(*(flops.uncounted for flops in self._small.values()))
        return Flops(predicted("forward"), predicted("backward"), uncounted)

    def _direct(self, batch: int, length: int) -> Flops:
        inputs = dict(self.inputs(batch, length))
        kept = [parameter.grad for parameter in self.model.parameters()]
        was_training = self.model.training
        self.model.train()
        counts = [count_step(lambda: self.model(inputs)) for _ in self.method.step_kinds(self.model.encoder)]
        self.model.train(was_training)
        for parameter, gradient in zip(self.model.parameters(), kept, strict=True):
            parameter.grad = gradient
        return Flops(
            sum(count.forward for count in counts) / len(counts),
            sum(count.backward for count in counts) / len(counts),
            frozenset[str]().union(*(count.uncounted for count in counts)),
        )


def _quadratic(values: list[float], at: int) -> float:
    """The polynomial of degree 2 through (8, values[0]), (16, values[1]), (32, values[2]), by Lagrange's formula."""
    a, b, c = values
    return (
        a * (at - 16) * (at - 32) / ((8 - 16) * (8 - 32))
        + b * (at - 8) * (at - 32) / ((16 - 8) * (16 - 32))
        + c * (at - 8) * (at - 16) / ((32 - 8) * (32 - 16))
    )
