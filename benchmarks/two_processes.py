"""Train the same adapter in one process and in two, over gloo on the CPU, and print both loss curves side by side.

One process accumulates twice as often as each of the two, so that every optimizer step sees the same rows.

python benchmarks/two_processes.py [--rows 45] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

EXPERIMENT = """
base_model: base
peft_method: lora
lora: {{r: 8}}
training: {{max_seq_length: 128, per_device_train_batch_size: 2, gradient_accumulation_steps: 4, learning_rate: 0.01,
           num_train_epochs: {epochs}}}
prompt: {{template: "{{input}} ="}}
paths: {{train_file: train.jsonl, eval_file: eval.jsonl}}
"""
TEST = "def test_trained(trained_adapter):\n    assert trained_adapter.steps\n"


class Run(NamedTuple):
    """One session: the training's part of the record, and the seconds of the whole."""

    training: dict[str, Any]
    weights: Path
    wall_s: float


def project(folder: Path, rows: int, epochs: int) -> None:
    """Write a project with a random base of two layers and rows of different lengths."""
    (folder / "finetune.yaml").write_text(EXPERIMENT.format(epochs=epochs))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_training.py").write_text(TEST)
    taught = [
        {"instruction": "add", "input": f"{n} + {n % 7}", "output": f"{n + n % 7}" * (1 + n % 5)}
        for n in range(rows)
    ]
    asked = [{"instruction": "add", "input": f"{n} + 9", "expected": f"{n + 9}"} for n in range(1000, 1020)]
    for name, lines in (("train", taught), ("eval", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base(folder / "base", [f"{row['input']} = {row['output']}" for row in taught])


def base(folder: Path, texts: list[str]) -> None:
    """Save a random Llama and a byte-level tokenizer trained on the rows."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    ).save_pretrained(folder)


def session(folder: Path, processes: int) -> Run:
    """Run pytest with so many training processes."""
    flags = ["--finetune-device=cpu", f"--finetune-set=training.launcher.processes={processes}"]
    begun = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--finetune", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    wall_s = time.perf_counter() - begun
    if ran.returncode:
        sys.exit(ran.stdout + ran.stderr)
    record = json.loads((folder / "finetune-record" / "record.json").read_text(encoding="utf-8"))
    training = record["experiments"][0]["training"]
    return Run(training, folder / training["adapter_path"], wall_s)


def main() -> None:
    """Print one table."""
    from pytest_finetune.training.difference import largest_difference

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rows", type=int, default=45, help="45 leaves the last step of an epoch with five rows"
    )
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        project(folder, chosen.rows, chosen.epochs)
        one, two = session(folder, 1), session(folder, 2)
        print(f"{'step':>4}  {'one process':>12}  {'two processes':>13}  {'apart':>8}")
        apart = []
        for alone, shared in zip(one.training["log"], two.training["log"], strict=True):
            apart.append(abs(alone["loss"] - shared["loss"]))
            print(f"{alone['step']:>4}  {alone['loss']:>12.6f}  {shared['loss']:>13.6f}  {apart[-1]:>8.1e}")
        print(
            f"largest difference of the losses: {max(apart):.1e}; of the weights: "
            f"{largest_difference(one.weights, two.weights):.1e}"
        )
        print(
            f"optimizer steps: {one.training['steps']} and {two.training['steps']}; {two.training['notes'][0]}"
        )
        print(
            f"seconds of the whole session: {one.wall_s:.1f} and {two.wall_s:.1f} (start of the processes included)"
        )


if __name__ == "__main__":
    main()
