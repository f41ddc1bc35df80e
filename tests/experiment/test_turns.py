"""Which answers of a conversation are taught and asked for: settings that came later, and what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment


def read(folder: Path, training: str = "", prompt: str = "template: chat") -> Experiment:
    (folder / "finetune.yaml").write_text(
        "base_model: models/tiny\npeft_method: lora\nlora: {r: 4}\n"
        f"training: {{{training}}}\nprompt: {{{prompt}}}\n"
        "paths: {train_file: train.jsonl, eval_file: check.jsonl}\n"
    )
    for name in ("train.jsonl", "check.jsonl"):
        (folder / name).write_text("")
    return load_experiment(folder, "finetune.yaml")


def test_what_came_later_stands_among_the_resolved_settings_only_where_it_is_not_the_default(
    tmp_path: Path,
) -> None:
    plain = read(tmp_path, "assistant_turns: last", "template: chat, turns: last")
    assert (plain.training.assistant_turns, plain.prompt.turns) == ("last", "last")
    assert "assistant_turns" not in plain.resolved["training"]
    assert "turns" not in plain.resolved["prompt"]
    asked = read(tmp_path, "assistant_turns: all", "template: chat, turns: each")
    assert asked.resolved["training"]["assistant_turns"] == "all"
    assert asked.resolved["prompt"]["turns"] == "each"


@pytest.mark.parametrize(
    ("training", "prompt", "says"),
    [
        (
            "assistant_turns: all",
            'template: "{input}"',
            "training.assistant_turns: needs prompt.template: chat",
        ),
        (
            "assistant_turns: all, sft: {assistant_only_loss: true}",
            "template: chat",
            "contradicts assistant_turns: all",
        ),
        ("assistant_turns: both", "template: chat", "'both'"),
    ],
)
def test_what_contradicts_them_is_told_with_its_line(
    tmp_path: Path, training: str, prompt: str, says: str
) -> None:
    with pytest.raises(ExperimentError) as refused:
        read(tmp_path, training, prompt)
    assert says in str(refused.value)


def test_a_year_in_the_charter_needs_no_quotes(tmp_path: Path) -> None:
    read(tmp_path)
    file = tmp_path / "finetune.yaml"
    text = file.read_text()
    for written, read_as in (("2027", "2027"), ("2027-06-30", "2027-06-30"), ("'the end'", "the end")):
        file.write_text(f"{text}charter: {{retire_when: {written}}}\n")
        assert load_experiment(tmp_path, "finetune.yaml").charter.retire_when == read_as
