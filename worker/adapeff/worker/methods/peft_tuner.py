"""The base of the methods `peft:<type>`: targets that suit encoders, and settings that cannot work refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import NonNegativeInt, field_validator, model_validator

from adapeff.service.errors import ModelError
from adapeff.worker.methods import peft_facts as facts
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.methods.lora import left_out, one_as_list, own_modules, target_pattern

if TYPE_CHECKING:
    from torch import Tensor, nn


class PeftTuner(HostedMethod):
    """A tuner from PEFT; its fields are those of PEFT's configuration class."""

    kind: ClassVar[str]
    refusals: ClassVar[tuple[type[Exception], ...]] = (ValueError, TypeError, AttributeError, KeyError, RuntimeError)
    """What PEFT's tuners raise on models or values they do not support."""

    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Modules to adapt, by role (query, key, value, intermediate, ffn_dense) or name, or `all-linear`; None: the
    tuner's usual ones."""
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers that are not adapted, counted from 0."""
    layers_to_transform: tuple[NonNegativeInt, ...] | None = None
    """The layers that are adapted; use it instead of `leave_out`."""

    @field_validator("target_modules", "layers_to_transform", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return one_as_list(value)

    @model_validator(mode="after")
    def _runs_on_encoders(self) -> Self:
        if self.kind in facts.IMPOSSIBLE:
            raise ValueError(f"does not run on encoders: {facts.IMPOSSIBLE[self.kind]}")
        for field, reason in facts.INERT.get(self.kind, {}).items():
            default = type(self).model_fields[field].default
            if field in self.model_fields_set and getattr(self, field) not in (None, default):
                raise ValueError(f"'{field}' has no effect on an encoder: {reason}; leave it out")
        init = getattr(self, "init_lora_weights", None)
        if isinstance(init, str) and init.lower().startswith(facts.STARTS_WITH_DATA):
            raise ValueError(
                f"init_lora_weights={init}: {facts.NEEDS_DATA}; use another initialisation, such as pissa or olora"
            )
        return self

    def auxiliary_loss(self, adapted: nn.Module) -> Callable[[], Tensor] | None:
        """KaSA's and MonteCLoRA's own terms."""
        for field, term in (("kasa_config", "_get_kasa_loss"), ("monteclora_config", "_get_monteclora_loss")):
            if getattr(self, field, None) is not None:
                loss: Callable[[], Tensor] = getattr(adapted.base_model, term)
                return loss
        return None

    @property
    def rewrites_base(self) -> bool:
        """Whether attaching it changes the model's own weights, so that no layer can be served without it."""
        init = getattr(self, "init_lora_weights", None)
        keeps_base = not isinstance(init, str) or init.lower() in ("gaussian", "orthogonal", "mica")
        return not keeps_base or getattr(self, "kasa_config", None) is not None

    def label(self) -> str:
        """The method's name in a sweep."""
        return f"peft:{self.kind}"

    def host(self, encoder: nn.Module) -> nn.Module:
        """Let PEFT put the tuner into the encoder, and wrap it if its inputs or outputs are not an encoder's."""
        from adapeff.worker.adapters.precision import follow_autocast
        from adapeff.worker.adapters.prompts import OneTask, OneTaskPrompt, WithoutPrompt

        if self.kind == "multitask_prompt_tuning":
            return WithoutPrompt(OneTaskPrompt(encoder, self.peft_config(encoder)), adds_tokens=True)
        adapted = super().host(encoder)
        follow_autocast(adapted)
        if self.kind == "poly":
            return OneTask(adapted)
        if self.kind in facts.PROMPTS:
            return WithoutPrompt(adapted, adds_tokens=self.kind not in facts.CACHED)
        return adapted

    @property
    def is_wrapped(self) -> bool:
        """Whether PEFT's model needs a wrapper to keep an encoder's inputs and outputs."""
        return self.kind in facts.PROMPTS or self.kind == "poly"

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's configuration, completed with the values that depend on the model."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        from adapeff.worker.adapters.layouts import find_layout

        if self.layers_to_transform is not None:
            skipped = tuple(left_out(encoder, self.leave_out, self.layers_to_transform))
            same = self.model_copy(update={"leave_out": skipped, "layers_to_transform": None})
            return same.peft_config(encoder)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[self.kind.upper()]
        values = self.model_dump(exclude={"target_modules", "leave_out", "layers_to_transform"}, exclude_unset=True)
        values = {**facts.DEFAULTS.get(self.kind, {}), **values}
        if self.kind == "poly" and find_layout(encoder).architecture.name == "DeBERTa-v2":
            raise ModelError(
                f"peft:poly does not run on {type(encoder).__name__}: it routes per example, but this model's relative "
                "positions pass through the same layers and belong to no example"
            )
        if self.kind == "shadow" and find_layout(encoder).architecture.name == "DistilBERT":
            raise ModelError(
                f"peft:shadow does not run on {type(encoder).__name__}: it copies a stack of layers that has its own "
                "configuration, which this model's layers do not have"
            )
        if self.kind in facts.CACHED and find_layout(encoder).architecture.name != "BERT":
            raise ModelError(
                f"peft:{self.kind} does not run on {type(encoder).__name__}: it needs attention that takes a cache, as "
                "in BERT, RoBERTa, XLM-R and ELECTRA; use prefix_tuning, which runs on all models"
            )
        if self.kind in facts.PROMPTS and (self.target_modules is not None or self.leave_out):
            raise ModelError(f"peft:{self.kind} adapts no layers; leave out target_modules and leave_out")
        if self.kind in facts.PROMPTS:
            return config(task_type="FEATURE_EXTRACTION", **_prompt_sizes(self.kind, encoder), **values)
        if self.kind == "poly":
            values["task_type"] = "FEATURE_EXTRACTION"  # the only model class that passes the task on
        return config(target_modules=self._targets(encoder), **{**self._fitted(encoder, values), **values})

    def _fitted(self, encoder: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.kind not in facts.FITTED:
            return {}
        from adapeff.worker.adapters.layouts import find_layout

        name, fit = facts.FITTED[self.kind]
        default = type(self).model_fields[name].default
        return {name: fit(default, find_layout(encoder).hidden_size)}

    def _norms(self, encoder: nn.Module, kind: type[nn.Module]) -> list[str]:
        """The LayerNorms, except those of left-out layers."""
        from adapeff.worker.adapters.layouts import find_layout

        skipped: tuple[str, ...] = ()
        if self.leave_out:
            layout = find_layout(encoder)
            layout.kept_layers(self.leave_out)
            skipped = tuple(f"{layout.prefix}.{index}." for index in self.leave_out)
        names = own_modules(encoder, kind)
        return [name for name in names if not name.startswith(skipped)] if skipped else names

    def _targets(self, encoder: nn.Module) -> Any:
        from torch import nn as layers

        from adapeff.worker.adapters.layouts import find_layout

        named = f"peft:{self.kind}"
        if self.kind == "trainable_tokens" and (self.target_modules is not None or self.leave_out):
            raise ModelError(
                f"{named} trains embeddings, which are in no layer; leave out target_modules and leave_out"
            )
        if self.target_modules is not None:
            return target_pattern(encoder, self.target_modules, self.leave_out, method=named)
        if self.kind == "ln_tuning":
            return self._norms(encoder, layers.LayerNorm)
        if self.kind == "trainable_tokens":
            return [path for path, module in encoder.named_modules() if module is encoder.get_input_embeddings()]  # type: ignore[operator]
        if self.kind == "shadow":
            layout = find_layout(encoder)
            return rf"(?:.*\.)?{layout.prefix}\.(?:{'|'.join(map(str, layout.kept_layers(self.leave_out)))})"
        return target_pattern(encoder, facts.TARGETS.get(self.kind, ("query", "value")), self.leave_out, method=named)


def _prompt_sizes(kind: str, encoder: nn.Module) -> dict[str, int]:
    config: Any = encoder.config
    added_to_embeddings: int = encoder.get_input_embeddings().embedding_dim  # type: ignore[operator]
    return {
        "token_dim": config.hidden_size if kind in facts.CACHED else added_to_embeddings,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }
