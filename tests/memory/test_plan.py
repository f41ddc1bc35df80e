from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Experiment, Launcher, load_experiment
from pytest_finetune.memory.hardware.cards import TURING
from pytest_finetune.memory.hardware.detect import Budget, detect, expandable_segments, parse_budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.memory.plan.explain import as_json
from pytest_finetune.memory.plan.figures import Figures, Held, PlanError
from pytest_finetune.memory.plan.plan import MemoryPlan, for_family, plan_memory, workload_of
from pytest_finetune.memory.plan.planner import Planner, plan_key
from pytest_finetune.memory.plan.remedies import changes
from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.store import Store
from pytest_finetune.wording import size
from tests.tracing import trace_here

EXPERIMENT = """
base_model: model
peft_method: lora
lora: {r: 4}
training: {max_seq_length: 64, per_device_train_batch_size: 2}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""


@pytest.fixture
def _traced_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", trace_here)


@pytest.fixture
def experiment(tmp_path: Path, shallow_config: Mapping[str, Any]) -> Experiment:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(shallow_config))
    (tmp_path / "finetune.yaml").write_text(EXPERIMENT)
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "eval.jsonl").touch()
    return load_experiment(tmp_path, "finetune.yaml")


def test_a_folder_with_only_a_config_is_planned_and_the_second_time_read_back(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan_memory(experiment, 48, Planner(Store(tmp_path / "store")))
    assert first.tokens == 48
    assert 0 < first.allocated_bytes <= first.reserved_bytes < first.peak_bytes < 2 * GiB
    assert sum(first.breakdown.values()) == first.peak_bytes
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", _must_not_run)
    again = plan_memory(experiment, 48, Planner(Store(tmp_path / "store")))
    planner, budget = Planner(None), parse_budget("8GiB")
    assert as_json(again, budget, planner) == as_json(first, budget, planner)


def _must_not_run(*arguments: object) -> None:
    raise AssertionError("a stored plan was traced again")


def figures(*, allocated: int, reserved: int, smallest: int) -> Figures:
    held = Held(allocated, reserved, smallest)
    return Figures(
        held={8320 * 1024: held, 32 * MiB: held},
        parts={
            "frozen weights": allocated // 2,
            "activations": allocated - allocated // 2 - 64 * MiB,
            "workspaces": 64 * MiB,
        },
        phase="backward",
        layer=3,
        phases={},
        parameters=10,
        trainable=1,
        resident=allocated // 2,
        traced_layers=4,
        layers=4,
    )


@pytest.fixture
def plan(shallow_config: Mapping[str, Any]) -> MemoryPlan:
    """A plan that allocates 10 GiB, reserves 12 and survives in 11; the context adds 600 MiB."""
    return MemoryPlan(
        Workload(config=shallow_config, tokens=512, batch=8),
        figures(allocated=10 * GiB, reserved=12 * GiB, smallest=11 * GiB),
        411,
    )


def test_the_verdict_has_three_values(plan: MemoryPlan) -> None:
    context = 600 * MiB
    assert plan.verdict(12 * GiB + context) == "fits"
    assert plan.verdict(11 * GiB + context) == "tight"
    assert plan.verdict(11 * GiB + context - 1) == "does not fit"


def test_a_plan_compares_with_a_budget_and_with_bytes(plan: MemoryPlan) -> None:
    assert plan <= parse_budget("24GiB")
    assert plan <= 24 * GiB
    assert not plan <= 8 * GiB
    assert plan.peak_bytes <= 13 * GiB


def test_headroom_counts(plan: MemoryPlan) -> None:
    assert plan <= parse_budget("13GiB", headroom=0.0)
    assert not plan <= parse_budget("13GiB", headroom=0.2)


def test_ram_is_not_compared_with(plan: MemoryPlan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="not compared: this machine has no accelerator"):
        _ = plan <= detect("cpu", tmp_path)


@pytest.mark.usefixtures("_traced_here")
def test_a_plan_holds_no_planner_and_an_answer_starts_no_process(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = Planner(Store(tmp_path / "store"))
    bare, t4 = plan_memory(experiment, 48, planner), parse_budget("t4")
    plan = plan_memory(experiment, 48, planner, families=(t4.family,))
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", _must_not_run)
    assert plan <= t4
    assert plan.on(t4.family).workload.attention == "efficient"
    with pytest.raises(
        PlanError, match="not compared: the step was not planned for the kernels of Turing cards"
    ):
        _ = bare <= t4
    held = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    assert not [name for name, value in held.items() if isinstance(value, Planner)]


def test_other_things_are_not_budgets(plan: MemoryPlan) -> None:
    with pytest.raises(TypeError):
        _ = plan <= "8GiB"  # type: ignore[operator]


def test_the_breakdown_adds_up_to_the_peak(plan: MemoryPlan) -> None:
    assert sum(plan.breakdown.values()) == plan.peak_bytes


def test_a_missing_config_is_named(tmp_path: Path, experiment: Experiment) -> None:
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(PlanError, match=r"config\.json.* is missing"):
        plan_memory(experiment, 48, Planner(None))


@pytest.mark.usefixtures("_traced_here")
def test_an_unknown_architecture_is_named(tmp_path: Path, experiment: Experiment) -> None:
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama9"}))
    with pytest.raises(PlanError, match="'llama9' is not an architecture"):
        plan_memory(experiment, 48, Planner(None))


def test_a_plan_prints_in_one_line(plan: MemoryPlan) -> None:
    assert repr(plan) == "predicted peak 12.6 GiB (batch 8, 512 tokens)"


def test_packed_rows_are_one_long_sequence_with_a_mask(experiment: Experiment) -> None:
    packed = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, packing=True))
    workload, (note,) = workload_of(packed, 20)
    assert (workload.tokens, workload.batch, workload.masked) == (128, 1, True)
    assert note == "rows are packed: 2 x 64 tokens are one sequence of 128"


@pytest.mark.parametrize(
    ("longest", "tokens", "note"),
    [
        (48, 48, "planned for the longest row that training sees, 48 tokens"),
        (999, 64, "planned for the longest row that training sees, 64 tokens"),
        (None, 64, "the rows' lengths are not known: planned for max_seq_length 64"),
    ],
)
def test_the_traced_length_is_what_training_sees(
    longest: int | None, tokens: int, note: str, experiment: Experiment
) -> None:
    workload, notes = workload_of(experiment, longest)
    assert (workload.tokens, notes) == (tokens, (note,))


def test_a_quantised_base_keeps_narrow_adapters(tmp_path: Path, experiment: Experiment) -> None:
    workload, _ = workload_of(dataclasses.replace(experiment, peft_method="qlora", quantization="nf4"), 48)
    assert workload.adapter is not None
    assert (workload.quantization, workload.adapter.dtype) == ("nf4", "bfloat16")


@pytest.mark.usefixtures("_traced_here")
def test_several_processes_are_planned_by_the_share_of_each(experiment: Experiment, tmp_path: Path) -> None:
    training = dataclasses.replace(experiment.training, gradient_accumulation_steps=2, launcher=Launcher(4))
    launched = dataclasses.replace(experiment, training=training)
    workload, _ = workload_of(launched, 48)
    assert (workload.batch, workload.accumulation) == (1, 1)
    plan = plan_memory(launched, 48, Planner(Store(tmp_path / "store")))
    assert plan.processes == 4
    copy = size(4 * plan.figures.trainable)
    assert plan.notes[1] == (
        "planned for each of 4 processes, a card each; the copy of the gradients that they exchange "
        f"({copy} in float32) comes on top"
    )
    assert not any(
        "processes" in note for note in plan_memory(experiment, 48, Planner(Store(tmp_path / "store"))).notes
    )


@pytest.mark.usefixtures("_traced_here")
def test_the_disk_is_planned_with_the_memory(experiment: Experiment, tmp_path: Path) -> None:
    plan = plan_memory(experiment, 48, Planner(Store(tmp_path / "store")))
    assert plan.disk is not None
    assert plan.disk <= detect("cpu", tmp_path)
    assert plan.disk.kept == 2


def test_a_quantisation_that_the_device_cannot_run_is_named(plan: MemoryPlan) -> None:
    apple = Budget("Apple GPU", "mps", 64 * GiB, 64 * GiB)
    assert plan <= apple
    with pytest.raises(PlanError, match=r"quantization 'nf4' needs .* Apple GPU cannot run"):
        dataclasses.replace(plan, workload=plan.workload.changed(quantization="nf4")).verdict(apple)


@pytest.mark.usefixtures("_traced_here")
def test_full_fine_tuning_keeps_every_weight_its_gradient_and_two_moments_in_float32(
    experiment: Experiment, tmp_path: Path
) -> None:
    full = dataclasses.replace(experiment, peft_method="full")
    workload, _ = workload_of(full, 48)
    assert (workload.adapter, workload.dtype, workload.autocast) == (None, "float32", "bfloat16")
    assert for_family(workload, TURING).autocast == "float16"
    plan = plan_memory(full, 48, Planner(Store(tmp_path / "store")))
    assert plan.figures.trainable == plan.figures.parameters
    parts = plan.figures.parts
    weights = 4 * plan.figures.parameters
    assert parts["optimizer"] >= 2 * weights
    assert plan.disk is not None
    assert plan.disk.checkpoint_bytes > 3 * weights
    offered = [change.words for ladder in changes(workload, 48) for change in ladder]
    assert "peft_method lora" in offered
    assert "peft_method qlora" in offered


@pytest.mark.usefixtures("_traced_here")
def test_expandable_segments_are_replayed_when_the_allocator_is_asked_for_them(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512, expandable_segments:True")
    assert expandable_segments()
    plan = plan_memory(experiment, 48, Planner(None), expandable_segments=True)
    assert plan.workload.expandable_segments
    assert plan.notes[-1] == "replayed with expandable segments, as PYTORCH_ALLOC_CONF asks for"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:False")
    assert not expandable_segments()


def test_a_trainer_argument_that_the_plan_does_not_follow_is_named(experiment: Experiment) -> None:
    training = dataclasses.replace(
        experiment.training, sft={"label_smoothing_factor": 0.1, "loss_type": "nll"}
    )
    _, notes = workload_of(dataclasses.replace(experiment, training=training), 48)
    assert notes[1:] == ("training.sft.label_smoothing_factor is not followed by the plan",)


@pytest.mark.parametrize("spelling", ["Infinity", '{"__float__": "Infinity"}'])
def test_a_configuration_may_hold_an_infinite_number(experiment: Experiment, spelling: str) -> None:
    file = experiment.root / "model" / "config.json"
    file.write_text(file.read_text().replace("{", f'{{"time_step_limit": [0.0, {spelling}], ', 1))
    workload = workload_of(experiment, 48)[0]
    assert workload.config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert plan_key(Workload.from_json(json.loads(json.dumps(workload.as_json(), allow_nan=False))))


def quantised(experiment: Experiment, settings: Mapping[str, Any], **changes: Any) -> Experiment:
    file = experiment.root / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": settings}))
    return dataclasses.replace(experiment, **changes)


def test_the_plan_of_a_base_that_is_stored_quantised_is_that_of_what_is_loaded(
    experiment: Experiment,
) -> None:
    plain = workload_of(experiment, 48)[0]
    eight, notes = workload_of(quantised(experiment, {"quant_method": "fp8"}), 48)
    assert eight == plain.changed(config=eight.config)
    offered = [change.note for ladder in changes(eight, 48) for change in ladder]
    assert any(note.endswith("name the model that this base was made from") for note in offered)
    assert notes[1] == "the base is stored in fp8 by itself, and planned as it is loaded: in plain weights"
    four = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": False}
    stored = workload_of(quantised(experiment, four, peft_method="qlora", quantization="nf4"), 48)[0]
    assert (stored.quantization, stored.double_quant) == ("nf4", False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "write peft_method: qlora"),
        ({"quant_method": "gptq", "bits": 4}, "is stored in gptq, on which nothing is trained here"),
    ],
)
def test_what_cannot_be_trained_on_is_not_planned(
    experiment: Experiment, settings: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=f"base model: 'model' .*{said}"):
        workload_of(quantised(experiment, settings), 48)


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        (None, ("flash", True)),
        ("sdpa", ("flash", True)),
        ("eager", ("eager", True)),
        ("flash_attention_2", ("flash_only", False)),
    ],
)
def test_the_attention_that_was_asked_for_is_planned(
    experiment: Experiment, asked: str | None, planned: tuple[str, bool]
) -> None:
    workload = workload_of(dataclasses.replace(experiment, attn_implementation=asked), 48)[0]
    assert (workload.attention, workload.masked) == planned


def test_a_base_whose_files_are_not_its_model_is_not_planned_and_asked_once(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fingerprint.test_folder import save

    model = experiment.root / "model"
    (model / "tokenizer.json").write_text("{}")
    config = {**json.loads((model / "config.json").read_text()), "num_hidden_layers": 2}
    (model / "config.json").write_text(json.dumps(config))
    layer = {"self_attn.q_proj.weight": (64, 64), "self_attn.q_proj.bias": (64,)}
    save(
        model / "model.safetensors",
        {"model.embed_tokens.weight": (512, 64), "model.norm.weight": (60,)}
        | {f"model.layers.0.{name}": shape for name, shape in layer.items()},
    )
    store = Store(tmp_path / "store")
    with pytest.raises(PlanError) as refusal:
        plan_memory(experiment, 48, Planner(store))
    assert str(refusal.value) == (
        "base model: 'model': 1 of 21 tensors have another shape in the files than in the model of its config.json "
        "(model.norm.weight: [60] and [64]); 17 of 21 tensors are not in the files "
        "(model.layers.0.input_layernorm.weight, model.layers.0.mlp.down_proj.weight, "
        "model.layers.0.mlp.gate_proj.weight and 14 more), and transformers would fill them with random numbers; the "
        "model of its config.json has no place for 1 tensor of the files (model.layers.0.self_attn.q_proj.bias), which "
        "would be left out: take config.json and weights of the same model"
    )
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", _must_not_run)
    with pytest.raises(PlanError, match="17 of 21 tensors are not in the files"):
        plan_memory(experiment, 48, Planner(store))
