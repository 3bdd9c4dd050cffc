"""`peft:<type>`: every tuner that PEFT has, from a generated table, with targets that suit encoders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import NonNegativeInt, create_model, field_validator, model_validator

from adapeff.service.errors import ModelError
from adapeff.service.plugins.contracts import Method
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.methods.lora import left_out, one_as_list, own_modules, target_pattern
from adapeff.worker.methods.peft_table import TABLE

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROMPTS = {"prompt_tuning", "multitask_prompt_tuning", "p_tuning", "prefix_tuning", "cartridge"}
"""Tuners that add tokens or keys in front, rather than adapt layers."""
_CACHED = {"prefix_tuning", "cartridge"}
"""Those that put keys and values into a cache, which only attention of BERT's form reads."""
_IMPOSSIBLE = {
    "adaption_prompt": "it knows decoders of the Llama, Mistral and GPT-2 type only",
    "cpt": "it is made for causal language models",
    "xlora": "it mixes LoRA adapters that were trained before; see adapterfusion for ours",
}
_NEEDS_DATA = "it starts from statistics of data or gradients, which a method here does not see before training"
_INERT: dict[str, dict[str, str]] = {
    "lora": {
        "alora_invocation_tokens": "it acts in causal language models alone",
        "arrow_config": "it routes between LoRAs that were trained before; see adapterfusion for ours",
        "corda_config": _NEEDS_DATA,
        "eva_config": _NEEDS_DATA,
        "lora_ga_config": _NEEDS_DATA,
        "loftq_config": "it needs a quantised model, and models are loaded in full precision here",
        "megatron_config": "models are loaded by transformers here",
        "use_qalora": "it acts on quantised layers alone",
    },
    "adamss": {"use_asa": "it switches parameters off while it trains, so that what was trained could not be stored"},
    "shadow": {"auxiliary_loss_weight": "its auxiliary loss needs a classifier of PEFT's own"},
}
"""Settings that PEFT takes, and that do nothing here, or nothing right: a setting without effect would mislead."""
_INERT["adalora"] = {
    **_INERT["lora"],
    **dict.fromkeys(
        ("kasa_config", "monteclora_config", "velora_config", "use_bdlora", "use_dora", "use_rslora", "r"),
        "AdaLoRA does not read it",
    ),
}
_STARTS_WITH_DATA = ("corda", "eva", "lora_ga", "loftq")
_TARGETS: dict[str, tuple[str, ...]] = {
    "ia3": ("key", "value", "intermediate"),
    "beft": ("value",),
}
"""Roles that are adapted where it is not query and value."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"num_virtual_tokens": 20},
    "multitask_prompt_tuning": {"num_virtual_tokens": 20},
    "p_tuning": {"num_virtual_tokens": 20},
    "prefix_tuning": {"num_virtual_tokens": 30},
    "cartridge": {"num_virtual_tokens": 30},
    "adalora": {"total_step": 10**6},
    "ia3": {"feedforward_modules": []},
    "trainable_tokens": {"token_indices": [0, 1, 2, 3]},
    "frod": {"progressbar": False},
}
"""Where PEFT has no default, or one that does not run on an encoder."""
_FITTED: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "c3a": ("block_size", math.gcd),
    "vblora": ("vector_length", math.gcd),
    "oft": ("oft_block_size", math.gcd),
    "road": ("group_size", math.gcd),
    "miss": ("r", math.gcd),
    "shira": ("r", lambda default, hidden: min(default, hidden // 4)),
    "waveft": ("n_frequency", lambda default, hidden: min(default, hidden * hidden // 2)),
    "fourierft": ("n_frequency", lambda default, hidden: min(default, hidden * hidden // 2)),
}
"""Sizes that must divide the hidden size, or stay below it: PEFT's default is fitted where none is given."""
_RATES: dict[str, tuple[float, str]] = {
    "prompt_tuning": (3e-2, "of the order of Lester et al. 2021 (0.3 with Adafactor), taken down for AdamW"),
    "multitask_prompt_tuning": (3e-2, "as prompt tuning"),
    "p_tuning": (5e-3, "Liu et al. 2022, P-tuning v2 (5e-3)"),
    "prefix_tuning": (2e-4, "Mao et al. 2022, UniPELT, arXiv:2110.07577 (prefix tuning on GLUE)"),
    "vera": (4e-3, "Kopiczko et al. 2024, VeRA, arXiv:2310.11454 (GLUE, attention)"),
    "ia3": (3e-3, "Liu et al. 2022, T-Few (3e-3)"),
}
_PAPERS = {
    "adalora": "Zhang et al. 2023, AdaLoRA, arXiv:2303.10512",
    "glora": "Chavan et al. 2023, One-for-All, arXiv:2306.07967",
    "gralora": "Jung et al. 2025, GraLoRA, arXiv:2505.20355",
    "lokr": "Yeh et al. 2024, LyCORIS, arXiv:2309.14859",
    "lora": "Hu et al. 2021, LoRA, arXiv:2106.09685",
    "p_tuning": "Liu et al. 2021, GPT Understands, Too, arXiv:2103.10385",
    "prefix_tuning": "Li & Liang 2021, Prefix-Tuning, arXiv:2101.00190",
    "prompt_tuning": "Lester et al. 2021, The Power of Scale, arXiv:2104.08691",
    "shira": "Bhardwaj et al. 2024, SHiRA, arXiv:2406.13175",
}
"""Where PEFT's documentation of a tuner cites none, or another first."""
_SOURCE = "as LoRA, for want of a published one here: Hu et al. 2021, table 9"


class PeftTuner(HostedMethod):
    """A tuner of PEFT's own; its fields are those of PEFT's configuration class."""

    kind: ClassVar[str]
    refusals: ClassVar[tuple[type[Exception], ...]] = (ValueError, TypeError, AttributeError, KeyError, RuntimeError)
    """PEFT's tuners, met with models or values they were not made for, fail in all these ways."""

    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Modules to adapt, by role (query, key, value, intermediate, ffn_dense) or name, or `all-linear`; None: what suits
    the tuner."""
    leave_out: tuple[NonNegativeInt, ...] = ()
    """Layers, counted from 0, that are not adapted."""
    layers_to_transform: tuple[NonNegativeInt, ...] | None = None
    """The layers that are adapted; in place of `leave_out`."""

    @field_validator("target_modules", "layers_to_transform", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return one_as_list(value)

    @model_validator(mode="after")
    def _runs_on_encoders(self) -> Self:
        if self.kind in _IMPOSSIBLE:
            raise ValueError(f"does not run on encoders: {_IMPOSSIBLE[self.kind]}")
        for field, reason in _INERT.get(self.kind, {}).items():
            default = type(self).model_fields[field].default
            if field in self.model_fields_set and getattr(self, field) not in (None, default):
                raise ValueError(f"'{field}' has no effect on an encoder: {reason}; leave it out")
        start = getattr(self, "init_lora_weights", None)
        if isinstance(start, str) and start.lower().startswith(_STARTS_WITH_DATA):
            raise ValueError(f"init_lora_weights={start}: {_NEEDS_DATA}; use another start, such as pissa or olora")
        if self.kind == "adalora" and self._rank("target_r") >= self._rank("init_r"):
            raise ValueError(
                f"target_r is {self._rank('target_r')} and init_r {self._rank('init_r')}: ranks are taken away in "
                "training, so target_r must be below init_r"
            )
        return self

    def _rank(self, name: str) -> int:
        """A whole-number setting, PEFT's default where none is given."""
        value = getattr(self, name)
        return int(type(self).model_fields[name].default if value is None else value)

    def _schedule(self, steps: int) -> tuple[int, int]:
        """AdaLoRA's steps before and after the cutting of ranks, by default a tenth and a half of all.

        The shares are about those of the authors' script for SST-2 (6,000 and 22,000 of some 50,000 steps).
        """
        given = {name: getattr(self, name) for name in ("tinit", "tfinal") if name in self.model_fields_set}
        return given.get("tinit", steps // 10), given.get("tfinal", steps // 2)

    def settles_at(self, steps: int) -> int:
        """AdaLoRA has its ranks from the end of its cutting on; the others from the start."""
        return steps - self._schedule(steps)[1] if self.kind == "adalora" else 1

    def on_step(self, adapted: nn.Module, steps: int) -> Callable[[int], None] | None:
        """AdaLoRA's reallocation of ranks (Zhang et al. 2023, algorithm 1), over the whole of training.

        Raises:
            ModelError: if its schedule does not fit into so many steps.
        """
        if self.kind != "adalora":
            return None
        first, last = self._schedule(steps)
        asked = getattr(self, "total_step", None) if "total_step" in self.model_fields_set else None
        if asked not in (None, steps):
            raise ModelError(
                f"peft:adalora: total_step is {asked}, but training takes {steps} steps; leave total_step out"
            )
        if steps - last - first < 2:
            raise ModelError(
                f"peft:adalora cuts ranks between steps {first} (tinit) and {steps - last} ({steps} steps less tfinal "
                f"{last}), which leaves no room; train for more steps, or set tinit and tfinal lower"
            )
        tuner: Any = _tuner(adapted)
        config = tuner.peft_config[tuner.trainable_adapter_name]
        config.tinit, config.tfinal = first, last
        tuner.rankallocator.set_total_step(steps)
        reallocate: Callable[[int], None] = tuner.update_and_allocate
        return reallocate

    def auxiliary_loss(self, adapted: nn.Module) -> Callable[[], Tensor] | None:
        """What a tuner adds to the loss: AdaLoRA's orthogonality (equation 4), KaSA's and MonteCLoRA's own terms."""
        if self.kind == "adalora":
            return _orthogonality(_tuner(adapted))
        for field, term in (("kasa_config", "_get_kasa_loss"), ("monteclora_config", "_get_monteclora_loss")):
            if getattr(self, field, None) is not None:
                own: Callable[[], Tensor] = getattr(_tuner(adapted), term)
                return own
        return None

    @property
    def rewrites_base(self) -> bool:
        """Whether attaching it changes the model's own weights, so that it cannot be left out of a layer."""
        start = getattr(self, "init_lora_weights", None)
        is_known = not isinstance(start, str) or start.lower() in ("gaussian", "orthogonal", "mica")
        return not is_known or getattr(self, "kasa_config", None) is not None

    def label(self) -> str:
        """The method's name in a sweep."""
        return f"peft:{self.kind}"

    def host(self, encoder: nn.Module) -> nn.Module:
        """Have PEFT put the tuner into the encoder, and give it the inputs and outputs of an encoder."""
        from adapeff.worker.adapters.precision import follow_autocast
        from adapeff.worker.adapters.prompts import OneTask, OneTaskPrompt, WithoutPrompt

        if self.kind == "multitask_prompt_tuning":
            return WithoutPrompt(OneTaskPrompt(encoder, self.peft_config(encoder)), adds_tokens=True)
        adapted = super().host(encoder)
        follow_autocast(adapted)
        if self.kind == "poly":
            return OneTask(adapted)
        return WithoutPrompt(adapted, adds_tokens=self.kind not in _CACHED) if self.kind in _PROMPTS else adapted

    @property
    def is_wrapped(self) -> bool:
        """Whether PEFT's model alone does not answer as an encoder does."""
        return self.kind in _PROMPTS or self.kind == "poly"

    def peft_config(self, encoder: nn.Module) -> Any:
        """PEFT's configuration with what the model decides filled in."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        from adapeff.worker.adapters.layouts import find_layout

        if self.layers_to_transform is not None:
            skipped = tuple(left_out(encoder, self.leave_out, self.layers_to_transform))
            same = self.model_copy(update={"leave_out": skipped, "layers_to_transform": None})
            return same.peft_config(encoder)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[self.kind.upper()]
        values = self.model_dump(exclude={"target_modules", "leave_out", "layers_to_transform"}, exclude_unset=True)
        values = {**_DEFAULTS.get(self.kind, {}), **values}
        if self.kind == "poly" and find_layout(encoder).architecture.name == "DeBERTa-v2":
            raise ModelError(
                f"peft:poly does not run on {type(encoder).__name__}: it routes by example, but this model's relative "
                "positions go through the same layers and belong to none"
            )
        if self.kind == "shadow" and find_layout(encoder).architecture.name == "DistilBERT":
            raise ModelError(
                f"peft:shadow does not run on {type(encoder).__name__}: it copies a stack of layers that knows its own "
                "configuration, which this one does not"
            )
        if self.kind in _CACHED and find_layout(encoder).architecture.name != "BERT":
            raise ModelError(
                f"peft:{self.kind} does not run on {type(encoder).__name__}: it needs attention that takes a cache, as "
                "BERT, RoBERTa, XLM-R and ELECTRA have; use prefix_tuning, which runs on all"
            )
        if self.kind in _PROMPTS and (self.target_modules is not None or self.leave_out):
            raise ModelError(f"peft:{self.kind} adapts no layers: it takes neither target_modules nor leave_out")
        if self.kind in _PROMPTS:
            return config(task_type="FEATURE_EXTRACTION", **_prompt_sizes(self.kind, encoder), **values)
        if self.kind == "poly":
            values["task_type"] = "FEATURE_EXTRACTION"  # this model class alone passes the task on
        return config(target_modules=self._targets(encoder), **{**self._fitted(encoder, values), **values})

    def _fitted(self, encoder: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.kind not in _FITTED:
            return {}
        from adapeff.worker.adapters.layouts import find_layout

        name, fit = _FITTED[self.kind]
        default = type(self).model_fields[name].default
        return {name: fit(default, find_layout(encoder).hidden_size)}

    def _norms(self, encoder: nn.Module, kind: type[nn.Module]) -> list[str]:
        """The LayerNorms, those of left-out layers left out."""
        from adapeff.worker.adapters.layouts import find_layout

        left: tuple[str, ...] = ()
        if self.leave_out:
            layout = find_layout(encoder)
            layout.kept_layers(self.leave_out)
            left = tuple(f"{layout.prefix}.{index}." for index in self.leave_out)
        names = own_modules(encoder, kind)
        return [name for name in names if not name.startswith(left)] if left else names

    def _targets(self, encoder: nn.Module) -> Any:
        from torch import nn as layers

        from adapeff.worker.adapters.layouts import find_layout

        named = f"peft:{self.kind}"
        if self.kind == "trainable_tokens" and (self.target_modules is not None or self.leave_out):
            raise ModelError(
                f"{named} trains embeddings, which lie in no layer: it takes neither target_modules nor leave_out"
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
        return target_pattern(encoder, _TARGETS.get(self.kind, ("query", "value")), self.leave_out, method=named)


def _tuner(adapted: nn.Module) -> Any:
    """PEFT's tuner inside an adapted encoder."""
    return adapted.base_model


def _orthogonality(tuner: Any) -> Callable[[], Tensor]:
    """orth_reg_weight times the mean over all P and Q of ||P'P - I||_F and ||QQ' - I||_F, as PEFT's AdaLoRA adds it."""
    import torch

    name = tuner.trainable_adapter_name
    weight = tuner.peft_config[name].orth_reg_weight
    factors = [
        (parameter, "lora_A" in path)
        for path, parameter in tuner.model.named_parameters()
        if ("lora_A" in path or "lora_B" in path) and name in path.split(".")
    ]

    def apart(factor: Tensor, *, is_wide: bool) -> Tensor:
        gram = factor @ factor.T if is_wide else factor.T @ factor
        norm: Tensor = torch.linalg.norm(gram - torch.eye(len(gram), device=factor.device, dtype=factor.dtype))
        return norm

    def term() -> Tensor:
        mean: Tensor = torch.stack([apart(factor, is_wide=wide) for factor, wide in factors]).mean()
        weighted: Tensor = mean * weight
        return weighted

    return term


def _prompt_sizes(kind: str, encoder: nn.Module) -> dict[str, int]:
    config: Any = encoder.config
    added_to_embeddings: int = encoder.get_input_embeddings().embedding_dim  # type: ignore[operator]
    return {
        "token_dim": config.hidden_size if kind in _CACHED else added_to_embeddings,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }


_KINDS: dict[str, Any] = {"bool": bool, "int": int, "float": float, "text": str, "any": Any}


def _method(kind: str, entry: Mapping[str, Any], version: str) -> type[Method]:
    fields = {
        name: (_KINDS[field["kind"]] | None if field["kind"] != "any" else Any,
               _DEFAULTS.get(kind, {}).get(name, field["default"]))
        for name, field in entry["fields"].items()
    }  # fmt: skip
    name = f"Peft{kind.title().replace('_', '')}"
    made: type[PeftTuner] = create_model(  # type: ignore[call-overload]
        name, __base__=PeftTuner, __doc__=f"The tuner {kind.upper()} of PEFT {version}.", **fields
    )
    rate, source = _RATES.get(kind, (5e-4, _SOURCE))
    made.kind = kind
    cited = _PAPERS.get(kind) or (f"{entry['paper']}, as PEFT cites it" if entry.get("paper") else "")
    made.paper = cited or f"no paper is cited; see {kind.upper()} of PEFT {version}"
    made.default_learning_rate = rate
    made.learning_rate_source = source
    return made


def peft_methods() -> dict[str, type[Method]]:
    """A method for each tuner in the table, by the name `peft:<type>`."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {f"peft:{kind}": _method(kind, entry, table["peft"]) for kind, entry in table["types"].items()}
