"""What can be known without a model is said before anything is loaded, under plain pytest too."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.data.test_tokens import save_tokenizer

from .conftest import Project, make_project

WEIGHTS = {
    "model.embed_tokens.weight": (40, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.v_proj.weight": (4, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 4),
    "model.norm.weight": (4,),
}


def tensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Return the bytes of a safetensors file of zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for part in shape:
            size *= part
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.fixture
def built_in(project: Project) -> Project:
    """A project whose trainer is ours, on a base that is whole."""
    conftest = (project.path / "conftest.py").read_text()
    project.write(
        {
            "conftest.py": conftest.replace("def pytest_finetune_train", "def not_a_hook"),
            "base/tokenizer.json": "{}",
            "base/tokenizer_config.json": "{}",
        }
    )
    (project.path / "base" / "model.safetensors").write_bytes(tensors(WEIGHTS))
    return project


def change(project: Project, old: str, new: str) -> None:
    text = (project.path / "finetune.yaml").read_text()
    assert old in text
    project.write({"finetune.yaml": text.replace(old, new)})


def typo(project: Project) -> None:
    change(project, "lora: {r: 4}", "lora: {r: 4, target_modules: [q_proj, v_prj, gate]}")


def tied(project: Project) -> None:
    change(project, "lora: {r: 4}", "lora: {r: 4, target_modules: [q_proj, embed_tokens]}")
    project.write({"base/config.json": '{"model_type": "llama", "tie_word_embeddings": true}'})


def argument(project: Project) -> None:
    change(project, "{num_train_epochs: 1}", "{num_train_epochs: 1, sft: {weight_decy: 0.1}}")


def ours(project: Project) -> None:
    change(project, "{num_train_epochs: 1}", "{num_train_epochs: 1, sft: {report_to: wandb}}")


def no_template(project: Project) -> None:
    change(project, 'template: "{input} ->"', "template: chat")


def no_tokenizer(project: Project) -> None:
    for file in (project.path / "base").glob("tokenizer*"):
        file.unlink()


def no_weights(project: Project) -> None:
    (project.path / "base" / "model.safetensors").unlink()


def from_a_wrapper(project: Project) -> None:
    named = {f"base_model.model.{name}": shape for name, shape in WEIGHTS.items()}
    (project.path / "base" / "model.safetensors").write_bytes(tensors(named))


def in_four_bits(project: Project) -> None:
    four = '{"quant_method": "bitsandbytes", "load_in_4bit": true}'
    project.write({"base/config.json": f'{{"model_type": "llama", "quantization_config": {four}}}'})


@pytest.mark.parametrize("flags", [(), ("--finetune",)], ids=["plain", "finetune"])
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            from_a_wrapper,
            "finetune.yaml:2: base_model: base model: '*base' was saved from a wrapper (PEFT): 5 of 5 tensors begin",
        ),
        (
            in_four_bits,
            "finetune.yaml:2: base_model: 'base' is stored in bitsandbytes 4-bit, and peft_method: lora needs the base",
        ),
        (
            typo,
            "finetune.yaml:4: lora.target_modules: found 'v_prj' (did you mean 'v_proj'?), 'gate', but 'base' has no "
            "such module; it has down_proj, q_proj, v_proj (or all-linear)",
        ),
        (
            tied,
            "finetune.yaml:4: lora.target_modules: found 'embed_tokens', which this base also uses as its output layer",
        ),
        (
            argument,
            "finetune.yaml:5: training.sft.weight_decy: SFTConfig has no such argument; did you mean 'weight_decay'?",
        ),
        (
            ours,
            "finetune.yaml:5: training.sft.report_to: not to be set here: a training sends nothing anywhere; "
            "the record holds its log",
        ),
        (
            no_template,
            "finetune.yaml:6: prompt.template: 'chat' needs a chat template, and the tokenizer of 'base'",
        ),
        (no_tokenizer, "finetune.yaml:2: base_model: base model: '*base' has no tokenizer (tokenizer.json, "),
        (
            no_weights,
            "finetune.yaml:2: base_model: base model: '*base' has no weights: no *.safetensors file in it",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_training_that_cannot_be_is_refused_before_it(
    built_in: Project, mistake: Callable[[Project], None], said: str, flags: tuple[str, ...]
) -> None:
    mistake(built_in)
    result = built_in.run(*flags)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"{said.replace('[', '[[]')}*"])
    assert built_in.calls() == []
    outcomes = result.parseoutcomes()
    assert outcomes["errors"] == (4 if flags else 1)


@pytest.mark.parametrize(
    "fetch_later",
    [
        lambda project: change(project, "base_model: base", "base_model: org/not-fetched"),
        lambda project: [
            file.unlink() for file in (project.path / "base").iterdir() if file.name != "config.json"
        ],
        lambda project: change(project, "lora: {r: 4}", "lora: {r: 4, target_modules: '.*_prj'}"),
        lambda project: change(
            project, "lora: {r: 4}", "lora: {r: 4, target_modules: [self_attn.q_proj, mlp]}"
        ),
    ],
    ids=["not fetched", "only configured", "expression", "last parts"],
)
def test_what_is_not_certain_is_not_said(built_in: Project, fetch_later: Callable[[Project], Any]) -> None:
    fetch_later(built_in)
    assert built_in.run().ret == 0


def test_another_trainer_says_itself_what_it_needs(project: Project) -> None:
    typo(project)
    argument(project)
    assert project.run("--finetune").ret == 0


def test_an_override_is_named_as_it_was_written(built_in: Project) -> None:
    result = built_in.run("--finetune-set", "lora.target_modules=[q_prj]")
    result.stdout.fnmatch_lines(
        ["--finetune-set lora.target_modules=[[]'q_prj'[]]: found 'q_prj' (did you mean*"]
    )


TWO = "@pytest.mark.eval_rule(primary=True, min_rate=0.9)"
SHARE = "@pytest.mark.eval_rule(min_rate=95)"
NONE = "@pytest.mark.eval_rule(min_gain=0.1)"


@pytest.mark.parametrize("flags", [(), ("--finetune",)], ids=["plain", "finetune"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "@pytest.mark.eval_rule(min_rate=0.9)",
            TWO,
            "2 rules are primary: strict_json (test_rules.py:4), label (test_rules.py:8); a decision is about one: keep "
            "one of the marks",
        ),
        (
            "@pytest.mark.eval_rule(primary=True, min_gain=0.1)",
            NONE,
            "no rule is primary: mark the one that the decision is about with eval_rule(primary=True), of strict_json "
            "(test_rules.py:4), label (test_rules.py:8)",
        ),
        (
            "@pytest.mark.eval_rule(min_rate=0.9)",
            SHARE,
            "eval_rule(min_rate=95): write a share between 0 and 1",
        ),
    ],
    ids=["two", "none", "share"],
)
def test_rules_that_cannot_judge_train_nothing(
    project: Project, old: str, new: str, said: str, flags: tuple[str, ...]
) -> None:
    rules = (project.path / "test_rules.py").read_text()
    assert old in rules
    project.write({"test_rules.py": rules.replace(old, new)})
    result = project.run(*flags)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*{said}*"])
    assert project.calls() == []


def test_workers_train_nothing_either(project: Project) -> None:
    rules = (project.path / "test_rules.py").read_text()
    project.write(
        {"test_rules.py": rules.replace("@pytest.mark.eval_rule(primary=True, min_gain=0.1)", NONE)}
    )
    result = project.run("--finetune", "-n", "2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no rule is primary: mark the one that the decision is about*"])
    assert project.calls() == []


def test_without_a_decision_no_rule_has_to_be_primary(project: Project) -> None:
    rules = (project.path / "test_rules.py").read_text()
    project.write({"test_rules.py": rules.replace("primary=True, min_gain=0.1", "min_rate=0.5")})
    (project.path / "test_decision.py").unlink()
    assert project.run().ret == 0
    assert project.run("--finetune").ret == 0


@pytest.mark.parametrize("flags", [(), ("--finetune",)], ids=["plain", "finetune"])
def test_more_shots_than_rows_are_an_error_and_never_fewer_shots(
    pytester: pytest.Pytester, flags: tuple[str, ...]
) -> None:
    project = make_project(pytester, few_shot=41)
    result = project.run(*flags)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*finetune.yaml:6*prompt.few_shot is 41, and train.jsonl has 40 different rows*"]
    )
    assert project.calls() == []


@pytest.mark.parametrize("flags", [(), ("--finetune",)], ids=["plain", "finetune"])
def test_shots_that_do_not_fit_the_context_are_an_error(
    pytester: pytest.Pytester, flags: tuple[str, ...]
) -> None:
    project = make_project(pytester, few_shot=10)
    save_tokenizer(project.path / "base")  # a token for each byte
    project.write({"base/config.json": '{"model_type": "llama", "max_position_embeddings": 600}'})
    result = project.run(*flags)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*finetune.yaml:6*prompt.few_shot 10 makes * tokens of eval.jsonl:*, and generation.max_new_tokens leaves 592*"
        ]
    )
    assert project.calls() == []
    project.write({"base/config.json": '{"model_type": "llama", "max_position_embeddings": 6000}'})
    assert project.run(*flags).ret == 0
