from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import (
    CharterText,
    DecisionDefaults,
    Experiment,
    Generation,
    Lora,
    Paths,
    Prompt,
    Training,
)
from pytest_finetune.training.request import TrainingRequest
from tests.small_base import ROLES, small_base

CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ENDLESS_CHAT = CHAT.replace("{{ eos_token }}", "")


def question(i: int, j: int) -> str:
    return f"Instruction: add\nInput: {i} and {j}\nAnswer:"


def sums(count: int) -> tuple[Pair, ...]:
    return tuple(Pair(question(i // 8, i % 8), f' {{"sum": {i // 8 + i % 8}}}') for i in range(count))


def build_base(
    folder: Path, *, layers: int = 2, hidden: int = 64, chat: str = CHAT, context: int = 256
) -> Path:
    """Save a random Llama and a byte-level BPE tokenizer trained on the spot."""
    return small_base(
        folder,
        [f"{pair.prompt}{pair.completion}" for pair in sums(64)],
        vocab_size=400,
        hidden=hidden,
        layers=layers,
        context=context,
        specials=ROLES,
        chat=chat,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )


_LATER = [("assistant_turns", "last"), ("keep", "last"), ("seeds", ()), ("replay", None), ("shard", False)]
"""Settings of a training that stand among the resolved ones only with another value."""


def make_experiment(
    *,
    method: str = "lora",
    quantization: str = "none",
    lora: Lora | None = None,
    training: Training | None = None,
    revision: str | None = None,
) -> Experiment:
    lora = lora or Lora(r=4, alpha=8)
    training = training or Training(
        max_seq_length=128,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=1e-2,
        max_steps=4,
    )
    return Experiment(
        name="tiny",
        file="tiny.yaml",
        root=Path("/nowhere"),
        task="sums",
        base_model="models/tiny",
        revision=revision,
        trust_remote_code=False,
        peft_method=method,
        quantization=quantization,
        lora=lora,
        training=training,
        prompt=Prompt(),
        generation=Generation(),
        runtimes=("transformers",),
        paths=Paths("train.jsonl", "eval.jsonl"),
        decision=DecisionDefaults(),
        charter=CharterText(),
        overrides={},
        resolved={
            "task": "sums",
            "base_model": "models/tiny",
            "revision": revision,
            "trust_remote_code": False,
            "peft_method": method,
            "quantization": quantization,
            "lora": None if method == "full" else json.loads(json.dumps(dataclasses.asdict(lora))),
            "training": {
                name: value
                for name, value in dataclasses.asdict(training).items()
                # as `load_experiment` leaves them out
                if (name, value) not in _LATER
            },
            "prompt": {},
            "paths": {"train_file": "train.jsonl", "eval_file": "eval.jsonl"},
        },
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of about 0.1 million parameters; tests only read it."""
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def base_builder() -> Callable[..., Path]:
    return build_base


@pytest.fixture
def ask(tiny_base: Path, tmp_path: Path) -> Callable[..., TrainingRequest]:
    """Make requests for trainings of the tiny base; keywords change the request or its experiment."""

    def make(into: str = "run", pairs: tuple[Pair, ...] | None = None, **changes: Any) -> TrainingRequest:
        pairs = sums(16) if pairs is None else pairs
        experiment_keys = {"method", "quantization", "lora", "training", "revision"} & changes.keys()
        experiment = make_experiment(**{key: changes.pop(key) for key in experiment_keys})
        values: dict[str, Any] = {
            "experiment": experiment,
            "pairs": pairs,
            "rows": tuple(f"data/train.jsonl:{line}" for line in range(1, len(pairs) + 1)),
            "base": str(tiny_base),
            "folder": tmp_path / into / "adapter",
            "checkpoints": tmp_path / into / "checkpoints",
            **changes,
        }
        return TrainingRequest(**values)

    return make
