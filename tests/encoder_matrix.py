"""Every masked language model of transformers under our methods and heads; `python -m tests.encoder_matrix` prints it.

The list is the library's own mapping. Each type is made from a tiny configuration with a tiny tokenizer and goes
through the whole cycle: load, adapt, a step, save, build anew, put back. It works (`ok`), or is refused in one line.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.families import FAMILIES
from adapeff.worker.families.base import Family
from adapeff.worker.families.choices import ChoiceExample
from adapeff.worker.families.encoding import collate
from adapeff.worker.families.sequences import Example
from adapeff.worker.families.span_rows import Answer, QuestionExample
from adapeff.worker.families.tokens import TaggedExample
from adapeff.worker.modeling.models import LoadedModel, build_model, load_model, trained_state
from adapeff.worker.training.progress import put_state
from adapeff.worker.training.train import make_optimizer

TYPES = tuple(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
METHODS = {
    "full": "full",
    "lora": "lora[rank=2]",
    "houlsby": "houlsby[reduction_factor=4]",
    "prefix_tuning": "prefix_tuning[length=3,bottleneck_size=16]",
}
BROKEN = "BROKEN"
HIDDEN, LAYERS, HEADS, WIDE, NARROW, POSITIONS, VOCABULARY = 32, 2, 4, 64, 16, 64, 120
SIZES: dict[str, int] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    **dict.fromkeys(("hidden_size", "d_model", "dim", "emb_dim", "d_latents"), HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(
        (
            *("num_attention_heads", "n_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads"),
            *("num_key_value_heads", "num_self_attention_heads", "num_cross_attention_heads"),
        ),
        HEADS,
    ),
    **dict.fromkeys(("head_dim", "d_head", "attention_head_size"), HIDDEN // HEADS),
    **dict.fromkeys(
        ("intermediate_size", "hidden_dim", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size"), WIDE
    ),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size", "embedding_rank"), NARROW),
}
"""A configuration's attribute -> its tiny value, where the type has it."""
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
_SEES = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": WIDE,
         "image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model"}  # fmt: skip
_READS = {"hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": HEADS, "intermediate_size": WIDE,
          "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, **_SPECIAL}  # fmt: skip
OVERRIDES: dict[str, dict[str, Any]] = {
    "big_bird": {"block_size": 4},
    "convbert": {"conv_kernel_size": 3},
    "ernie": {"use_task_id": True},
    "esm": {"pad_token_id": 1, "mask_token_id": 4},
    "eurobert": _SPECIAL,
    "flaubert": {"n_langs": 2},
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1], "num_decoder_layers": 1,
               "architectures": ["FunnelModel"]},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "mobilebert": {"intra_bottleneck_size": NARROW},
    "modernbert": {**_SPECIAL, "local_attention": 8},
    "modernvbert": {
        "text_config": {**_READS, "model_type": "modernbert", "local_attention": 8},
        "vision_config": _SEES,
        "image_token_id": 119,
    },
    "neomme": {"patch_size": 4, "num_key_value_heads": 2, "head_dim": 16},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 8, "conv_kernel_size": 5},
    "perceiver": {"num_latents": 8, "num_self_attends_per_block": LAYERS},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [NARROW, NARROW], "attn_layers": ["local", "lsh"],
                 "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "is_decoder": False},
    "roc_bert": {"pronunciation_vocab_size": 130, "shape_vocab_size": 130, "pronunciation_embed_dim": 8,
                 "shape_embed_dim": 8},
    "squeezebert": {"embedding_size": HIDDEN},
    "ultrabert": {**_SPECIAL, "num_hidden_layers": 3, "sliding_window": 8, "prediction_head_size": NARROW},
    "ultravbert": {
        "text_config": {**_READS, "model_type": "ultrabert", "num_key_value_heads": HEADS, "head_dim": 8,
                        "sliding_window": 8, "prediction_head_size": NARROW},
        "vision_config": {**_SEES, "vision_use_head": False},
        "image_token_id": 119,
    },
    "xlm": {"n_langs": 2},
    "xmod": {"languages": ["en_XX", "de_DE"]},
}  # fmt: skip
"""What a type needs besides to be made so small."""
SETTINGS = Training(learning_rate=1e-2, max_length=48, head_dropout=0.0)
LABELS = {"sequence_classification": ("a", "b", "c"), "token_classification": ("O", "B-X", "I-X")}
EXAMPLES: dict[str, list[Any]] = {
    "sequence_classification": [
        Example("0", "the film was good", "the film was not bad", 0),
        Example("1", "bad film", "who", 1),
    ],
    "token_classification": [
        TaggedExample("0", ("the", "film", "was", "good"), (0, 1, 0, 0)),
        TaggedExample("1", ("bad", "film"), (1, 2)),
    ],
    "question_answering": [
        QuestionExample("0", "who was good?", "the film was bad, not good. bob was good.", (Answer("bob", 28),)),
        QuestionExample("1", "where was the film?", "the film was not bad", (Answer("bad", 17),)),
    ],
    "multiple_choice": [
        ChoiceExample("0", "the film was", ("good", "not bad"), 1),
        ChoiceExample("1", "who was bad?", ("the film was not good", "bob", "who"), 0),
    ],
}


def save_tiny(model_type: str, folder: Path) -> None:
    """A random model of the type with a word tokenizer of BERT's form, segment ids included."""
    kind = CONFIG_MAPPING[model_type]
    sizes = {name: value for name, value in SIZES.items() if name in kind().to_dict()}
    config = kind(**{**sizes, **OVERRIDES.get(model_type, {})})
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or not parameter.any():
                parameter.normal_(std=0.02)  # some types start from zeros, which hide what depends on them
    model.save_pretrained(folder)
    pad = getattr(config, "pad_token_id", None)
    tiny_tokenizer(pad if isinstance(pad, int) and pad in range(5) else 0).save_pretrained(folder)


def tiny_tokenizer(pad: int) -> PreTrainedTokenizerFast:
    """120 tokens, the padding at index `pad`."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad, "[PAD]")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list(".,?'")
    words = (
        special
        + letters
        + [f"##{letter}" for letter in letters]
        + ["good", "bad", "film", "was", "the", "not", "who", "where"]
    )
    vocabulary = {word: at for at, word in enumerate(words + [f"w{n}" for n in range(VOCABULARY - len(words))])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names)


def cycle(folder: Path, written: str, family: Family) -> None:
    """Load, adapt, take a step, save, build anew, put the state back.

    Raises:
        AdapeffError: if the model or the method is refused.
        AssertionError: if what was stored does not give the same answers.
    """

    def loaded() -> LoadedModel:
        return load_model(resolve_model(str(folder)), family.tokenizer_options)

    reference = parse_plugin(written)
    method = get_method(reference.name, reference.parameters)
    first = loaded()
    data = family.encode(EXAMPLES[family.name], first.tokenizer)
    batch = collate(data, list(range(len(data))))
    model = build_model(first, method, family, seed=0).train()
    family.loss(model(batch.inputs).float(), batch).backward()
    make_optimizer(model, SETTINGS).step()
    with tempfile.TemporaryDirectory() as place:
        save_file(
            {name: t.contiguous().clone() for name, t in trained_state(model).items()}, Path(place) / "w.safetensors"
        )
        fresh = build_model(loaded(), method, family, seed=1)
        put_state(fresh, load_file(Path(place) / "w.safetensors"))
    with torch.inference_mode():
        ours, theirs = model.eval()(batch.inputs), fresh.eval()(batch.inputs)
        family.answers(EXAMPLES[family.name], data, family.read(ours.float(), batch))
    assert ours.isfinite().all(), "no finite logits"
    assert torch.equal(ours, theirs), "what is saved does not give the same model"


def outcomes(model_type: str) -> Iterator[tuple[str, str, str]]:
    """(method, family, `ok` or what was said) of every cell of a type."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place) / model_type
        save_tiny(model_type, folder)
        for method, written in METHODS.items():
            for name in EXAMPLES:
                try:
                    cycle(folder, written, FAMILIES[name](LABELS.get(name, ()), SETTINGS))
                except AdapeffError as error:
                    said = str(error).replace(str(folder), model_type)
                    yield method, name, said if "\n" not in said else f"{BROKEN}: several lines: {said}"
                except Exception as error:  # noqa: BLE001 - anything else is what the matrix looks for
                    yield method, name, f"{BROKEN}: {type(error).__name__}: {error}".partition("\n")[0]
                else:
                    yield method, name, "ok"


def _of_any(said: str, model_type: str) -> str:
    """A reason without the names of the type and of its classes, so that it is told once."""
    told = said.replace(f"'{model_type}' is of type {model_type},", "'...' is of a type")
    told = re.sub(r"(?<=not )\w+Model;", "this one;", told)
    return re.sub(r"(?<=(?:but|ich) )\w+(Attention|SelfOutput)(?= (?:does|is) not)", r"this \1", told)


def main() -> int:
    """Print the matrix as Markdown, the reasons below it; exits with 1 if anything is broken."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    reasons: dict[str, int] = {}
    print("| type | " + " | ".join(METHODS) + " |\n" + "| --- " * (len(METHODS) + 1) + "|")
    for model_type in TYPES:
        cells: dict[str, dict[str, None]] = {method: {} for method in METHODS}
        for method, _, said in outcomes(model_type):
            cells[method][_of_any(said, model_type)] = None
        row = [
            ", ".join("ok" if said == "ok" else f"no ({reasons.setdefault(said, len(reasons) + 1)})" for said in found)
            for found in cells.values()
        ]
        print(f"| {model_type} | " + " | ".join(row) + " |", flush=True)
    print()
    for reason, number in reasons.items():
        print(f"{number}. {reason}")
    return int(any(reason.startswith(BROKEN) for reason in reasons))


if __name__ == "__main__":
    sys.exit(main())
