"""Several methods on one model in one process: what a profile times interleaved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Method
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import ModelReference
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.step_clocks import StepSeconds
from adapeff.worker.families.encoding import Batch
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.measure.flops import synthetic_inputs
from adapeff.worker.measure.interleave import Take
from adapeff.worker.measure.latency import forward_seconds
from adapeff.worker.modeling.encoders import model_inputs, position_count
from adapeff.worker.modeling.models import TaskModel, draw_encoder, find_source, load_encoder, ready_encoder
from adapeff.worker.training.train import TrainingStep, make_optimizer

LABELS = 2
_RATE = 1e-6
"""Learning rate of timed steps: small, so that weights stay usual numbers however long they are timed."""


@dataclass(frozen=True)
class BareModel:
    """An encoder without tokenizer, with its own weights or, from a configuration only, random ones."""

    encoder: nn.Module
    inputs: tuple[str, ...]
    vocabulary: int
    hidden_size: int
    max_positions: int
    revision: str
    has_weights: bool

    def batch(self, batch: int, length: int, device: Device) -> dict[str, torch.Tensor]:
        """Synthetic inputs, batch x length, nothing padded."""
        return synthetic_inputs(
            self.inputs, batch=batch, length=length, vocabulary=self.vocabulary, device=device.torch_device
        )


def load_bare(reference: ModelReference, *, shared: bool = True) -> BareModel:
    """The encoder of a job's model; a folder with only a config.json gives random weights (seed 0).

    Args:
        shared: for several candidates: weights are laid out in memory as copies of them are. Products with weights
            in the mapping of a file are a few per cent faster, which would favour methods that leave them frozen.

    Raises:
        NotHereError: if the model is not on this host, or is another one than was submitted.
        ModelError: if it cannot be loaded or is not an encoder.
    """
    source = find_source(reference, needs_weights=False)
    if source.has_weights:
        loaded = load_encoder(source)
    else:
        torch.manual_seed(0)
        loaded = draw_encoder(source.config, str(reference))
    if shared:
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
    encoder, hidden_size = ready_encoder(loaded, str(reference))
    return BareModel(
        encoder=encoder,
        inputs=model_inputs(encoder),
        vocabulary=source.config.vocab_size,
        hidden_size=hidden_size,
        max_positions=position_count(encoder),
        revision=source.revision,
        has_weights=source.has_weights,
    )


PROFILED_STEPS = 10_000
"""The assumed length of training, for methods whose steps depend on it; a profile takes fewer."""


@dataclass
class Candidate:
    """A method on its own model; frozen weights are shared between candidates, trained ones are not.

    Args:
        name: the method as it is written.
        variant: the inference variant, {} as trained.
    """

    name: str
    method: Method
    model: TaskModel
    device: Device
    precision: str
    variant: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method, and the inference variant unless it is the model as trained."""
        words = (key if value is True else f"{key} {value}" for key, value in self.variant.items())
        return f"{self.name} ({', '.join(words)})" if self.variant else self.name

    def trainer(self) -> TrainingStep:
        """The training step of the training loop, on this candidate."""
        settings = Training(learning_rate=_RATE)
        optimizer = make_optimizer(self.model, settings)
        return TrainingStep(
            self.model,
            optimizer,
            LambdaLR(optimizer, lambda step: 1.0),
            lambda logits, batch: nn.functional.cross_entropy(logits, batch.targets["label"]),
            settings.max_grad_norm,
            self.device,
            self.precision,
            self.method.auxiliary_loss(self.model.encoder),
            self.method.on_step(self.model.encoder, PROFILED_STEPS),
        )

    def forwards(self, inputs: dict[str, torch.Tensor]) -> Take[float]:
        """Takes n forward passes, dropout off, in the weights' precision; returns the seconds of each."""

        def run(count: int) -> list[float]:
            self.model.eval()
            with torch.inference_mode():
                return [forward_seconds(self.model, inputs, self.device) for _ in range(count)]

        return run

    def steps(self, inputs: Mapping[str, torch.Tensor]) -> Take[StepSeconds]:
        """Takes n training steps on one batch; returns their seconds by phase."""
        batch = labelled(inputs)
        take, clock = self.trainer(), self.device.step_clock()

        def run(count: int) -> list[StepSeconds]:
            self.model.train()
            for _ in range(count):
                take(batch, clock)
            return clock.collect()

        return run


def labelled(inputs: Mapping[str, torch.Tensor]) -> Batch:
    """A batch of inputs whose labels are all the first one."""
    rows, length = inputs["input_ids"].shape
    labels = torch.zeros(rows, dtype=torch.long, device=inputs["input_ids"].device)
    return Batch(dict(inputs), {"label": labels}, [1] * rows, [length] * rows)


def make_candidate(
    reference: PluginReference, bare: BareModel, *, device: Device, precision: str, shared: bool = True
) -> Candidate:
    """A method on the model, with the common head.

    Args:
        shared: weights the method leaves frozen are `bare`'s own, those it trains are copies; without it the method
            is put on `bare`'s encoder itself, which then serves nothing else.
    """
    method = catalog.get_method(reference.name, reference.parameters)
    own = {parameter.untyped_storage().data_ptr() for parameter in bare.encoder.parameters()} if shared else set()
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=True) for p in bare.encoder.parameters()}
    torch.manual_seed(0)
    head = ClassificationHead(bare.hidden_size, LABELS, 0.1)
    torch.manual_seed(1)
    encoder = method.attach(copy.deepcopy(bare.encoder, memo) if shared else bare.encoder)
    for parameter in encoder.parameters():
        if parameter.requires_grad and parameter.untyped_storage().data_ptr() in own:
            parameter.data = parameter.data.clone()
    return Candidate(str(reference), method, TaskModel(encoder, head).to(device.torch_device), device, precision)


def variants(
    reference: PluginReference, bare: BareModel, *, device: Device, precision: str
) -> list[tuple[Candidate, Any]]:
    """Each other inference variant of a method, on its own model, with the generator that keeps it in that state.

    Weights that a variant does not change (all but merged ones) are shared with the other candidates again.
    """
    made: list[tuple[Candidate, Any]] = []
    while True:
        copied = copy.deepcopy(bare.encoder)
        candidate = make_candidate(reference, replace(bare, encoder=copied), device=device, precision=precision)
        kept = candidate.method.variants(candidate.model.encoder)
        variant = None
        with suppress(StopIteration):
            variant = next(islice(kept, len(made), None))
        if variant is None:
            return made
        candidate.variant, encoder = variant
        candidate.model = TaskModel(encoder, candidate.model.head)
        _share_equal(candidate.model, copied, bare.encoder)
        made.append((candidate, kept))


def _share_equal(model: nn.Module, copied: nn.Module, base: nn.Module) -> None:
    """Let the parameters of `model` that still equal the base's be the base's again."""
    originals = {p.untyped_storage().data_ptr(): b for p, b in zip(copied.parameters(), base.parameters(), strict=True)}
    for parameter in model.parameters():
        original = originals.get(parameter.untyped_storage().data_ptr())
        if original is not None and original.shape == parameter.shape and torch.equal(parameter, original):
            parameter.data = original.detach()
