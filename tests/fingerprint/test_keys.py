from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import (
    Experiment,
    Generation,
    Launcher,
    Lora,
    Prompt,
    Training,
    load_experiment,
)
from pytest_finetune.fingerprint import (
    ABSENT,
    BaseDigest,
    Key,
    adapter_digest,
    adapter_key,
    model_digest,
    outputs_key,
    package_versions,
)

BASE = BaseDigest("w" * 64, "t" * 64, "c" * 64, "f" * 64, "g" * 64, "0" * 64)
ENVIRONMENT = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "trl": "1.16.0",
    "bitsandbytes": "0.50.2",
}
PAIRS = (("Ticket: A\nAnswer:", " high"), ("Ticket: B\nAnswer:", " low"))

CHANGES_WEIGHTS = {"peft_method", "quantization", "lora", "training", "prompt", "attn_implementation"}
CHANGES_NO_WEIGHTS = {
    "name",
    "file",
    "root",
    "task",
    "base_model",  # a name; what lies behind it counts by its digest
    "revision",
    "trust_remote_code",  # the code that is trusted counts by its digest
    "generation",
    "runtimes",
    "runtime_settings",
    "arms",
    "trained",
    "drift",  # prompts that are asked after the training
    "paths",  # rows count as formatted
    "decision",
    "executor",  # where a step runs; what it found there counts by its versions and its card
    "charter",
    "overrides",
    "resolved",
    "split",  # rows count as formatted: those that are left, and those that are chosen on
}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "finetune.yaml").write_text(
        "base_model: models/tiny\npeft_method: lora\nlora: {r: 4}\ntraining: {max_steps: 3}\n"
        "paths: {train_file: train.jsonl, eval_file: check.jsonl}\n"
    )
    for name in ("train.jsonl", "check.jsonl"):
        (tmp_path / name).write_text("")
    return load_experiment(tmp_path, "finetune.yaml")


def key(experiment: Experiment, **changes: Any) -> Key:
    arguments: dict[str, Any] = {
        "pairs": PAIRS,
        "base": BASE,
        "environment": ENVIRONMENT,
        "device_class": "cpu",
        "dtype": "float32",
    }
    return adapter_key(experiment, **(arguments | changes))


def other(value: object) -> Any:
    """A different value of the same kind."""
    if isinstance(value, Launcher):
        return Launcher(processes=value.processes + 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, Mapping):
        return {**value, "adam_beta1": 0.5}
    return 7 if value is None else f"other-{value}"


def test_every_field_of_an_experiment_is_classified() -> None:
    assert {field.name for field in dataclasses.fields(Experiment)} == CHANGES_WEIGHTS | CHANGES_NO_WEIGHTS


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Lora)])
def test_every_value_of_the_adapter_configuration_changes_the_key(experiment: Experiment, name: str) -> None:
    changed = dataclasses.replace(experiment.lora, **{name: other(getattr(experiment.lora, name))})
    assert key(dataclasses.replace(experiment, lora=changed)) != key(experiment)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Training)])
def test_every_training_value_changes_the_key_but_what_is_kept_and_what_the_pairs_show(
    experiment: Experiment, name: str
) -> None:
    changed = dataclasses.replace(experiment.training, **{name: other(getattr(experiment.training, name))})
    same = key(dataclasses.replace(experiment, training=changed)) == key(experiment)
    # What is replayed has a field of its own, and an adapter has one seed.
    assert same == (name in {"save_total_limit", "assistant_turns", "replay", "seeds"})


def test_the_rows_that_an_adapter_is_chosen_on_are_in_its_key(experiment: Experiment) -> None:
    assert "keep" not in key(experiment).fields["training"]
    best = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, keep="best"))
    keys = {key(experiment), key(best, dev=PAIRS[:1]), key(best, dev=PAIRS[1:])}
    assert len(keys) == 3


def test_the_launcher_is_in_the_key_for_several_processes_and_not_for_one(experiment: Experiment) -> None:
    def launched(processes: int) -> Key:
        training = dataclasses.replace(experiment.training, launcher=Launcher(processes))
        return key(dataclasses.replace(experiment, training=training))

    assert "launcher" not in key(experiment).fields["training"]
    assert launched(1) == key(experiment)
    assert launched(2).fields["training"]["launcher"] == {"processes": 2}
    assert len({launched(1), launched(2), launched(4)}) == 3
    assert launched(2).semantic() != launched(1).semantic()  # another order of sums on every machine


@pytest.mark.parametrize("name", ["peft_method", "quantization"])
def test_the_method_changes_the_key(experiment: Experiment, name: str) -> None:
    assert key(dataclasses.replace(experiment, **{name: other("method")})) != key(experiment)


def test_the_attention_is_in_the_key_once_it_is_asked_for(experiment: Experiment) -> None:
    assert "attn_implementation" not in key(experiment).fields
    asked = {
        key(dataclasses.replace(experiment, attn_implementation=name)) for name in (None, "eager", "sdpa")
    }
    assert len(asked) == 3


def test_the_template_changes_the_key_and_the_number_of_shots_does_not(experiment: Experiment) -> None:
    template = experiment.prompt.template
    assert key(dataclasses.replace(experiment, prompt=Prompt(template + " "))) != key(experiment)
    assert key(dataclasses.replace(experiment, prompt=Prompt(template, few_shot=9))) == key(experiment)


@pytest.mark.parametrize("name", sorted(CHANGES_NO_WEIGHTS))
def test_what_changes_no_weight_leaves_the_key_alone(experiment: Experiment, name: str) -> None:
    assert key(dataclasses.replace(experiment, **{name: other("value")})) == key(experiment)


@pytest.mark.parametrize(
    "pairs",
    [
        PAIRS[:1],
        PAIRS[::-1],
        (*PAIRS, PAIRS[0]),
        ((PAIRS[0][0] + "\n", PAIRS[0][1]), PAIRS[1]),
        ((PAIRS[0][0], PAIRS[0][1].strip()), PAIRS[1]),
        (([{"role": "user", "content": PAIRS[0][0]}], PAIRS[0][1]), PAIRS[1]),
    ],
    ids=["one less", "another order", "one twice", "prompt", "completion", "as messages"],
)
def test_the_rows_as_formatted_change_the_key(experiment: Experiment, pairs: object) -> None:
    assert key(experiment, pairs=pairs) != key(experiment)


@pytest.mark.parametrize("part", ["weights", "tokenizer", "template", "config", "code"])
def test_each_part_of_the_base_changes_the_key(experiment: Experiment, part: str) -> None:
    assert key(experiment, base=dataclasses.replace(BASE, **{part: "1" * 64})) != key(experiment)


def test_the_default_decoding_of_the_base_changes_answers_and_no_weight(experiment: Experiment) -> None:
    changed = dataclasses.replace(BASE, generation="1" * 64)
    assert key(experiment, base=changed) == key(experiment)
    assert model_digest(changed) != model_digest(BASE)


@pytest.mark.parametrize("package", sorted(ENVIRONMENT))
def test_the_version_of_each_package_changes_the_key(experiment: Experiment, package: str) -> None:
    assert key(experiment, environment={**ENVIRONMENT, package: "9"}) != key(experiment)
    without = {name: version for name, version in ENVIRONMENT.items() if name != package}
    assert key(experiment, environment=without) != key(experiment)


def test_other_packages_leave_the_key_alone(experiment: Experiment) -> None:
    assert key(experiment, environment={**ENVIRONMENT, "pytest": "9.2"}) == key(experiment)


@pytest.mark.parametrize(
    "change", [{"device_class": "cuda"}, {"dtype": "bfloat16"}, {"trainer": "unsloth 2026.1"}]
)
def test_device_dtype_and_trainer_change_the_key(experiment: Experiment, change: dict[str, str]) -> None:
    assert key(experiment, **change) != key(experiment)


def test_the_semantic_key_is_the_same_on_every_machine(experiment: Experiment) -> None:
    here = key(experiment)
    there = key(experiment, environment={"torch": "3.0"}, device_class="cuda", dtype="bfloat16")
    assert here != there
    assert here.semantic() == there.semantic()
    assert key(experiment, pairs=PAIRS[:1]).semantic() != here.semantic()


def test_it_says_field_by_field_why_two_keys_differ(experiment: Experiment) -> None:
    before = key(experiment)
    lora = dataclasses.replace(experiment.lora, r=16, target_modules=("q_proj",))
    after = key(dataclasses.replace(experiment, lora=lora), environment={**ENVIRONMENT, "peft": "0.22"})
    assert after.differs_from(before.fields) == {
        "environment.peft": ("0.21.2", "0.22"),
        "lora.r": (4, 16),
        "lora.target_modules": ("all-linear", ["q_proj"]),
    }
    assert before.differs_from(json.loads(json.dumps(before.fields))) == {}


def test_a_field_that_one_side_lacks_is_shown_as_absent() -> None:
    new = Key.of({"training": {"seed": 0, "sft": {"neftune": 5, "steps": None}}})
    old = {"training": {"seed": 0.0, "sft": {}}, "schema": 0}
    assert new.differs_from(old) == {
        "schema": (0, ABSENT),
        "training.sft": ({}, ABSENT),
        "training.sft.neftune": (ABSENT, 5),
        "training.sft.steps": (ABSENT, None),
    }


def test_a_key_is_its_digest() -> None:
    assert str(Key.of({"a": 1})) == Key.of({"a": 1}).value
    assert len(Key.of({"a": 1}).value) == 64
    assert {Key.of({"a": 1}), Key.of({"a": 1.0})} == {Key.of({"a": 1})}


PROMPTS = ("one", "two")
GREEDY = Generation()


def test_answers_depend_on_model_prompts_runtime_and_environment() -> None:
    keys = {
        outputs_key("m", PROMPTS, GREEDY, "transformers", ENVIRONMENT),
        outputs_key("n", PROMPTS, GREEDY, "transformers", ENVIRONMENT),
        outputs_key("m", PROMPTS[::-1], GREEDY, "transformers", ENVIRONMENT),
        outputs_key("m", PROMPTS[:1], GREEDY, "transformers", ENVIRONMENT),
        outputs_key("m", PROMPTS, GREEDY, "vllm", ENVIRONMENT),
        outputs_key("m", PROMPTS, GREEDY, "transformers", {**ENVIRONMENT, "device": "cuda"}),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Generation)])
def test_sampling_settings_count_only_when_there_is_sampling(name: str) -> None:
    for sampling in (False, True):
        before = dataclasses.replace(GREEDY, do_sample=sampling)
        after = dataclasses.replace(before, **{name: other(getattr(before, name))})
        same = outputs_key("m", PROMPTS, before, "t", {}) == outputs_key("m", PROMPTS, after, "t", {})
        assert same == (not sampling and name in {"temperature", "top_p", "seed"})


def write_adapter(folder: Path, weights: bytes, config: Mapping[str, object]) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_digest_of_an_adapter_ignores_what_peft_writes_at_random(tmp_path: Path) -> None:
    one = write_adapter(
        tmp_path / "one", b"w", {"r": 8, "target_modules": ["q", "v"], "base_model_name_or_path": "/here"}
    )
    two = write_adapter(
        tmp_path / "two", b"w", {"target_modules": ["v", "q"], "base_model_name_or_path": "/there", "r": 8}
    )
    (two / "README.md").write_text("a card")
    assert adapter_digest(one) == adapter_digest(two)


@pytest.mark.parametrize(
    ("weights", "config"),
    [(b"x", {"r": 8, "target_modules": ["q"]}), (b"w", {"r": 9, "target_modules": ["q"]}), (b"w", {"r": 8})],
)
def test_the_digest_of_an_adapter_follows_weights_and_configuration(
    tmp_path: Path, weights: bytes, config: dict[str, object]
) -> None:
    before = write_adapter(tmp_path / "one", b"w", {"r": 8, "target_modules": ["q"]})
    assert adapter_digest(write_adapter(tmp_path / "two", weights, config)) != adapter_digest(before)


def test_the_model_that_answers_is_base_quantization_and_adapter(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "one", b"w", {"r": 8})
    digests = {
        model_digest(BASE),
        model_digest(BASE, quantization="nf4"),
        model_digest(BASE, adapter),
        model_digest(dataclasses.replace(BASE, weights="1" * 64), adapter),
    }
    assert len(digests) == 4


def test_a_folder_without_weights_has_no_adapter_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors file"):
        adapter_digest(tmp_path)


def test_versions_are_read_without_importing_the_packages() -> None:
    code = (
        "import sys; from pytest_finetune.fingerprint import package_versions; v = package_versions();"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(sorted(v), v['torch'])"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    torch = "2." if importlib.util.find_spec("torch") else ABSENT
    assert printed.stdout.startswith(f"['bitsandbytes', 'peft', 'torch', 'transformers', 'trl'] {torch}")


def test_a_package_that_is_not_installed_is_absent() -> None:
    assert package_versions(["pytest", "no-such-package-at-all"])["no-such-package-at-all"] == ABSENT
