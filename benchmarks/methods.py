"""Train the example by every method on the CPU, load what it keeps with plain PEFT or transformers, and ask again.

    python benchmarks/methods.py                          # 24 rows, 40 steps a method: some minutes on two cores
    python benchmarks/methods.py --rows 12 --steps 20 --methods qlora full

For each method the example project runs as it is, in a copy, through `pytest --finetune --finetune-set ...`, on the
first held-out rows. Then, without any code of the plugin, `PeftModel.from_pretrained` (for `full`
`AutoModelForCausalLM.from_pretrained`) loads the folder that the record names, and each question is asked alone. The
table says how many answers are the same when the plugin asked one question at a time, and when it asked in padded
batches.

Where the CPU has AVX512-BF16, bitsandbytes repacks 4-bit weights at the first answer and computes in bfloat16. The
plugin keeps it from that, since gradients would be wrong afterwards; plain libraries do not. So qlora has two lines: as
plain libraries answer, and with the repacking switched off, as the plugin answers.

`nudged` is the largest change of a logit when the embeddings are multiplied by 1 + 1e-6 noise: how far a method
carries a difference in the last bits, such as padding makes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Final, NamedTuple

EXAMPLE: Final = Path(__file__).parents[1] / "example_project"
METHODS: Final[Mapping[str, Sequence[str]]] = {
    "lora": (),
    "dora": ("peft_method=dora",),
    "qlora": ("peft_method=qlora",),
    "int8": ("quantization=int8",),
    "full": ("peft_method=full", "lora=null"),
}
BATCH: Final = 12


class Row(NamedTuple):
    """One line of the table; `exact` tells that both sides compute alike."""

    method: str
    seconds: float
    trainable: float
    kept: str
    alone: int
    batched: int
    total: int
    nudged: float
    exact: bool


def main() -> int:
    """Run the methods, print the table, and return 1 when both sides compute alike and an answer alone differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=24, help="how many held-out rows are asked")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each training")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="methods-"))
    try:
        project = copy_of_example(folder / "project", args.rows)
        print(f"{'method':18s}{'trained in':>12s}{'trainable':>11s}  {'kept':28s}"
              f"{'same, asked alone':>18s}{f'same, batches of {BATCH}':>21s}{'nudged':>10s}")  # fmt: skip
        rows = []
        for method in args.methods:
            for row in measure(project, method, args.steps):
                rows.append(row)
                print(line(row), flush=True)
        return 0 if all(row.alone == row.total for row in rows if row.exact) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def line(row: Row) -> str:
    """Return one line of the table."""
    return (
        f"{row.method:18s}{row.seconds:10.1f} s{row.trainable:11.1%}  {row.kept:28s}"
        f"{f'{row.alone}/{row.total}':>18s}{f'{row.batched}/{row.total}':>21s}{row.nudged:10.1e}"
    )


def copy_of_example(project: Path, rows: int) -> Path:
    """Copy the example and keep its first held-out rows and its rules."""
    shutil.copytree(
        EXAMPLE, project, ignore=shutil.ignore_patterns(".finetune", "finetune-record", "artifacts")
    )
    held_out = project / "eval" / "check.jsonl"
    kept = held_out.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
    held_out.write_text("".join(kept), encoding="utf-8")
    return project


def measure(project: Path, method: str, steps: int) -> Iterator[Row]:
    """Train by one method, answer alone and in batches, and compare both with plain libraries."""
    alone, batched = (run(project, method, steps, size) for size in (1, BATCH))
    training = alone["training"]
    assert batched["training"]["reused"]
    assert batched["training"]["adapter_sha256"] == training["adapter_sha256"]
    folder = project / training["adapter_path"]
    check_config(folder, method)
    kept = next(file.name for file in sorted(folder.glob("*model.safetensors")))
    answers = {size: tuned_answers(project, method, size) for size in (1, BATCH)}
    asked = [answer["prompt"] for answer in answers[1]]
    for repack in (True, False) if method == "qlora" else (True,):
        model, tokenizer = load(folder, project / "models" / "ticket-lm", method)
        if not repack:
            keep_from_repacking(model)
        plain = [generate(model, tokenizer, prompt) for prompt in asked]
        same = {
            size: sum(given["response"] == text for given, text in zip(found, plain, strict=True))
            for size, found in answers.items()
        }
        yield Row(
            method if repack else f"{method}, as here", training["seconds"],
            training["trainable"] / training["parameters"], kept, same[1], same[BATCH], len(asked),
            nudged(model, tokenizer, asked), method != "qlora" or not repack,
        )  # fmt: skip


def keep_from_repacking(model: Any) -> None:
    """Keep bitsandbytes from computing 4-bit layers in bfloat16 on CPUs with AVX512-BF16."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def run(project: Path, method: str, steps: int, batch: int) -> dict[str, Any]:
    """Run the rules of the example under one method and return its part of the record."""
    settings = [
        *METHODS[method],
        f"training.max_steps={steps}",
        f"generation.batch_size={batch}",
        "prompt.few_shot=0",
        "paths.contract_file=null",  # the contract asks for more held-out rows than are left
        *(["training.learning_rate=5e-4"] if method == "full" else []),
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--finetune",
        "--finetune-device=cpu",
        "tests/test_rules.py",
    ]
    command += [word for setting in settings for word in ("--finetune-set", setting)]
    command.append(f"--finetune-record={record_folder(method, batch)}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # after so few steps a rule may well fail
        raise SystemExit(f"{method}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    record = project / record_folder(method, batch) / "record.json"
    if not record.is_file():
        raise SystemExit(f"{method}: there is no record\n{done.stdout}{done.stderr}")
    (experiment,) = json.loads(record.read_text(encoding="utf-8"))["experiments"]
    if experiment["training"] is None:
        raise SystemExit(f"{method}: nothing was trained\n{done.stdout}")
    return dict(experiment)


def record_folder(method: str, batch: int) -> str:
    """Name the folder of one run's record."""
    return f"record-{method}-{batch}"


def tuned_answers(project: Path, method: str, batch: int) -> list[dict[str, Any]]:
    """Return the tuned arm's raw answers of one run."""
    file = project / record_folder(method, batch) / "outputs" / "tuned.jsonl"
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]


def check_config(folder: Path, method: str) -> None:
    """Hold adapter_config.json to the method; a whole model has none."""
    file = folder / "adapter_config.json"
    if method == "full":
        assert not file.exists(), file
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    assert config["peft_type"] == "LORA", config
    assert (config["r"], config["lora_alpha"]) == (16, 32), config
    assert config["use_dora"] == (method == "dora"), config


def load(folder: Path, base: Path, method: str) -> tuple[Any, Any]:
    """Load what was kept as anyone would, with plain libraries."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    getLogger("bitsandbytes").setLevel(
        ERROR
    )  # it says for each layer and token that int8 activations were float16
    tokenizer = AutoTokenizer.from_pretrained(base)
    if method == "full":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer
    quantization = {
        "qlora": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }.get(method)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=quantization)
    return PeftModel.from_pretrained(model, folder).eval(), tokenizer


def generate(model: Any, tokenizer: Any, prompt: str, new_tokens: int = 48) -> str:
    """Answer one question greedily."""
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    fresh = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(fresh, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def nudged(model: Any, tokenizer: Any, prompts: Sequence[str]) -> float:
    """Return the largest change of a next token's logit when the embeddings change by a millionth."""
    import torch

    def logits() -> Any:
        return torch.stack([model(**tokenizer(text, return_tensors="pt")).logits[0, -1] for text in prompts])

    with torch.no_grad():
        before = logits()
        weight = model.get_input_embeddings().weight
        torch.manual_seed(0)
        weight.mul_(1 + 1e-6 * torch.randn_like(weight))
        return float((logits() - before).abs().max())


if __name__ == "__main__":
    sys.exit(main())
