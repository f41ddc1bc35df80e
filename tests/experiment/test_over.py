"""What is tried, as it is written; and values written into a file that stays as its author left it."""

from __future__ import annotations

import pytest

from pytest_finetune.experiment import ExperimentError
from pytest_finetune.experiment.over import Choice, Range, parse_over
from pytest_finetune.experiment.rewriting import with_values
from pytest_finetune.yamlfile import parse_yaml


@pytest.mark.parametrize(
    ("word", "read"),
    [
        (
            "training.learning_rate=1e-4..1e-3",
            Range("training.learning_rate", 1e-4, 1e-3, whole=False, log=True),
        ),
        ("lora.dropout=0.0..0.1", Range("lora.dropout", 0.0, 0.1, whole=False, log=False)),
        (
            "training.learning_rate=1e-4..2e-4",
            Range("training.learning_rate", 1e-4, 2e-4, whole=False, log=False),
        ),
        ("lora.r=4..64", Range("lora.r", 4, 64, whole=True, log=False)),
        ("lora.r=4..64:log", Range("lora.r", 4, 64, whole=True, log=True)),
        (
            "training.learning_rate=1e-4..1e-3:linear",
            Range("training.learning_rate", 1e-4, 1e-3, False, False),
        ),
        ("lora.r=4, 8,16", Choice("lora.r", (4, 8, 16))),
        ("training.keep=best,last", Choice("training.keep", ("best", "last"))),
    ],
)
def test_ranges_and_choices_are_read_and_written_alike(word: str, read: Choice | Range) -> None:
    assert parse_over([word]) == (read,)
    assert parse_over([str(read)]) == (read,)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora.r", "write KEY=LOW..HIGH or KEY=A,B,C"),
        ("lora.r=8", "one value is no choice"),
        ("lora.r=a..b", "a range goes from a number to a larger one"),
        ("lora.dropout=0.0..0.1:log", "from a number above zero"),
        ("decision.min_gain=0.1,0.2", "on which rows or how an adapter is judged"),
        ("paths.dev_file=eval.jsonl,dev.jsonl", "no matter of choice"),
    ],
)
def test_a_wrong_word_is_named(word: str, said: str) -> None:
    with pytest.raises(ExperimentError, match="--over") as told:
        parse_over([word])
    assert said in str(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "task: a\nlora: {r: 8, alpha: 16}  # why\ntraining:\n  seed: 1 # luck\n  learning_rate: 1e-4\n",
        "# first\ntask: a\nlora:\n  r: 8\n",
        "{task: a, lora: {r: 8}}",
        "task: a\ntraining: {}\n",
    ],
)
def test_values_find_their_place_and_nothing_else_moves(text: str) -> None:
    values = {"lora.r": 4, "training.learning_rate": 3e-5, "prompt.template": 'say: "{input}"\n'}
    written = with_values(text, values)
    tree = parse_yaml(written, "it").tree
    assert (tree["lora"]["r"], tree["training"]["learning_rate"], tree["task"]) == (4, 3e-5, "a")
    assert tree["prompt"]["template"] == values["prompt.template"]
    for comment in ("# why", "# luck", "# first"):
        assert (comment in written) == (comment in text)
