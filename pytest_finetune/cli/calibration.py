"""Trainings of known shapes, with random weights made on the spot: what is predicted, and what a card measures."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_finetune.cli.answer import CommandError
from pytest_finetune.fingerprint import WEIGHT_PACKAGES, package_versions
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.wording import last_words
from pytest_finetune.yamlfile import Json

VOCABULARY: Final = (
    "ticket",
    "payment",
    "customer",
    "screen",
    "error",
    "slow",
    "report",
    "invoice",
    "mail",
    "page",
)
ROWS: Final = 32
STEPS: Final = 2
SHAPES: Final[Mapping[str, Json]] = {
    "tiny": {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 512,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "qwen3-1.7b": {
        "model_type": "qwen3",
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "gemma3-1b": {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 6912,
        "vocab_size": 262144,
        "tie_word_embeddings": True,
        "sliding_window": 512,
    },
    "llama-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
METHODS: Final[Mapping[str, str]] = {
    "lora": "peft_method: lora",
    "qlora": "peft_method: qlora\nquantization: nf4",
    "dora": "peft_method: dora",
    "full": "peft_method: full",
}
FIELDS: Final = (
    *("card", "driver", "runtime", *WEIGHT_PACKAGES, "shape", "method", "batch", "tokens", "checkpointing"),
    *("predicted_peak_bytes", "measured_peak_bytes", "predicted_allocated_bytes", "measured_allocated_bytes"),
    *("predicted_reserved_bytes", "measured_reserved_bytes", "not_planned"),
)
_TEST: Final = """
def test_the_longest_batch_is_measured(memory_plan, trained_adapter):
    assert trained_adapter.steps
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One training to compare: a shape, a method, rows in a batch, and tokens in a row."""

    shape: str
    method: str
    batch: int
    tokens: int
    checkpointing: bool = False


GRID: Final = (
    Cell("smollm2-135m", "lora", 16, 512),
    Cell("smollm2-135m", "dora", 8, 512, checkpointing=True),
    Cell("smollm2-135m", "full", 4, 512),
    Cell("smollm2-135m", "qlora", 8, 1024, checkpointing=True),
    Cell("gemma3-1b", "lora", 4, 512),
    Cell("qwen3-1.7b", "qlora", 2, 1024, checkpointing=True),
)

Run = Callable[[Path], object]


def compare(cell: Cell, card: Budget, folder: Path, run: Run) -> dict[str, Any]:
    """Make the base and a project of one test, let `run` run it, and return the row of the table."""
    base = folder / cell.shape
    if not (base / "config.json").exists():
        make_elsewhere(cell.shape, base)
    project = folder / f"{cell.shape}-{cell.method}-{cell.batch}x{cell.tokens}-{cell.checkpointing:d}"
    write_project(cell, base, project)
    run(project)
    return row_of(cell, card, project)


def row_of(cell: Cell, card: Budget, project: Path) -> dict[str, Any]:
    """Return what the record of a project's session says; sizes that it does not have are None."""
    file = project / "finetune-record/record.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"experiments": [{}]}
    memory = record["experiments"][0].get("memory") or {}
    return {
        "card": card.name,
        "driver": card.driver,
        "runtime": card.runtime,
        **package_versions(),
        "shape": cell.shape,
        "method": cell.method,
        "batch": memory.get("batch", cell.batch),
        "tokens": memory.get("tokens"),
        "checkpointing": cell.checkpointing,
        "predicted_peak_bytes": memory.get("predicted_peak_bytes"),
        "measured_peak_bytes": memory.get("measured_peak_bytes"),
        "predicted_allocated_bytes": memory.get("allocated_bytes"),
        "measured_allocated_bytes": memory.get("measured_allocated_bytes"),
        "predicted_reserved_bytes": memory.get("reserved_bytes"),
        "measured_reserved_bytes": memory.get("measured_reserved_bytes"),
        "not_planned": memory.get("not_planned", ""),
    }


def run_session(project: Path, *, timeout_s: int = 300) -> None:
    """Train as a user would, in a process of its own; what it says stands in ``log.txt`` of the project."""
    command = [sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (project / "log.txt").open("w", encoding="utf-8") as log:
        try:
            subprocess.run(
                command, cwd=project, env=environment, stdout=log, stderr=log, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {timeout_s} s\n")


def write_project(cell: Cell, base: Path, project: Path) -> None:
    """Write rows of the asked length, the experiment, and one test that trains."""
    (project / "data").mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)

    def row(number: int) -> Json:
        words = " ".join(draw.choice(VOCABULARY) for _ in range(cell.tokens - 24))
        return {
            "instruction": "Say the word.",
            "input": f"{words} {number}",
            "output": draw.choice(VOCABULARY),
        }

    rows = [row(number) for number in range(ROWS)]
    held_out = [{**row(number), "input": f"page {number}"} for number in range(ROWS, ROWS + 6)]
    asked = [
        {"expected" if key == "output" else key: value for key, value in one.items()} for one in held_out
    ]
    for name, written in (("train", rows), ("check", asked)):
        text = "".join(json.dumps(one) + "\n" for one in written)
        (project / f"data/{name}.jsonl").write_text(text, encoding="utf-8")
    (project / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (project / "test_measured.py").write_text(_TEST, encoding="utf-8")
    (project / "finetune.yaml").write_text(_experiment(cell, base), encoding="utf-8")


def _experiment(cell: Cell, base: Path) -> str:
    lora = (
        ""
        if cell.method == "full"
        else "lora: {r: 16, alpha: 32, dropout: 0.0, target_modules: all-linear}\n"
    )
    return (
        f"task: calibration\nbase_model: {json.dumps(str(base))}\n{METHODS[cell.method]}\n{lora}"
        f"training: {{max_seq_length: {cell.tokens}, per_device_train_batch_size: {cell.batch}, "
        f"gradient_accumulation_steps: 1, max_steps: {STEPS}, save_total_limit: 1, "
        f"gradient_checkpointing: {str(cell.checkpointing).lower()}}}\n"
        'prompt: {template: "Instruction: {instruction}\\nInput: {input}\\nAnswer:"}\n'
        "paths: {train_file: data/train.jsonl, eval_file: data/check.jsonl, output_dir: artifacts/adapter}\n"
    )


def make_elsewhere(shape: str, folder: Path) -> None:
    """Make a base in a process of its own, whose memory and context are gone afterwards. Raises CommandError."""
    command = [sys.executable, "-m", __name__, shape, str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if made.returncode != 0:
        raise CommandError(
            f"the base of the shape {shape} could not be made: {last_words(made.stderr)} (what was measured before it "
            "is kept; --shape takes another)"
        )


def make_base(shape: str, folder: Path) -> None:
    """Write a model of that shape with random weights, and a tokenizer that knows the rows' words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    settings = dict(SHAPES[shape])
    kind = settings.pop("model_type")
    config = AutoConfig.for_model(
        kind, **settings, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None
    )
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with place:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words = ("<pad>", "</s>", "<unk>", "Instruction", "Input", "Answer", "Say", "the", "word", *VOCABULARY)
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


if __name__ == "__main__":
    make_base(sys.argv[1], Path(sys.argv[2]))
