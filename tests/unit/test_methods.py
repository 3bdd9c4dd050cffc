"""What the methods train, what they refuse, and how adapters live together on one model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as some
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.plugins import Method as PublicMethod  # as packages of others import it
from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.worker.adapters.modules import PhmLinear, PhmRule
from adapeff.worker.adapters.parts import AdapterConfig, BottleneckPart, FusionPart, PhmPart, PrefixPart
from adapeff.worker.adapters.tuner import add_adapter, eject_prefixes
from adapeff.worker.methods.hosted import HostedMethod
from adapeff.worker.modeling.models import count_parameters
from tests.conftest import outside_folder
from tests.encoders import ENCODERS, HIDDEN, LABELS, LAYERS, WIDE, adapt, batch, make_encoder, take_steps

OF_ONE_WIDTH = ["bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "modernbert"]


@dataclass(frozen=True)
class Case:
    """A method as a sweep writes it, and the parameters it trains in the encoder by its paper's formula."""

    method: str
    expected: Callable[[nn.Module], int]


def bottleneck_parameters(sites: int, factor: float) -> int:
    """Houlsby et al. 2019, section 2.1: 2 m d + d + m per adapter, m the bottleneck, d the hidden size."""
    size = max(1, int(HIDDEN // factor))
    return sites * (2 * size * HIDDEN + HIDDEN + size)


def compacter_parameters(sites: int, factor: float, n: int, rank: int) -> int:
    """Karimi Mahabadi et al. 2021, section 4: factors of two projections, biases, and one n x n x n rule."""
    size = HIDDEN // int(factor)
    factors = 2 * rank * (HIDDEN + size)
    return sites * (factors + size + HIDDEN) + n**3


def prefix_parameters(length: int, middle: int, layers: int) -> int:
    """Li & Liang 2021, section 4.3: an embedding and the MLP from it to keys and values of all layers."""
    return length * HIDDEN + (HIDDEN + 1) * middle + (middle + 1) * 2 * layers * HIDDEN


CASES = [
    Case("full", lambda encoder: sum(p.numel() for p in encoder.parameters())),
    Case("head", lambda encoder: 0),
    Case("bitfit", lambda encoder: sum(p.numel() for n, p in encoder.named_parameters() if n.endswith("bias"))),
    Case("layernorm", lambda encoder: sum(p.numel() for n, p in encoder.named_parameters() if "LayerNorm" in n)),
    # Hu et al. 2021, section 4.2: r (d_in + d_out) per adapted matrix; query and value.
    Case("lora", lambda encoder: LAYERS * 2 * 8 * 2 * HIDDEN),
    Case("lora[rank=2,target_modules=[key]]", lambda encoder: LAYERS * 2 * 2 * HIDDEN),
    Case("lora[rank=2,target_modules=[intermediate,ffn_dense]]", lambda encoder: LAYERS * 2 * 2 * (HIDDEN + WIDE)),
    Case("lora[leave_out=[1]]", lambda encoder: 2 * 8 * 2 * HIDDEN),
    # Liu et al. 2024, DoRA, section 4: one magnitude per output more.
    Case("lora[dora=true]", lambda encoder: LAYERS * 2 * (8 * 2 * HIDDEN + HIDDEN)),
    Case("lora[rslora=true]", lambda encoder: LAYERS * 2 * 8 * 2 * HIDDEN),
    # Liu et al. 2022, section 3.3: d_k + d_v + d_ff per layer.
    Case("ia3", lambda encoder: LAYERS * (2 * HIDDEN + WIDE)),
    Case("houlsby", lambda encoder: bottleneck_parameters(2 * LAYERS, 16)),
    Case("houlsby[reduction_factor=4,leave_out=[0]]", lambda encoder: bottleneck_parameters(2, 4)),
    Case(
        "houlsby[reduction_factor={0: 4, default: 16}]",
        lambda encoder: bottleneck_parameters(2, 4) + bottleneck_parameters(2, 16),
    ),
    Case("peft:ln_tuning[leave_out=[0]]", lambda encoder: 6 * HIDDEN),
    Case("houlsby_parallel", lambda encoder: bottleneck_parameters(2 * LAYERS, 16)),
    Case("pfeiffer", lambda encoder: bottleneck_parameters(LAYERS, 16)),
    Case("pfeiffer_parallel", lambda encoder: bottleneck_parameters(LAYERS, 16)),
    Case("parallel_scaled", lambda encoder: bottleneck_parameters(LAYERS, 2)),
    Case("parallel_scaled[scaling=learned]", lambda encoder: bottleneck_parameters(LAYERS, 2) + LAYERS),
    Case("compacter[reduction_factor=4]", lambda encoder: compacter_parameters(2 * LAYERS, 4, 4, 1)),
    Case(
        "compacter[reduction_factor=4,phm_dim=2,phm_rank=3]",
        lambda encoder: compacter_parameters(2 * LAYERS, 4, 2, 3),
    ),
    Case("compacter++[reduction_factor=4]", lambda encoder: compacter_parameters(LAYERS, 4, 4, 1)),
    Case("prefix_tuning", lambda encoder: prefix_parameters(30, 512, LAYERS)),
    Case("prefix_tuning[leave_out=[0]]", lambda encoder: prefix_parameters(30, 512, LAYERS - 1)),
    Case("prefix_tuning[flat=true,length=5]", lambda encoder: 5 * 2 * LAYERS * HIDDEN),
    Case("mam", lambda encoder: prefix_parameters(30, 800, LAYERS) + bottleneck_parameters(LAYERS, 2)),
    # Mao et al. 2022, section 3.2: the three methods, and a gate of d + 1 for each of their modules.
    Case(
        "unipelt",
        lambda encoder: (
            prefix_parameters(10, 512, LAYERS)
            + bottleneck_parameters(LAYERS, 16)
            + LAYERS * 2 * 8 * 2 * HIDDEN
            + 4 * LAYERS * (HIDDEN + 1)
        ),
    ),
    Case("adapterdrop", lambda encoder: bottleneck_parameters(2 * LAYERS, 16)),
    Case("adapterdrop[layers=1]", lambda encoder: bottleneck_parameters(2, 16)),
    Case("adapterdrop[adapter=lora[rank=2],layers=1]", lambda encoder: 2 * 2 * 2 * HIDDEN),
]


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's ln_tuning, of what it tunes
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_trained_parameters_equal_the_papers_formula(case: Case) -> None:
    model, base = adapt(case.method, "bert")

    counts = count_parameters(model)

    assert counts.trainable_method == case.expected(base)
    assert counts.trainable_head == (HIDDEN + 1) * HIDDEN + (HIDDEN + 1) * LABELS
    assert counts.total >= counts.trainable


@pytest.mark.parametrize("architecture", OF_ONE_WIDTH)
@pytest.mark.parametrize("method", ["houlsby", "pfeiffer", "prefix_tuning", "mam", "compacter[reduction_factor=4]"])
def test_adapters_have_as_many_parameters_in_every_architecture(method: str, architecture: str) -> None:
    (expected,) = (case.expected for case in CASES if case.method == method)

    model, base = adapt(method, architecture)

    assert count_parameters(model).trainable_method == expected(base)


def test_top_layers_alone_are_trained() -> None:
    model, _ = adapt("top_k_layers[layers=1]", "bert")

    trained = {name for name, p in model.encoder.named_parameters() if p.requires_grad}

    assert trained == {name for name, _ in model.encoder.named_parameters() if name.startswith("encoder.layer.1.")}


TABLE_SIZES: dict[str, Callable[[], nn.Module]] = {
    "bert-base-uncased-like": lambda: transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False),
    "indicbert-v2-like": lambda: transformers.BertModel(
        transformers.BertConfig(vocab_size=250_000), add_pooling_layer=False
    ),
    "xlm-roberta-base-like": lambda: transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1),
        add_pooling_layer=False,
    ),
    "xlm-roberta-large-like": lambda: transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(
            vocab_size=250_002,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            max_position_embeddings=514,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    ),
    "distilbert-base-like": lambda: transformers.DistilBertModel(transformers.DistilBertConfig()),
}
TABLE_METHODS = {
    "houlsby_rf16": "houlsby",
    "pfeiffer_rf16": "pfeiffer",
    "houlsby_parallel_rf16": "houlsby_parallel",
    "pfeiffer_parallel_rf16": "pfeiffer_parallel",
    "compacter_rf32": "compacter",
    "compacter++_rf32": "compacter++",
    "prefix_mlp_len30_b512": "prefix_tuning",
    "prefix_flat_len30": "prefix_tuning[flat=true]",
    "lora_r8_a16_qv": "lora",
    "ia3": "ia3",
    "par_bn_rf2": "parallel_scaled",
    "mam": "mam",
    "unipelt": "unipelt",
}


@pytest.mark.parametrize(
    "model", [name if "distil" in name else pytest.param(name, marks=pytest.mark.slow) for name in TABLE_SIZES]
)
def test_counts_at_real_sizes_equal_the_oracles_table(model: str) -> None:
    """The library `adapters` counted these; ours are counted on the meta device, so that no memory is needed."""
    table = json.loads((outside_folder("ADAPEFF_TEST_ORACLES", "oracles") / "param_counts.json").read_text())[model]
    with torch.device("meta"):
        encoder = TABLE_SIZES[model]()
        counted = {}
        for row, written in TABLE_METHODS.items():
            reference = parse_plugin(written)
            adapted = get_method(reference.name, reference.parameters).attach(copy.deepcopy(encoder))
            counted[row] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        for dynamic in (True, False):
            row = f"adapterfusion_{'dynamic' if dynamic else 'static'}_2_pfeiffer_rf16"
            fused = _fused(copy.deepcopy(encoder), dynamic)
            counted[row] = sum(p.numel() for p in fused.parameters() if p.requires_grad)

    assert counted == {row: table[row]["adapter_params"] for row in counted}
    if "without_pooler" in str(table):
        assert sum(p.numel() for p in encoder.parameters()) == table["base_model_without_pooler"]


def _fused(encoder: nn.Module, value: bool) -> Any:
    part = BottleneckPart(sites=["ffn_output"], norm_before=True, non_linearity="relu")
    for name in ("first", "second"):
        encoder = add_adapter(encoder, AdapterConfig(bottleneck=part), name)
    fusion = AdapterConfig(fusion=FusionPart(members=["first", "second"], value=value))
    model = add_adapter(encoder, fusion, "fusion")
    model.set_adapter("fusion")
    return model


@given(
    n=some.integers(1, 4),
    rows=some.integers(1, 3),
    columns=some.integers(1, 3),
    rank=some.integers(1, 2),
    factorised=some.booleans(),
)
def test_phm_layer_is_the_sum_of_kronecker_products(
    n: int, rows: int, columns: int, rank: int, factorised: bool
) -> None:
    """Karimi Mahabadi et al. 2021, equation 4, with numpy's own Kronecker product."""
    import numpy

    part = PhmPart(dim=n, rank=rank, factorised_weight=factorised)
    rule = PhmRule(part, std=1.0)
    layer = PhmLinear(n * rows, n * columns, part, rule).double()
    x = torch.randn(2, n * rows, dtype=torch.float64)
    blocks = torch.bmm(layer.left, layer.right) if factorised else layer.weight
    rules = rule.double()().detach().numpy()

    matrix = sum(numpy.kron(rules[i], blocks[i].detach().numpy()) for i in range(n))

    assert numpy.allclose(layer(x).detach().numpy(), x.numpy() @ matrix + layer.bias.detach().numpy())


def output(model: Any) -> torch.Tensor:
    """The last hidden states of the batch, dropout off."""
    with torch.no_grad():
        hidden: torch.Tensor = model.eval()(**batch()).last_hidden_state
        return hidden


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("method", ["houlsby", "prefix_tuning", "unipelt", "compacter[reduction_factor=4]"])
def test_adapter_survives_pefts_own_saving_and_loading(method: str, architecture: str, tmp_path: Path) -> None:
    """Under its name or another, alone or as a second one, with weights that are made when they are read."""
    model, base = adapt(method, architecture)
    take_steps(model)
    adapted: Any = model.encoder
    wanted = output(adapted)
    adapted.save_pretrained(tmp_path)

    for name in ("default", "task"):
        for lazily in (False, True):
            loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, name, low_cpu_mem_usage=lazily)
            assert torch.equal(output(loaded), wanted), (name, lazily)
    second, _ = adapt("pfeiffer", architecture)
    host: Any = second.encoder
    host.load_adapter(tmp_path, "second")
    host.set_adapter("second")
    assert torch.equal(output(host), wanted)
    assert not any(".default." in key for key in load_file(tmp_path / "adapter_model.safetensors"))


def test_folder_that_peft_saved_is_a_source_of_a_fusion(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model, _ = adapt("pfeiffer[reduction_factor=4]", "bert")
        take_steps(model)
        saved: Any = model.encoder
        saved.save_pretrained(tmp_path / name)

    fused, _ = adapt(f"adapterfusion[sources=[{tmp_path / 'one'},{tmp_path / 'two'}]]", "bert")

    trained = {name for name, p in fused.encoder.named_parameters() if p.requires_grad}
    assert trained and all("adapeff_fusion" in name for name in trained)


def test_adapters_per_example_are_refused() -> None:
    model, _ = adapt("houlsby", "bert")

    with pytest.raises(ModelError, match="only one of these adapters can be active"):
        model.eval().encoder(**batch(), adapter_names=["default"] * 4)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("method", ["houlsby", "unipelt", "compacter[reduction_factor=4]"])
def test_adapters_take_the_precision_of_their_model(method: str, architecture: str) -> None:
    reference = parse_plugin(method)
    adapted = get_method(reference.name, reference.parameters).attach(make_encoder(architecture).bfloat16())

    hidden = adapted(**batch()).last_hidden_state
    hidden.float().square().sum().backward()

    assert hidden.dtype == torch.bfloat16
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", ["compacter[reduction_factor=4]", "prefix_tuning", "houlsby"])
def test_after_the_active_adapter_is_deleted_the_next_one_acts_whole(method: str) -> None:
    model, _ = adapt(method, "bert")
    adapted: Any = model.encoder
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    adapted.add_adapter("second", adapted.peft_config["default"])
    adapted.set_adapter("second")

    adapted.delete_adapter("second")

    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("architecture", OF_ONE_WIDTH)
def test_adapters_of_several_kinds_live_on_one_model(architecture: str) -> None:
    """Added, switched, switched off and removed, they give what each gives alone, and leave the base as it was."""
    kinds = ["houlsby", "unipelt", "prefix_tuning", "compacter[reduction_factor=4]", "mam"]
    alone = {}
    shared: Any = make_encoder(architecture)
    before = output(shared)
    for kind in kinds:
        model, _ = adapt(kind, architecture)
        take_steps(model)
        alone[kind] = output(model.encoder)
        adapted: Any = model.encoder
        shared = add_adapter(shared, adapted.peft_config["default"], name := _plain(kind))
        weights = {k.replace(".default.", f".{name}."): v for k, v in adapted.state_dict().items()}
        shared.load_state_dict({k: v for k, v in weights.items() if f".{name}." in k}, strict=False)

    for kind in reversed(kinds):
        shared.set_adapter(_plain(kind))
        assert torch.equal(output(shared), alone[kind]), kind
        trained = {key for key, p in shared.named_parameters() if p.requires_grad}
        assert trained and all(f".{_plain(kind)}." in key for key in trained)
    with shared.disable_adapter():
        assert torch.equal(output(shared), before)
    for kind in kinds[1:]:
        shared.delete_adapter(_plain(kind))
    shared.set_adapter(_plain(kinds[0]))
    assert torch.equal(output(shared), alone[kinds[0]])
    assert torch.equal(output(shared.unload()), before)


def _plain(kind: str) -> str:
    return f"task_{kind.partition('[')[0]}"


def test_ejected_prefix_gives_the_same_outputs_from_fewer_weights(tmp_path: Path) -> None:
    model, base = adapt("prefix_tuning", "bert")
    take_steps(model)
    adapted: Any = model.encoder
    wanted = output(adapted)

    eject_prefixes(adapted)

    assert torch.allclose(output(adapted), wanted, atol=1e-6)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 30 * 2 * LAYERS * HIDDEN
    adapted.save_pretrained(tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(base, tmp_path)), output(adapted))


@pytest.mark.parametrize("architecture", OF_ONE_WIDTH)
def test_prefix_leaves_padding_without_effect(architecture: str) -> None:
    """More padding on the right changes nothing for the tokens; the prefix itself is seen by all of them."""
    model, _ = adapt("prefix_tuning[length=3]", architecture)
    take_steps(model)
    encoder: Any = model.encoder.eval()
    wider = {key: nn.functional.pad(value, (0, 5)) for key, value in batch().items()}

    with torch.no_grad():
        few = encoder(**batch()).last_hidden_state
        many = encoder(**wider).last_hidden_state[:, :7]
    real = batch()["attention_mask"].bool()

    assert torch.allclose(few[real], many[real], atol=1e-5)


def test_input_of_full_length_passes_with_a_prefix() -> None:
    model, _ = adapt("prefix_tuning", "bert")

    hidden = model.encoder(input_ids=torch.ones(1, 64, dtype=torch.long)).last_hidden_state

    assert hidden.shape == (1, 64, HIDDEN)


@pytest.mark.parametrize("architecture", OF_ONE_WIDTH)
def test_merged_lora_gives_the_same_outputs(architecture: str) -> None:
    model, _ = adapt("lora", architecture)
    take_steps(model)
    wanted = output(model.encoder)

    ((variant, merged),) = get_method("lora", {}).variants(model.encoder)

    assert variant == {"merged": True}
    assert torch.allclose(output(merged), wanted, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert torch.equal(output(model.encoder), wanted)


def test_copy_of_an_adapted_model_is_a_model_of_its_own() -> None:
    for method in ("compacter[reduction_factor=4]", "prefix_tuning", "pfeiffer"):
        model, _ = adapt(method, "modernbert" if method == "pfeiffer" else "distilbert")
        copied = copy.deepcopy(model)
        before = output(model.encoder)

        take_steps(copied)

        assert torch.equal(output(model.encoder), before), method
        assert not torch.equal(output(copied.encoder), before), method


def test_checkpointed_activations_give_the_same_gradients() -> None:
    found = {}
    for checkpointed in (False, True):
        model, _ = adapt("unipelt", "bert")
        encoder: Any = model.encoder
        if checkpointed:
            encoder.base_model.model.activation_checkpointing_enable()
        for module in encoder.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        encoder(**batch()).last_hidden_state.square().sum().backward()
        found[checkpointed] = {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}

    assert all(torch.allclose(found[True][name], found[False][name], atol=1e-5) for name in found[False])


def test_own_adapters_refuse_to_merge() -> None:
    model, _ = adapt("houlsby", "bert")
    adapted: Any = model.encoder

    with pytest.raises(ModelError, match="cannot be merged"):
        adapted.merge_and_unload()


def test_member_of_a_fusion_is_not_deleted() -> None:
    model = _fused(make_encoder("bert"), True)

    with pytest.raises(ModelError, match="'first' is part of the fusion 'fusion'"):
        model.delete_adapter("first")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("lora[target_modules=[qeury]]", "no module 'qeury' to adapt"),
        ("houlsby[leave_out=[7]]", "leave_out names layer 7, but the model has the layers 0 to 1"),
        ("houlsby[leave_out=[0,1]]", "leave_out names every layer"),
        ("lora[leave_out=[0,1]]", "leave_out names every layer"),
        ("compacter", "phm_dim is 4, but it must divide both"),
        ("top_k_layers[layers=5]", "layers is 5, but the model has 2 layers"),
        ("adapterdrop[layers=2]", "layers is 2, but the model has 2 layers"),
        ("adapterdrop[adapter=peft:prompt_tuning]", "needs an adapter in the encoder's layers"),
        ("adapterfusion[sources=[./nowhere]]", "contains no weights.safetensors"),
        ("peft:road[group_size=7]", "peft:road does not run on BertModel"),
        ("lora[target_modules=[LayerNorm]]", "lora does not run on BertModel"),
        ("houlsby[reduction_factor={7: 4, default: 16}]", "reduction_factor names layer 7"),
        ("adapterdrop[adapter=peft:prompt_tuning,layers=1]", "adapts no layers"),
        ("adapterdrop[adapter=peft:trainable_tokens,layers=1]", "in no layer"),
    ],
)
def test_method_that_does_not_fit_the_model_says_why(method: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adapt(method, "bert")


class OutOfMemory(HostedMethod):
    """Asks for more memory than there is while it is put in place."""

    refusals = (RuntimeError,)

    def peft_config(self, encoder: nn.Module) -> Any:
        """Fails as torch does on the CPU: 2^60 numbers of 4 bytes."""
        return torch.empty(2**60)


class Faulty(HostedMethod):
    """Has a fault of its own."""

    def peft_config(self, encoder: nn.Module) -> Any:
        """Asks for what is not there."""
        return encoder.no_such_attribute


def test_lack_of_memory_and_faults_are_not_taken_for_a_models_unfitness() -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        OutOfMemory().attach(make_encoder("bert"))
    with pytest.raises(AttributeError, match="no_such_attribute"):
        Faulty().attach(make_encoder("bert"))


def test_unfit_architecture_is_named() -> None:
    size = {"vocab_size": 50, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    bart = transformers.BartModel(transformers.BartConfig(**size))

    for method in ("houlsby", "prefix_tuning", "unipelt", "lora", "ia3", "top_k_layers"):
        with pytest.raises(ModelError, match="not BartModel"):
            get_method(method, {}).attach(bart)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("lora", {"rnak": 8}, "no parameter 'rnak'; did you mean 'rank'"),
        ("lora", {"target_modules": []}, "at least one"),
        ("houlsby", {"reduction_factor": {"a": 4, "default": 16}}, "'a' is not a layer"),
        ("houlsby", {"reduction_factor": "abc"}, "^method 'houlsby': 'reduction_factor' is 'abc'"),
        ("houlsby", {"reduction_factor": {0: 4}}, "`default` is missing"),
        ("compacter", {"init": "houlsby"}, "no parameter 'init'"),
        ("houlsby", {"leave_out": [-1]}, "'leave_out.0' is -1: input should be greater than or equal to 0"),
        ("adapterfusion", {"sources": [3, "3"]}, "'3' appears twice"),
        ("peft:xlora", {}, "'peft:xlora': does not run on encoders"),
        ("adapterdrop", {"adapter": "full"}, "puts no adapters into the layers"),
        ("adapterdrop", {"adapter": "hulsby"}, "unknown method 'hulsby'"),
        ("adapterdrop", {"layers": 2, "most": 3}, "give one of them"),
        ("adapterdrop", {"adapter": "houlsby[leave_out=[3]]", "layers": 2}, "sets the adapter's leave_out"),
        ("adapterfusion", {}, "'sources' is missing"),
        ("adapterfusion", {"sources": []}, "at least one"),
        ("peft:vera", {"rank": 8}, "no parameter 'rank'"),
        ("peft:vera", {"r": "eight"}, "'r' is 'eight'"),
    ],
)
def test_wrong_parameter_is_named_without_torch(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        get_method(name, parameters)


def test_adapterdrop_takes_its_learning_rate_from_the_adapter() -> None:
    assert get_method("adapterdrop", {"adapter": "lora"}).learning_rate() == get_method("lora", {}).learning_rate()
    assert get_method("adapterdrop", {"adapter": "lora[rank=8]"}) == get_method("adapterdrop", {"adapter": "lora"})


def test_robust_drop_draws_every_depth_in_training_and_none_after() -> None:
    model, _ = adapt("adapterdrop[adapter=houlsby[reduction_factor=4]]", "bert")
    take_steps(model)
    seen = set()
    for _ in range(40):
        model.train()
        model.zero_grad(set_to_none=True)
        model.encoder(**batch()).last_hidden_state.sum().backward()
        trained = {name for name, p in model.encoder.named_parameters() if p.grad is not None}
        seen.add(min(int(name.split("layer.")[1][0]) for name in trained))

    assert seen == {0, 1}
    whole = output(model.encoder)
    assert torch.equal(output(model.encoder), whole)
    ((variant, dropped),) = get_method("adapterdrop", {}).variants(model.encoder)
    assert variant == {"dropped_layers": 1}
    assert torch.equal(output(model.encoder), whole), "the depth outlives its variant"
    assert dropped is model.encoder


def test_robust_drop_leaves_adapters_that_are_switched_off_alone() -> None:
    model, base = adapt("adapterdrop[adapter=houlsby]", "bert")
    take_steps(model)
    adapted: Any = model.encoder

    output(adapted)
    with adapted.adapted.disable_adapter():
        assert torch.equal(output(adapted), output(base))
    assert not torch.equal(output(adapted), output(base))


@pytest.mark.parametrize("adapter", ["houlsby", "lora"])
def test_robust_drop_computes_activations_again_as_they_were(adapter: str) -> None:
    model, _ = adapt(f"adapterdrop[adapter={adapter}]", "bert")
    adapted: Any = model.encoder
    adapted.adapted.base_model.model.activation_checkpointing_enable()

    for _ in range(8):
        adapted.train()(**batch()).last_hidden_state.sum().backward()


@pytest.mark.slow
def test_compiled_robust_drop_draws_anew_in_each_step() -> None:
    torch._dynamo.reset()
    model, _ = adapt("adapterdrop[adapter=houlsby]", "bert")
    compiled = torch.compile(model.encoder.train(), backend="eager")
    seen = set()
    for _ in range(20):
        model.zero_grad(set_to_none=True)
        compiled(**batch()).last_hidden_state.sum().backward()
        trained = [name for name, p in model.encoder.named_parameters() if p.grad is not None]
        seen.add(min(int(name.split("layer.")[1][0]) for name in trained))

    assert seen == {0, 1}


def test_draws_of_depths_follow_the_seed() -> None:
    def draws(seed: int) -> list[int]:
        from adapeff.worker.adapters.drop import AdapterDrop

        torch.manual_seed(seed)
        adapted = AdapterDrop(get_method("houlsby", {}).attach(ENCODERS["bert"]()), most=11)
        return [adapted._draw.randint(0, 11) for _ in range(20)]

    assert draws(3) == draws(3) != draws(4)


def test_layers_below_the_lowest_adapter_get_no_backward_pass() -> None:
    """FLOPs of the backward pass, counted on the real graph, fall with each layer that is left out."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    flops = []
    for method in ("houlsby", "adapterdrop[layers=1]"):
        model, _ = adapt(method, "bert")
        value = model(batch()).sum()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            value.backward()
        flops.append(counter.get_total_flops())

    assert flops[1] < flops[0] / 2


def test_flat_prefix_is_what_an_ejected_one_is() -> None:
    flat, _ = adapt("prefix_tuning[flat=true,length=4]", "bert")
    adapted: Any = flat.encoder

    assert adapted.peft_config["default"].prefix == PrefixPart(length=4, flat=True)


def test_hook_by_its_former_name_is_called_and_deprecated() -> None:
    with pytest.deprecated_call(match=r"Old defines penalty\(\), which is now called auxiliary_loss\(\)"):

        class Old(PublicMethod):
            def attach(self, encoder: nn.Module) -> nn.Module:
                return encoder

            def penalty(self, adapted: nn.Module) -> Any:
                return lambda: torch.ones(())

    term = Old().auxiliary_loss(nn.Linear(1, 1))
    assert term is not None and term() == 1
