"""What people write by a slip in an experiment file is told before anything is trained, with what they meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment

_FILE = """\
base_model: models/tiny
peft_method: lora
lora: {r: 4}
training: {seed: 0}
prompt: {template: "{instruction} {input} ->"}
paths:
  train_file: data/train.jsonl
  eval_file: data/check.jsonl
"""


def read(
    folder: Path, old: str = "", new: str = "", overrides: Mapping[str, object] | None = None
) -> Experiment:
    """Load the file with one text of it replaced."""
    assert old in _FILE
    (folder / "finetune.yaml").write_text(_FILE.replace(old, new) if old else _FILE + new)
    (folder / "data").mkdir(exist_ok=True)
    for name in ("train.jsonl", "check.jsonl"):
        (folder / "data" / name).write_text("")
    return load_experiment(folder, "finetune.yaml", overrides)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("data/train.jsonl", "data\\train.jsonl", "; write it with slashes: data/train.jsonl"),
        ("data/train.jsonl", '"data\\train.jsonl"', "; write it with slashes: data/train.jsonl"),
        (
            "models/tiny",
            "models\\tiny",
            "finetune.yaml:1: base_model: found 'models\\\\tiny': write it with slashes",
        ),
        ("data/train.jsonl", "~/train.jsonl", "a path begins in the project and ~ is not read"),
        (
            "data/train.jsonl",
            "s3://bucket/train.jsonl",
            ": fetch it and name the file, in a folder of the project",
        ),
        ("data/check.jsonl", "./data/train.jsonl", "held-out rows must never be trained on"),
        (
            "data/check.jsonl",
            "data/check.jsonl\n  contract_file: data",
            "'data', but that is a folder: name a file",
        ),
        (
            "{instruction} {input} ->",
            "{inptu} ->",
            "which shows no {input}: the model would answer every row alike; di",
        ),
        (
            "{instruction} {input} ->",
            "{{input}} ->",
            "shows no {input}: the model would answer every row alike; write",
        ),
        ("{instruction} {input} ->", "{{ input }} ->", "; write single braces without spaces: {input}"),
        (
            "{instruction} {input} ->",
            "{instrution} {input}",
            "where {instrution} stays as it is: only {instruction} a",
        ),
        (
            "{instruction} {input} ->",
            "{input} -> {output}",
            "take {output} out; the answer follows the template by i",
        ),
        ("{instruction} {input} ->", "ChatML", "; did you mean chat, the chat template of the base?"),
        ("{instruction} {input} ->", "prompts/mine.txt", "; write the text itself, and no file"),
        (
            "{r: 4}",
            "{r: 4, target_modules: 'q_proj, v_proj'}",
            "which is read as one name: write [q_proj, v_proj]",
        ),
        (
            "{r: 4}",
            "{r: 4, target_modules: q_proj v_proj}",
            "which is read as one name: write [q_proj, v_proj]",
        ),
        ("", "learning_rate: 1\n", "belongs below `training`: write training: {learning_rate: ...}"),
        (
            "{seed: 0}",
            "{few_shot: 2}",
            "training.few_shot: belongs below `prompt`: write prompt: {few_shot: ...}",
        ),
        (
            "",
            "training.seed: 1\n",
            "write `seed` below `training`; only the command line joins keys by a point",
        ),
        ("", "runtimes: [a, {openai: {url: 'http://[::1/v1'}}]\n", "which is no address: Invalid IPv6 URL"),
        ("", "runtimes: [a, {openai: {url: 'http://h:80000'}}]\n", "which is no address: Port out of range"),
        (
            "",
            "runtimes: [a, {openai: {url: 'localhost:8000/v1'}}]\n",
            "did you mean 'http://localhost:8000/v1'?",
        ),
    ],
)
def test_a_slip_is_told_with_what_was_meant(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, old, new)
    assert told in str(caught.value)


@pytest.mark.parametrize("template", ['{"a": {input}} {label}', "{instruction}\n{input}\nAnswer {{json}}:"])
def test_other_braces_of_a_template_are_text(tmp_path: Path, template: str) -> None:
    text = template.replace('"', '\\"').replace("\n", "\\n")
    assert read(tmp_path, "{instruction} {input} ->", text).prompt.template == template


@pytest.mark.parametrize("modules", ["all-linear", "q_proj", r"'.*\\.(q|v)_proj'", "'layers.{1,2}.q_proj'"])
def test_one_name_and_a_regular_expression_of_modules_are_left_alone(tmp_path: Path, modules: str) -> None:
    assert read(
        tmp_path, "{r: 4}", f"{{r: 4, target_modules: {modules}}}"
    ).lora.target_modules == modules.strip("'")


def test_a_section_that_only_the_command_line_names_is_told_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"^--finetune-set trainng.seed=1: trainng: unknown key; did you mean"
    ):
        read(tmp_path, overrides={"trainng.seed": 1})
