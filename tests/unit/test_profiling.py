"""Profiles: turns, paired ratios, what memory holds, candidates that share what is frozen, tuning."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adapeff.cli.render.profiles import profile_grids
from adapeff.service.errors import AdapeffError, ModelError, SpecError
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.reporting.notes import profile_notes
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.specs.job import LogRange, Tuning
from adapeff.service.specs.model_reference import resolve_model
from adapeff.service.specs.profile import ProfileSpec, plan_profile, read_spec
from adapeff.service.statistics.ratios import paired_ratio, quotient_of_ratios
from adapeff.service.statistics.summaries import median_interval
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.devices.precision import served_in
from adapeff.worker.measure.flops import draws_its_steps
from adapeff.worker.measure.interleave import interleave, per_block
from adapeff.worker.measure.memory_breakdown import bytes_of, step_bytes, weight_bytes
from adapeff.worker.profiling.candidates import BareModel, load_bare, make_candidate, variants
from adapeff.worker.profiling.memory_probe import largest_batch, run_probe
from adapeff.worker.training.record import warmup_seconds
from adapeff.worker.training.tuning import open_search

CPU = Cpu()


@pytest.fixture(scope="module")
def config_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config-only")
    transformers.BertConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=100
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def bare(config_only: Path) -> BareModel:
    return load_bare(resolve_model(str(config_only), needs_weights=False))


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=30), st.floats(0.1, 10))
def test_paired_ratio_of_a_scaled_copy_is_the_scale(values: list[float], scale: float) -> None:
    found = paired_ratio([value * scale for value in values], values)

    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(scale)
    assert found.blocks == len(values)


@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)), min_size=5, max_size=20))
def test_paired_ratio_lies_in_its_interval_within_the_blocks(pairs: list[tuple[float, float]]) -> None:
    of, to = zip(*pairs, strict=True)
    found = paired_ratio(of, to)

    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= found.low <= found.ratio <= found.high <= max(ratios)


def test_paired_ratio_needs_the_same_blocks() -> None:
    with pytest.raises(ValueError, match="same blocks"):
        paired_ratio([1.0], [1.0, 2.0])


_INTERVALS = st.tuples(st.floats(0.2, 5.0), st.floats(1.0, 2.0), st.floats(1.0, 2.0)).map(
    lambda drawn: (drawn[0], drawn[0] / drawn[1], drawn[0] * drawn[2])
)


@given(_INTERVALS, _INTERVALS)
def test_quotient_of_ratios_is_at_least_as_wide_as_either_and_inverts(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    value, low, high = quotient_of_ratios(first, second)
    inverse = quotient_of_ratios(second, first)

    assert value == pytest.approx(first[0] / second[0])
    assert high / low >= max(first[2] / first[1], second[2] / second[1]) * (1 - 1e-9)
    assert inverse == pytest.approx((1 / value, 1 / high, 1 / low))
    assert quotient_of_ratios(first, (1.0, 1.0, 1.0)) == pytest.approx(first)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_interval_of_a_median_holds_it(values: list[float]) -> None:
    low, high = median_interval(values)
    ordered = sorted(values)

    assert ordered[0] <= low <= ordered[len(values) // 2] <= high <= ordered[-1]


def test_every_candidate_has_one_turn_a_block_in_changing_order() -> None:
    calls: list[str] = []

    def take(name: str) -> Any:
        def run(count: int) -> list[float]:
            calls.append(name)
            return [1.0] * count

        return run

    found = interleave({name: take(name) for name in "abc"}, blocks=12, turn_seconds=1e-9, seed=0)

    blocks = [tuple(calls[at : at + 3]) for at in range(6, len(calls), 3)]  # two warm-up turns each
    assert all(sorted(block) == ["a", "b", "c"] for block in blocks)
    assert len(set(blocks)) > 1
    assert {name: per_block(samples) for name, samples in found.items()} == {name: [1.0] * 12 for name in "abc"}


def test_activations_are_what_the_graph_saves() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(5, 8)

    found = step_bytes(model, lambda: model(x).sum())

    # saved: the input (5 x 8) for the first weight, tanh's output (5 x 16) for itself and the second weight
    assert found == {"activations": 4 * (5 * 8 + 5 * 16), "cast weights": 0, "gradients": weight_bytes(model)}
    assert weight_bytes(model) == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert bytes_of([x, x[1:], x.T]) == x.untyped_storage().nbytes()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_copies_that_autocast_makes_of_weights_are_no_activations() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    x = torch.randn(5, 8, requires_grad=True)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step_bytes(model, lambda: model(x).float().sum())

    # saved in bf16: the input and the first layer's output; both weights, for the gradients of the inputs
    assert found["activations"] == 2 * (5 * 8 + 5 * 16)
    assert found["cast weights"] == 2 * (8 * 16 + 16 * 4)


def test_frozen_weights_need_no_activations_below_the_first_trained_one() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    model[0].requires_grad_(False)
    x = torch.randn(5, 8)

    found = step_bytes(model, lambda: model(x).sum())

    assert found["gradients"] == 4 * (16 * 4 + 4)
    assert found["activations"] == 4 * 5 * 16


def test_candidates_share_what_is_frozen_and_own_what_they_train(bare: BareModel) -> None:
    before = copy.deepcopy(bare.encoder.state_dict())
    made = {name: make_candidate(parse_plugin(name), bare, device=CPU, precision="fp32") for name in ("full", "lora")}
    base = {p.untyped_storage().data_ptr() for p in bare.encoder.parameters()}

    for candidate in made.values():
        own = {p.untyped_storage().data_ptr() for p in candidate.model.parameters() if p.requires_grad}
        frozen = {p.untyped_storage().data_ptr() for p in candidate.model.parameters() if not p.requires_grad}
        assert not own & base
        assert frozen <= base
        steps = candidate.steps(bare.batch(2, 8, CPU))(3)
        assert len(steps) == 3
        assert all(min(step) >= 0 and step.total > 0 for step in steps)
    assert all(torch.equal(before[name], value) for name, value in bare.encoder.state_dict().items())


def test_merged_weights_compute_what_the_adapted_model_does_without_its_modules(bare: BareModel) -> None:
    ((merged, kept),) = variants(parse_plugin("lora"), bare, device=CPU, precision="fp32")

    assert merged.label == "lora (merged)"
    inputs = bare.batch(2, 8, CPU)
    plain = make_candidate(parse_plugin("lora"), bare, device=CPU, precision="fp32")
    with torch.inference_mode():
        assert torch.allclose(merged.model.eval()(inputs), plain.model.eval()(inputs), atol=1e-5)
    assert len(merged.forwards(inputs)(4)) == 4
    del kept


def test_profile_specs_have_one_identity_and_are_read_back(config_only: Path) -> None:
    first = plan_profile(str(config_only), ["lora", "houlsby"], settings={"blocks": 7}).spec
    again = plan_profile(str(config_only), ["lora[rank=8]", "houlsby", "full"], settings={"blocks": 7}).spec

    assert [str(method) for method in first.methods] == ["full", "lora", "houlsby"]
    assert first.job_hash == again.job_hash
    assert first.model_copy(update={"repeat": 1}).job_hash != first.job_hash
    assert isinstance(read_spec(json.loads(first.model_dump_json())), ProfileSpec)


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        (["nonsense"], {}, "nonsense"),
        (["lora"], {"blocks": 1}, "blocks"),
        (["lora"], {"latency_lengths": [16, 16]}, "twice"),
        (["adapterfusion[sources=[1,2]]"], {}, "builds on trained sources"),
    ],
)
def test_bad_profiles_are_refused(config_only: Path, methods: list[str], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapeffError, match=said):
        plan_profile(str(config_only), methods, settings=settings)


def test_listed_rates_are_tried_in_order_and_a_range_is_searched() -> None:
    listed = open_search(Tuning(learning_rate=(1e-4, 1e-3), trials=2), seed=0)
    assert [listed.ask(), listed.ask()] == [1e-4, 1e-3]

    search = open_search(Tuning(learning_rate=LogRange(low=1e-5, high=1e-2), trials=12), seed=0)
    rates = []
    for _ in range(12):
        rates.append(search.ask())
        search.tell(None if rates[-1] > 5e-3 else -abs(torch.tensor(rates[-1] / 3e-4).log().item()))
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert len(set(rates)) == 12


@pytest.mark.parametrize(
    "tuning", [{"learning_rate": [1e-4], "trials": 2}, {"learning_rate": {"low": 1, "high": 1}, "trials": 2}]
)
def test_tuning_gives_every_method_the_same_number_of_trials(tuning: dict[str, Any]) -> None:
    from adapeff.service.specs.expansion import expand
    from adapeff.service.specs.sweep_file import parse_sweep

    sweep = {"name": "t", "models": ["a/b"], "tasks": ["offline_sentiment"], "methods": ["full"]}
    with pytest.raises(SpecError, match=r"trials|low"):
        expand(parse_sweep({**sweep, "settings": {"tuning": tuning}}), data_root=None)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own_and_running_out_of_it_is_an_answer(
    config_only: Path, tmp_path: Path
) -> None:
    request = plan_profile(str(config_only), ["head"], settings={"length": 64})
    job = tmp_path / "job.json"
    job.write_text(request.spec.model_dump_json())

    found = run_probe(job, 1, 4, CPU, "fp32")
    assert found["outcome"] == "ok"
    assert found["parts"]["weights"] > found["parts"]["gradients"] > 0
    assert run_probe(job, 0, 4096, CPU, "fp32", limit=100_000_000) == {"outcome": "oom"}
    fits, too_large = largest_batch(job, 1, CPU, "fp32", limit=250_000_000, start=64)
    assert 0 < fits < (too_large or 0)
    assert largest_batch(job, 1, CPU, "fp32", limit=1000, start=2) == (0, 1)


def test_only_adapterdrop_draws_its_steps(bare: BareModel) -> None:
    drawing = {
        name: draws_its_steps(candidate.method, candidate.model.encoder)
        for name in ("full", "houlsby", "adapterdrop")
        for candidate in [make_candidate(parse_plugin(name), bare, device=CPU, precision="fp32")]
    }

    assert drawing == {"full": False, "houlsby": False, "adapterdrop": True}


def test_models_are_served_in_bf16_and_trained_in_fp32(bare: BareModel) -> None:
    candidates = [make_candidate(parse_plugin(name), bare, device=CPU, precision="bf16") for name in ("full", "head")]
    before = [candidate.model.state_dict() for candidate in candidates]
    inputs = bare.batch(2, 8, CPU)

    with served_in("bf16", [candidate.model for candidate in candidates]), torch.inference_mode():
        assert {candidate.model.eval()(inputs).dtype for candidate in candidates} == {torch.bfloat16}
        parameters = list(candidates[1].model.parameters())
        assert bytes_of(parameters) == 2 * sum(parameter.numel() for parameter in parameters)

    for candidate, state in zip(candidates, before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in candidate.model.state_dict().items())
    assert bytes_of([*candidates[1].model.encoder.parameters(), *bare.encoder.parameters()]) == bytes_of(
        bare.encoder.parameters()
    )


def test_disturbed_latency_is_marked_and_told() -> None:
    quiet, disturbed = Figure(0.01, "s"), Figure(0.02, "s", problems="samples drifted by +9%")
    table = ProfileTable(
        job_id=7,
        model="m",
        random_weights=False,
        reference="full",
        settings={},
        environment={},
        training=(ProfileRow("full", {}, ""),),
        training_columns=(),
        latency=(
            ProfileRow("full", {"1x16": quiet}, ""),
            *(ProfileRow(f"lora{i}", {"1x16": disturbed}, "") for i in range(8)),
        ),
        latency_columns=("1x16",),
        device_peaks={},
    )

    *_, (_, _, rows) = profile_grids(table)

    assert rows[0] == ["full", "10.0 ms"]
    assert rows[1] == ["lora0", "20.0 ms !"]
    notes = profile_notes(table)
    assert "!: lora0 1x16: samples drifted by +9%." in notes
    assert "!: 2 more in `adapeff show 7`." in notes


@given(st.lists(st.floats(0.01, 1.0), min_size=10, max_size=40), st.floats(0, 5))
def test_warmup_is_what_the_first_steps_take_too_long(flops: list[float], extra: float) -> None:
    seconds = [3 * count for count in flops]

    assert warmup_seconds([seconds[0] + extra, *seconds[1:]], flops) == pytest.approx(extra, abs=1e-9)
    assert warmup_seconds(seconds[:9], flops[:9]) is None


@pytest.mark.slow
def test_a_step_that_never_runs_is_no_matter_of_memory(config_only: Path, tmp_path: Path) -> None:
    model = shutil.copytree(config_only, tmp_path / "model")
    job = tmp_path / "job.json"
    job.write_text(plan_profile(str(model), ["head"]).spec.model_dump_json())
    (model / "config.json").unlink()

    with pytest.raises(ModelError, match="memory could not be measured"):
        largest_batch(job, 1, CPU, "fp32", limit=250_000_000, start=2)
