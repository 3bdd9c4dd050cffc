"""The definitions of all measurements: name, unit, meaning, dimensions, better direction, and display.

Definitions with a `column` are the columns of the report, in the order of this file. The table of docs/measurements.md
is generated from all definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

from adapeff.service.measured import Definition, ReportColumn, Unit

_registry: dict[str, Definition] = {}


def _define(name: str, unit: Unit, *dimensions: str, meaning: str, **more: Any) -> Definition:
    if name in _registry:
        raise ValueError(f"measurement '{name}' is defined twice")
    definition = Definition(name, unit, meaning, dimensions, **more)
    _registry[name] = definition
    return definition


_define_for_profiles = partial(_define, only_in_profiles=True)

# fmt: off

# A model's answers on the data of a task.
SCORE = _define(
    "<metric>", "1", "split", "language", "variant", "task",
    meaning="each metric of the task, per language on the test split; on the validation split, the headline metric "
    "of the best state",
)
MAJORITY = _define(
    "majority_<metric>", "1", "split", "language", "variant", "task",
    meaning="the score of the trivial baseline: the best answer that needs no model, such as the most common label; no "
    "entity, or every word or sentence one; the first words of the context, or all of it",
)
NOISE = _define(
    "noise_<metric>", "1", "split", "language", "variant", "task",
    meaning="95 % half-width of the difference between a score and that baseline, by 1,000 bootstrap samples of the "
    "examples, the same for both; a report marks scores within it with `~`",
)
SCORE_CEILING = _define(
    "ceiling_<metric>", "1", "split", "task", better="higher",
    meaning="generated data only: the expected score of a perfect model, given the label noise of the data",
)
BASE_SCORE = _define(
    "base_<metric>", "1", "split", "language", "task",
    meaning="extensions only: the headline score on the test split before the training, with the weights of the base; "
    "a new task's head is untrained then",
)
FORGETTING = _define(
    "forgetting", "1", "statistic", "split", "language", "task", better="higher",
    meaning="extensions only, per old task and language: the headline score after the training minus the one before, "
    "so that negative values are forgotten; statistics `low` and `high` are the 95 % interval by 1,000 bootstrap "
    "samples of the test examples, the same before and after. Of the whole job: `mean` (with `mean_low`, `mean_high`) "
    "and `worst` over the old tasks, each in its source language or the first tested one",
)
EXAMPLES = _define(
    "examples", "1", "split", "language", "variant", "task",
    meaning="number of test examples",
)
AGREEMENT = _define(
    "agreement", "1", "split", "language", "variant", "task", better="higher", display="%",
    meaning="share of the test examples on which an inference variant gives the same answer as the trained form",
)
SCORE_DIFFERENCE_MAX = _define(
    "score_difference_max", "1", "split", "language", "variant", "task", better="lower",
    meaning="largest difference of an answer's confidence between an inference variant and the trained form",
)
UNKNOWN_TOKEN_SHARE = _define(
    "unknown_token_share", "1", "split", "language", "task", better="lower", display="%",
    meaning="share of the test tokens that the tokenizer does not know",
)
CHOSEN = _define(
    "<choice>", "1", "split", "language", "task",
    meaning="a value that a family chooses on the validation data, such as SQuAD 2.0's `null_threshold`: the "
    "margin by which no answer must beat the best span",
)

# The data as the encoder reads them.
DATA_EXAMPLES = _define(
    "data_examples", "1", "split", "language", "task",
    meaning="examples per split and language",
)
DATA_ROWS = _define(
    "data_rows", "1", "split", "language", "task",
    meaning="rows the encoder reads for those examples: windows, choices",
)
DATA_TOKENS = _define(
    "data_tokens", "1", "split", "language", "task",
    meaning="real tokens of those rows",
)
DATA_ROWS_AT_MAX_LENGTH = _define(
    "data_rows_at_max_length", "1", "split", "language", "task",
    meaning="number of those rows that fill `max_length` (truncated, or windows)",
)
TOKENISED_EXAMPLES = _define(
    "tokenised_examples", "1",
    meaning="number of examples this run tokenised because they were not in the cache",
)

# Parameters and storage.
TRAINABLE_PARAMETERS = _define(
    "trainable_parameters", "1", "variant", display="params",
    meaning="parameters the optimizer updates",
)
TRAINABLE_PARAMETERS_METHOD = _define(
    "trainable_parameters_method", "1", "variant", display="params",
    column=ReportColumn("trained: method", key="parameters_method"),
    meaning="trainable parameters of the method",
)
TRAINABLE_PARAMETERS_HEAD = _define(
    "trainable_parameters_head", "1", "variant", "task", display="params",
    column=ReportColumn("trained: head", key="parameters_head"),
    meaning="trainable parameters of the head",
)
TOTAL_PARAMETERS = _define(
    "total_parameters", "1", "variant", display="params",
    meaning="all parameters; the unused pooler is removed before counting",
)
STORED_BYTES = _define(
    "stored_bytes", "B", "dtype", "task", better="lower", display="B",
    column=ReportColumn("stored per task", where={"dtype": ""}),
    meaning="size of the safetensors file with every trained tensor (for `full` the whole model), head included; "
    "the base model is not counted",
)

# Training.
TRAIN_COMPUTE_S = _define(
    "train_compute_s", "s", "task", better="lower", display="s",
    column=ReportColumn("train compute"),
    meaning="sum over steps, from the batch being on the device to the end of zero_grad: forward, loss, backward, "
    "clipping, optimizer, scheduler",
)
TUNING_COMPUTE_S = _define(
    "tuning_compute_s", "s", better="lower", display="s",
    column=ReportColumn("tuning compute", only_if_measured=True),
    meaning="compute seconds of all trials of the learning-rate search",
)
TRAIN_FLOPS = _define(
    "train_flops", "1", "phase", "variant", "task", better="lower", display="FLOPs",
    column=ReportColumn("train FLOPs", where={"phase": "", "variant": {"tokens": "processed"}}, only_if_measured=True),
    meaning="FLOPs of matrix products, 2 per multiplication and addition, of the real graph under the math attention "
    "kernel with frozen weights counted as frozen; of all steps by their shapes; phases forward and backward. "
    "`{\"tokens\": \"real\"}` excludes the cost of padding. For AdapterDrop: the mean over the depths it draws",
)
PEAK_MEMORY_ALLOCATED = _define(
    "peak_memory_allocated_bytes", "B", "phase", "batch", "length", "variant", better="lower", display="B",
    column=ReportColumn("peak memory (allocated)", only_if_measured=True),
    meaning="the GPU allocator's peak during training, without validations; null on a CPU",
)
PEAK_MEMORY_RESERVED = _define(
    "peak_memory_reserved_bytes", "B", "phase", "batch", "length", "variant", better="lower", display="B",
    meaning="the same for the memory the allocator reserved; null on a CPU",
)
PEAK_MEMORY_PROCESS = _define(
    "peak_memory_process_bytes", "B", "phase", "batch", "length", "variant", better="lower", display="B",
    column=ReportColumn("peak memory (process)", instead_of="peak_memory_allocated_bytes"),
    meaning="the process's resident high-water mark (VmHWM) over that time, minus the resident memory after the "
    "imports, the architecture's code included",
)
WARMUP_S = _define(
    "warmup_s", "s", better="lower", display="s",
    meaning="the part of `train_compute_s` that the first five steps took beyond what their FLOPs took later on",
)
STEP_LATENCY_S = _define(
    "step_latency_s", "s", "statistic", "phase", "batch", "length", "dtype", "variant", better="lower", display="s",
    meaning="training runs: p50 and p95 over all steps, the first ones included. Profiles: median over blocks of the "
    "block's median step. Phases `forward` (with the loss), `backward`, `optimizer` (clipping, optimizer, "
    "scheduler, zero_grad)",
)
TRAIN_STEPS = _define(
    "train_steps", "1", "task",
    meaning="optimizer steps taken",
)
TRAIN_SAMPLES = _define(
    "train_samples", "1", "task",
    meaning="examples processed",
)
TRAIN_TOKENS = _define(
    "train_tokens", "1", "variant", "task",
    meaning='tokens processed, `{"tokens": "real"}` and with padding (`"processed"`)',
)
BEST_STEP = _define(
    "best_step", "1", "task",
    meaning="the step of the best state, which is kept",
)
LEARNING_RATE = _define(
    "learning_rate", "1",
    meaning="the learning rate of the training",
)
TUNING_TRIALS = _define(
    "tuning_trials", "1",
    meaning="number of learning rates tried",
)
RESUMED_AT_STEP = _define(
    "resumed_at_step", "1",
    meaning="the step of the checkpoint that the run went on from; times and energy until then are those of the run "
    "that wrote it, and what that run did afterwards counts nowhere",
)
TRAIN_ENERGY_J = _define(
    "train_energy_j", "J", "phase", better="lower", display="J",
    meaning="the device's energy counter (NVML, RAPL; a GPU without one has its power polled every 50 ms) over the "
    "compute windows, minus its idle power; null with the reason if there is neither",
)
MEMORY_BYTES = _define(
    "memory_bytes", "B", "phase", "batch", "length", "variant", better="lower", display="B",
    meaning='`{"part": ...}`: weights, gradients, optimizer state, and activations (tensors the graph saves in a '
    "forward pass, except weights), and under bf16 autocast's copies of weights, counted storage by storage; in "
    "training runs for the largest batch. A profile measures each method in a fresh process",
)
PHASE_S = _define(
    "phase_s", "s", "phase", display="s",
    meaning="seconds by phase: startup (process creation, imports), load, tokenise, forward, backward, optimizer, "
    "data_wait, logging, validation, checkpoint, test, score (metrics), count_flops, footprint, profile, and the "
    "rest as `unattributed`; they add up to `wall_s`",
)
WALL_S = _define(
    "wall_s", "s", display="s",
    meaning="from the start of the process to its last event; of a resumed run, plus the time until its checkpoint",
)

# Inference.
LATENCY_S = _define(
    "latency_s", "s", "statistic", "phase", "batch", "length", "dtype", "variant", "task", better="lower", display="s",
    meaning="p50, p95, p99 of a forward pass of encoder and head (of rows: a choice or a window each), dropout off, "
    "weights in the run's precision (cast once), random tokens without padding, at `latency_batches` x "
    "`latency_length` (or each of `latency_lengths`), and on test examples in their own lengths (length 0, "
    '`{"lengths": "real"}`); statistics `p50_low`, `p50_high` are the 95 % interval of the median by order '
    "statistics; after 3 warm-up passes, a time budget with at least 5 samples; p99 is null below 200 samples",
)
THROUGHPUT = _define(
    "throughput_samples_per_s", "1/s", "statistic", "phase", "batch", "length", "dtype", "variant", "task",
    better="higher", display="1/s",
    meaning="batch / p50 of `latency_s`",
)
THROUGHPUT_SATURATED = _define_for_profiles(
    "throughput_saturated_samples_per_s", "1/s", "length", "variant", better="higher", display="1/s",
    meaning="the same at the batch size beyond which doubling gains less than 5 %",
)

# Profiles: several methods on one model, interleaved.
STEP_RATIO = _define_for_profiles(
    "step_ratio", "1", "statistic", "phase", "batch", "length", "dtype", "variant", better="lower",
    meaning="statistics `ratio`, `low`, `high`: the paired ratio of a training step to that of the reference named in "
    "`variant`",
)
LATENCY_RATIO = _define_for_profiles(
    "latency_ratio", "1", "statistic", "phase", "batch", "length", "dtype", "variant", better="lower",
    meaning="the same for a forward pass",
)
ENERGY_RATIO = _define_for_profiles(
    "energy_ratio", "1", "statistic", "phase", "batch", "length", "dtype", "variant", better="lower",
    meaning="the same for the energy of a training step",
)
STEP_ENERGY_J = _define_for_profiles(
    "step_energy_j", "J", "phase", "batch", "length", "dtype", "variant", better="lower", display="J",
    meaning="energy of a training step, measured as `train_energy_j`",
)
STEP_FLOPS = _define_for_profiles(
    "step_flops", "1", "phase", "batch", "length", "dtype", "variant", better="lower", display="FLOPs",
    meaning="FLOPs of a training step, counted as `train_flops`; phases forward and backward",
)
FLOPS_UNCOUNTED = _define(
    "flops_uncounted_operations", "1", "variant", "task",
    meaning="operations that may contain products the counter does not know, named in `reason`; a profile marks the "
    "row with `!`",
)
ACHIEVED_FLOPS = _define_for_profiles(
    "achieved_flops_per_s", "1/s", "batch", "length", "dtype", "variant", better="higher",
    meaning="FLOPs of a step / its median time",
)
FLOPS_UTILISATION = _define_for_profiles(
    "flops_utilisation", "1", "batch", "length", "dtype", "variant", better="higher", display="%",
    meaning="`achieved_flops_per_s` / `ceiling_matmul_flops_per_s`",
)
PEAK_MATMUL = _define_for_profiles(
    "ceiling_matmul_flops_per_s", "1/s", "dtype", better="higher",
    meaning="the device's peak: the fastest of many products of square matrices, measured in the same run; `adapeff "
    "doctor --bench` prints it",
)
PEAK_COPY = _define_for_profiles(
    "ceiling_copy_bytes_per_s", "B/s", "dtype", better="higher",
    meaning="the same for many memory copies",
)
COMPILE_S = _define_for_profiles(
    "compile_s", "s", "phase", "batch", "length", "dtype", "variant", better="lower", display="s",
    meaning="with `compile: true`: the first step or forward pass of a shape, in which torch.compile compiles it",
)
LARGEST_BATCH = _define_for_profiles(
    "largest_batch", "1", "length", "variant", better="higher",
    meaning="the largest batch, to an eighth, whose step stays below `memory_limit`, each try in a fresh process; on "
    "demand",
)

# The machine around a run.
DISTURBANCE = _define(
    "disturbance", "1", "phase", "batch", "length", "dtype", "variant", better="lower",
    meaning="number of known disturbances of the times of a phase, named in `reason`: other processes "
    "using more than 5 % of the cores' time, steal over 2 %, a CPU quota that throttled the run (cgroup), throttled "
    "clocks and other processes on the GPU (polled four times a second), samples that spread by more than 25 % or "
    "drift by more than 5 %",
)
FOREIGN_CPU_SHARE = _define(
    "foreign_cpu_share", "1", "phase", better="lower", display="%",
    meaning="share of the cores' time used by other processes",
)
STEAL_SHARE = _define(
    "steal_share", "1", "phase", better="lower", display="%",
    meaning="share of the time that the hypervisor withheld (steal)",
)
LOAD_AVERAGE_1M = _define(
    "load_average_1m", "1", "phase", better="lower",
    meaning="the machine's load when the run started and before the latency measurement: a reason to doubt its times",
)
# fmt: on

MEASUREMENTS: Mapping[str, Definition] = _registry


def report_columns() -> Iterator[tuple[Definition, ReportColumn]]:
    """The definitions with a column of the report, in order."""
    for definition in MEASUREMENTS.values():
        if definition.column is not None:
            yield definition, definition.column


def changed_versions(kind: Literal["train", "profile"]) -> dict[str, dict[str, int]]:
    """What a run of a kind records: under `measurement_versions`, its definitions changed since their first version.

    Empty if there are none, so that a run of an earlier release is like one of today.
    """
    versions = {
        definition.name: definition.version
        for definition in MEASUREMENTS.values()
        if definition.version != 1 and (kind == "profile" or not definition.only_in_profiles)
    }
    return {"measurement_versions": versions} if versions else {}


def measurement_table() -> str:
    """The table of docs/measurements.md."""
    rows = [f"| `{d.name}` | {d.unit} | {d.better or '–'} | {d.meaning} |" for d in MEASUREMENTS.values()]
    return "\n".join(["| name | unit | better | definition |", "| --- | --- | --- | --- |", *rows]) + "\n"
