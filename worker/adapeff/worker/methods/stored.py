"""Load adapters from a run's folder, or from a folder saved by PEFT.

Adapters of one model share its weights, so an adapter that changes them is refused, and any error leaves the model
unchanged. What a configuration does not show is found by comparison: changes made by an addition are reverted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

import adapeff.worker.adapters.tuner  # noqa: F401  # registers adapeff's tuner with PEFT
from adapeff.service.errors import AdapeffError, ModelError, first_line
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.specs.model_reference import ADAPTER_FILE
from adapeff.worker.adapters.parts import AdapterConfig
from adapeff.worker.methods.adapterdrop import AdapterDropMethod
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.methods.peft_tuner import PeftTuner
from adapeff.worker.modeling.weights import WEIGHTS, read_weights

_CONVERT = "convert it to a plain LoRA with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
Biases = dict[str, torch.Tensor]
"""Path in the bare encoder -> one of the model's own biases, as trained with an adapter."""


def load_adapter(model: nn.Module, source: str | Path, name: str, *, biases: Biases | None = None) -> PeftModel:
    """Add a stored adapter to an encoder under a name; if it has others, the new one stays inactive until it is set.

    Args:
        model: an encoder, with or without adapters of the same tuner.
        source: a run's folder with `weights.safetensors`, or a folder saved by PEFT.
        biases: receives the model's own biases that were trained with the adapter; None: such an adapter is refused.

    Raises:
        ModelError: if there is no adapter, PEFT does not host it, it does not fit the model, or it changes weights
            that adapters share. The model is left unchanged.
    """
    folder = expanded(source)
    stored = _read_pefts(folder) if _is_pefts(folder) else _read_ours(folder, model)
    _refuse_shared_weights(stored.config, folder, takes_biases=biases is not None)
    tensors = _without_biases(stored, biases if biases is not None else {})
    kept = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    before = _bare_output(model)
    adapted: PeftModel | None = None
    try:
        adapted = _add(model, stored.config, name, folder)
        stored.put(adapted, tensors, name, folder)
        changed = [(tensor, value) for tensor, value in kept if not torch.equal(tensor, value)]
        for tensor, value in changed:
            tensor.data = value
        if changed or not _equal(_bare_output(adapted), before):
            raise ModelError(
                f"the adapter in '{folder}' changes weights that the adapters of a model share; {_CONVERT}"
            )
    except Exception as error:
        _remove(model, adapted, name)
        if isinstance(error, AdapeffError):
            raise
        if isinstance(error, OSError | ValueError | RuntimeError | KeyError | TypeError | AttributeError):
            line = first_line(error)
            raise ModelError(f"the adapter in '{folder}' does not fit this model, or cannot be read: {line}") from error
        raise
    return adapted


@dataclass(frozen=True)
class _Stored:
    """A stored adapter: its configuration, its tensors, and how to put them into a model."""

    config: PeftConfig
    tensors: Mapping[str, torch.Tensor]
    put: Callable[[PeftModel, Mapping[str, torch.Tensor], str, Path], None]


def _refuse_shared_weights(config: PeftConfig, folder: Path, *, takes_biases: bool) -> None:
    """Refuse configurations that are known to change the model itself."""
    init = getattr(config, "init_lora_weights", None)
    if isinstance(init, str) and init.lower() not in ("gaussian", "orthogonal", "mica"):
        raise ModelError(
            f"the adapter in '{folder}' was initialised with init_lora_weights={init}, which changes weights that "
            f"the adapters of a model share; {_CONVERT}"
        )
    for field in ("kasa_config", "layer_replication"):
        if getattr(config, field, None):
            raise ModelError(
                f"the adapter in '{folder}' has {field}, which changes weights that adapters share; train it without"
            )
    if getattr(config, "bias", "none") != "none" and not takes_biases:
        raise ModelError(
            f"the adapter in '{folder}' was trained with bias={config.bias}, which changes the model's own biases, but "
            "adapters that are active together share them; train it with bias=none"
        )


_BIAS = re.compile(r"\.bias$")


def _without_biases(stored: _Stored, biases: Biases) -> dict[str, torch.Tensor]:
    """The adapter's own tensors; biases of the model among them are moved to `biases`."""
    if getattr(stored.config, "bias", "none") == "none":
        return dict(stored.tensors)
    stored.config.bias = "none"
    own = {}
    for key, tensor in stored.tensors.items():
        if _BIAS.search(key) and "lora_" not in key:
            biases[plain_path(key)] = tensor
        else:
            own[key] = tensor
    return own


def plain_path(path: str) -> str:
    """The path in the bare encoder of a parameter of an adapted one."""
    return path.removeprefix("base_model.model.").replace(".base_layer.", ".")


@torch.no_grad()
def _bare_output(model: nn.Module) -> torch.Tensor | None:
    """The model's output for a few tokens without adapters; None on the meta device."""
    parameter = next(model.parameters())
    if parameter.device.type == "meta":
        return None
    was_training = model.training
    model.eval()
    inputs = {"input_ids": torch.arange(1, 9, device=parameter.device).view(2, 4)}
    try:
        if isinstance(model, PeftModel):
            with model.disable_adapter():
                output: torch.Tensor = model(**inputs).last_hidden_state
        else:
            output = model(**inputs).last_hidden_state
    finally:
        model.train(was_training)
    return output


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is None or other is None or torch.equal(one, other)


def _remove(model: nn.Module, adapted: PeftModel | None, name: str) -> None:
    """Undo a complete or partial addition."""
    if isinstance(model, PeftModel):
        if name in model.peft_config:
            active = [other for other in model.active_adapters if other != name]
            model.delete_adapter(name)
            if active:
                model.set_adapter(active[0], inference_mode=True)
    elif adapted is not None:
        adapted.unload()


def _is_pefts(folder: Path) -> bool:
    """Whether a folder was saved by PEFT; a run's weights next to it may only contain the head.

    Raises:
        ModelError: if it contains two adapters, or one that cannot be read.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return False
    if (folder / WEIGHTS).is_file() and any(not key.startswith("head.") for key in read_weights(folder)[1]):
        raise ModelError(
            f"'{folder}' contains two adapters, {ADAPTER_FILE} and a run's {WEIGHTS}; move one of them away"
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"'{folder}' contains {ADAPTER_FILE} without adapter_model.safetensors; save it as safetensors"
        )
    return True


def _read_ours(folder: Path, model: nn.Module) -> _Stored:
    description, tensors = read_weights(folder)
    own = {
        key.removeprefix("encoder.").removeprefix("adapted."): tensor
        for key, tensor in tensors.items()
        if not key.startswith("head.")
    }
    config = _configuration(description, model, folder)

    def put(adapted: PeftModel, tensors: Mapping[str, torch.Tensor], name: str, folder: Path) -> None:
        in_adapter = re.compile(rf"\.{re.escape(name)}(\.|$)")
        expected = {key: p for key, p in adapted.named_parameters() if in_adapter.search(key)}
        renamed = {_our_key(key, name): tensor for key, tensor in tensors.items()}
        unfit = [key for key in renamed if key not in expected or renamed[key].shape != expected[key].shape]
        if unfit or not renamed:
            raise ModelError(f"the adapter in '{folder}' was trained on another model ({description['model'][:60]})")
        active = adapted.active_adapters
        adapted.set_adapter(name)
        missing = [key for key, parameter in expected.items() if parameter.requires_grad and key not in renamed]
        adapted.set_adapter(active[0])
        if missing:
            raise ModelError(
                f"the adapter in '{folder}' cannot share a model with others, because it does not contain {missing[0]}"
            )
        with torch.no_grad():
            for key, tensor in renamed.items():
                expected[key].copy_(tensor)

    return _Stored(config, own, put)


def _read_pefts(folder: Path) -> _Stored:
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        line = first_line(error)
        raise ModelError(f"the adapter in '{folder}' cannot be read: {line}") from error
    if config.is_prompt_learning or config.peft_type.value == "POLY":
        raise ModelError(
            f"'{folder}' contains {config.peft_type.value.lower()}, which cannot share a model with other adapters"
        )

    def put(adapted: PeftModel, tensors: Mapping[str, torch.Tensor], name: str, folder: Path) -> None:
        loaded = set_peft_model_state_dict(adapted, dict(tensors), adapter_name=name)
        expected = get_peft_model_state_dict(adapted, adapter_name=name)
        if unfit := [*loaded.unexpected_keys, *(key for key in expected if key not in tensors)]:
            raise ModelError(f"the adapter in '{folder}' was trained on another model ({unfit[0]})")

    return _Stored(config, tensors, put)


def _our_key(key: str, name: str) -> str:
    """A stored tensor's key in a model where the adapter has another name."""
    return re.sub(r"\.default(?=\.|$)", f".{name}", key)


def _add(model: nn.Module, config: PeftConfig, name: str, folder: Path) -> PeftModel:
    if not isinstance(config, AdapterConfig):
        config.inference_mode = True  # some tuners only accept a second adapter that is not trained
    if not isinstance(model, PeftModel):
        return get_peft_model(model, config, adapter_name=name)
    kinds = {present.peft_type for present in model.peft_config.values()}
    if config.peft_type not in kinds:
        raise ModelError(
            f"'{folder}' contains a {config.peft_type.value} adapter, but the model has {kinds.pop().value} ones; "
            "adapters of different tuners cannot share a model"
        )
    model.add_adapter(name, config)
    return model


def _configuration(description: Mapping[str, Any], model: nn.Module, folder: Path) -> PeftConfig:
    try:
        method: Any = catalog.get_method(description["method"], description["parameters"])
    except AdapeffError as error:
        raise ModelError(f"the adapter in '{folder}' cannot be read: {error}") from error
    if isinstance(method, AdapterDropMethod):
        method = method.adapter_method()
    if not isinstance(method, HostedMethod) or (isinstance(method, PeftTuner) and method.is_wrapped):
        raise ModelError(f"'{folder}' contains {description['method']}, which cannot share a model with other adapters")
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return method.peft_config(plain)
