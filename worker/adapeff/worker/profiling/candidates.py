"""Several methods on one model in one process: what a profile times by turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModel

from adapeff.service.errors import ModelError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Method
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import ModelReference, model_folder, resolve_model
from adapeff.worker.families.encoding import Batch
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.measure.clocks import StepSeconds, step_clock, synchronize
from adapeff.worker.measure.flops import synthetic_inputs
from adapeff.worker.measure.interleave import Take
from adapeff.worker.modeling.encoders import drop_pooler, examine, give_global_attention, model_inputs, position_count
from adapeff.worker.modeling.models import TaskModel, load_encoder, read_config, unloadable
from adapeff.worker.training.train import TrainingStep, make_optimizer

LABELS = 2
_RATE = 1e-6
"""Learning rate of timed steps: small, so that weights stay usual numbers however long they are timed."""


@dataclass(frozen=True)
class BareModel:
    """An encoder without tokenizer: with its weights, or drawn at random where there is a configuration alone."""

    encoder: nn.Module
    inputs: tuple[str, ...]
    vocabulary: int
    hidden_size: int
    max_positions: int
    revision: str
    has_weights: bool

    def batch(self, batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Synthetic inputs, batch x length, nothing padded."""
        return synthetic_inputs(self.inputs, batch=batch, length=length, vocabulary=self.vocabulary, device=device)


def load_bare(reference: ModelReference, *, shared: bool = True) -> BareModel:
    """The encoder of a job's model; a folder that holds config.json alone gives random weights (seed 0).

    Args:
        shared: for several candidates: weights lie in memory as copies of them do. Products with weights where the
            mapping of a file put them are a few per cent faster, which would favour methods that leave them frozen.

    Raises:
        ModelError: if it is absent, another one than was submitted, or no encoder.
    """
    folder = model_folder(reference.name) if reference.source == "folder" else None
    if reference.source == "folder" and (
        folder is None or resolve_model(reference.name, needs_weights=False).fingerprint != reference.fingerprint
    ):
        raise ModelError(f"model '{reference.name}' here is another than was submitted; give every host the same files")
    place = str(folder or reference.name)
    revision = reference.revision or "main"
    has_weights = folder is None or _has_weights(folder)
    config = read_config(place, str(reference), revision=revision)
    encoder: Any = load_encoder(place, config, reference) if has_weights else _drawn(config, str(reference))
    if shared:
        for parameter in encoder.parameters():
            parameter.data = parameter.data.clone()
    give_global_attention(encoder)
    encoder = drop_pooler(encoder)
    return BareModel(
        encoder=encoder,
        inputs=model_inputs(encoder),
        vocabulary=config.vocab_size,
        hidden_size=examine(encoder, str(reference)),
        max_positions=position_count(encoder),
        revision=reference.fingerprint or getattr(config, "_commit_hash", None) or reference.revision or "unknown",
        has_weights=has_weights,
    )


def _drawn(config: Any, name: str) -> Any:
    torch.manual_seed(0)
    try:
        return AutoModel.from_config(config)
    except Exception as error:
        raise unloadable(f"model '{name}'", error) from error


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


PROFILED_STEPS = 10_000
"""The budget that a profile's steps are the first of; it takes fewer."""


@dataclass
class Candidate:
    """A method on a model of its own; frozen weights are shared between candidates, trained ones are not.

    Args:
        name: the method as it is written.
        variant: the way of serving, {} as trained.
    """

    name: str
    method: Method
    model: TaskModel
    device: torch.device
    precision: str
    variant: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method, and the way of serving where it is another than as trained."""
        words = (key if value is True else f"{key} {value}" for key, value in self.variant.items())
        return f"{self.name} ({', '.join(words)})" if self.variant else self.name

    def trainer(self) -> TrainingStep:
        """Makes training steps of the same kind as the training loop does."""
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
        """A callable that takes n forward passes, dropout off, in the weights' precision; gives the seconds of each."""

        def run(count: int) -> list[float]:
            self.model.eval()
            times = []
            with torch.inference_mode():
                for _ in range(count):
                    synchronize(self.device)
                    start = time.perf_counter()
                    self.model(inputs)
                    synchronize(self.device)
                    times.append(time.perf_counter() - start)
            return times

        return run

    def steps(self, inputs: Mapping[str, torch.Tensor]) -> Take[StepSeconds]:
        """A callable that takes n training steps on one batch and gives their seconds by phase."""
        batch = labelled(inputs)
        take, clock = self.trainer(), step_clock(self.device)

        def run(count: int) -> list[StepSeconds]:
            self.model.train()
            for _ in range(count):
                take(batch, clock)
            return clock.collect()

        return run


def labelled(inputs: Mapping[str, torch.Tensor]) -> Batch:
    """A batch of inputs with labels, all of them the first."""
    rows, length = inputs["input_ids"].shape
    labels = torch.zeros(rows, dtype=torch.long, device=inputs["input_ids"].device)
    return Batch(dict(inputs), {"label": labels}, [1] * rows, [length] * rows)


def make_candidate(
    reference: PluginReference, bare: BareModel, *, device: torch.device, precision: str, shared: bool = True
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
    return Candidate(str(reference), method, TaskModel(encoder, head).to(device), device, precision)


def variants(
    reference: PluginReference, bare: BareModel, *, device: torch.device, precision: str
) -> list[tuple[Candidate, Any]]:
    """Each other way of serving a method, on a model of its own, with what keeps it so while it is in use.

    Weights that a way of serving does not change (all but merged ones) are shared with the other candidates again.
    """
    found: list[tuple[Candidate, Any]] = []
    while True:
        made = copy.deepcopy(bare.encoder)
        candidate = make_candidate(reference, replace(bare, encoder=made), device=device, precision=precision)
        kept = candidate.method.variants(candidate.model.encoder)
        variant = None
        with suppress(StopIteration):
            variant = next(islice(kept, len(found), None))
        if variant is None:
            return found
        candidate.variant, encoder = variant
        candidate.model = TaskModel(encoder, candidate.model.head)
        _share_equal(candidate.model, made, bare.encoder)
        found.append((candidate, kept))


def _share_equal(model: nn.Module, copied: nn.Module, base: nn.Module) -> None:
    """Let the parameters of `model` that still equal the base's be the base's again."""
    originals = {p.untyped_storage().data_ptr(): b for p, b in zip(copied.parameters(), base.parameters(), strict=True)}
    for parameter in model.parameters():
        original = originals.get(parameter.untyped_storage().data_ptr())
        if original is not None and original.shape == parameter.shape and torch.equal(parameter, original):
            parameter.data = original.detach()
