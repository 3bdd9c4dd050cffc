"""Facts about PEFT's tuners that PEFT does not state: what runs on an encoder, with which targets and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

PROMPTS = {"prompt_tuning", "multitask_prompt_tuning", "p_tuning", "prefix_tuning", "cartridge"}
"""Tuners that prepend tokens or keys instead of adapting layers."""
CACHED = {"prefix_tuning", "cartridge"}
"""Tuners that put keys and values into a cache, which only BERT-like attention reads."""
IMPOSSIBLE = {
    "adaption_prompt": "it supports Llama, Mistral and GPT-2 type decoders only",
    "cpt": "it is designed for causal language models",
    "xlora": "it mixes LoRA adapters trained beforehand; use adapterfusion instead",
}
NEEDS_DATA = "it is initialised from statistics of data or gradients, which are not available before training here"
INERT: dict[str, dict[str, str]] = {
    "lora": {
        "alora_invocation_tokens": "it works in causal language models only",
        "arrow_config": "it routes between LoRAs trained beforehand; use adapterfusion instead",
        "corda_config": NEEDS_DATA,
        "eva_config": NEEDS_DATA,
        "lora_ga_config": NEEDS_DATA,
        "loftq_config": "it needs a quantised model, but models are loaded in full precision here",
        "megatron_config": "models are loaded with transformers here",
        "use_qalora": "it works on quantised layers only",
    },
    "adamss": {"use_asa": "it disables parameters during training, so the trained weights could not be stored"},
    "shadow": {"auxiliary_loss_weight": "its auxiliary loss needs PEFT's own classifier"},
}
"""Settings that PEFT accepts but that have no effect here, or a wrong one, and why; setting one is an error."""
INERT["adalora"] = {
    **INERT["lora"],
    **dict.fromkeys(
        ("kasa_config", "monteclora_config", "velora_config", "use_bdlora", "use_dora", "use_rslora", "r"),
        "AdaLoRA does not read it",
    ),
}
STARTS_WITH_DATA = ("corda", "eva", "lora_ga", "loftq")
"""Values of `init_lora_weights` that need data or gradients."""
TARGETS: dict[str, tuple[str, ...]] = {
    "ia3": ("key", "value", "intermediate"),
    "beft": ("value",),
}
"""Roles that are adapted instead of query and value."""
DEFAULTS: dict[str, dict[str, Any]] = {
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
"""Defaults where PEFT has none, or one that does not work on an encoder."""
FITTED: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "c3a": ("block_size", math.gcd),
    "vblora": ("vector_length", math.gcd),
    "oft": ("oft_block_size", math.gcd),
    "road": ("group_size", math.gcd),
    "miss": ("r", math.gcd),
    "shira": ("r", lambda default, hidden: min(default, hidden // 4)),
    "waveft": ("n_frequency", lambda default, hidden: min(default, hidden * hidden // 2)),
    "fourierft": ("n_frequency", lambda default, hidden: min(default, hidden * hidden // 2)),
}
"""Sizes that must divide the hidden size or stay below it: how PEFT's default is fitted if none is given."""
RATES: dict[str, tuple[float, str]] = {
    "prompt_tuning": (3e-2, "after Lester et al. 2021 (0.3 with Adafactor), lowered for AdamW"),
    "multitask_prompt_tuning": (3e-2, "as prompt tuning"),
    "p_tuning": (5e-3, "Liu et al. 2022, P-tuning v2 (5e-3)"),
    "prefix_tuning": (2e-4, "Mao et al. 2022, UniPELT, arXiv:2110.07577 (prefix tuning on GLUE)"),
    "vera": (4e-3, "Kopiczko et al. 2024, VeRA, arXiv:2310.11454 (GLUE, attention)"),
    "ia3": (3e-3, "Liu et al. 2022, T-Few (3e-3)"),
}
PAPERS = {
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
"""Papers of tuners whose documentation in PEFT cites none, or another one first."""
RATE_OF_LORA = (5e-4, "as LoRA (no rate published for this tuner): Hu et al. 2021, table 9")
