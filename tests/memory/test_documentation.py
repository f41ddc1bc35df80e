"""docs/memory.md against what really happens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
EXPERIMENT = """
base_model: model
peft_method: lora
lora: {r: 16}
training: {max_seq_length: 2048, per_device_train_batch_size: 2}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.nightly  # an 8B model and its remedies are traced; test_explain holds the message every day
def test_the_failing_assertion_of_the_page_is_what_the_terminal_shows(pytester: pytest.Pytester) -> None:
    pytester.mkdir("model")
    (pytester.path / "model" / "config.json").write_text(json.dumps(LLAMA_8B))
    (pytester.path / "finetune.yaml").write_text(EXPERIMENT)
    (pytester.path / "train.jsonl").write_text('{"instruction": "i", "input": "a", "output": "b"}\n')
    (pytester.path / "eval.jsonl").write_text('{"instruction": "i", "input": "c", "expected": "d"}\n')
    pytester.makepyfile(test_fit=blocks("python")[0])
    result = pytester.runpytest_subprocess("--finetune-budget=a100-40")
    (message,) = blocks("text")
    assert message in result.stdout.str() + "\n"
    result.assert_outcomes(failed=1)
