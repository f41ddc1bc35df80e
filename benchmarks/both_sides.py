"""What each side of the table of times does: ours, and plain scripts for the same work.

Every part runs in a process of its own on one CPU thread (`spent`). The plain scripts are TRL's SFTTrainer with the
same arguments, and transformers' `generate` in batches of the same size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REPEATED = 3
LENGTHS = (1, 1, 2, 3, 6)  # how often a row's text is repeated where lengths are mixed


class Task(NamedTuple):
    """What both sides are given."""

    project: Path
    steps: int
    rows: int
    mixed: bool = False
    device: str = "cpu"
    grouped: bool = False
    seed: int = 0

    def dtype(self) -> Any:
        """Return the type that a user would load the weights in."""
        import torch

        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def experiment(self) -> Any:
        """Return the resolved experiment."""
        from pytest_finetune.experiment import load_experiment

        changed = {
            "training.max_steps": self.steps,
            "training.max_seq_length": 512,
            "training.seed": self.seed,
            **({"training.sft.train_sampling_strategy": "group_by_length"} if self.grouped else {}),
        }
        return load_experiment(self.project, "finetune.yaml", changed, name="speed")

    def pairs(self) -> list[Any]:
        """Return the training pairs, in mixed lengths where they are asked for."""
        import dataclasses

        from pytest_finetune.data.formatting import format_pair
        from pytest_finetune.data.rows import read_rows

        experiment = self.experiment()
        rows = read_rows(self.project, experiment.paths.train_file, "train")
        pairs = [format_pair(row, experiment.prompt, experiment.training.assistant_turns) for row in rows]
        if not self.mixed:
            return pairs
        times = [LENGTHS[at % len(LENGTHS)] for at in range(len(pairs))]
        return [
            dataclasses.replace(pair, prompt=pair.prompt * many)
            for pair, many in zip(pairs, times, strict=True)
        ]

    def prompts(self) -> tuple[Any, ...]:
        """Return the held-out prompts."""
        from pytest_finetune.answering.prompts import arm_prompts
        from pytest_finetune.data.rows import read_rows

        experiment = self.experiment()
        held_out = read_rows(self.project, experiment.paths.eval_file, "eval")
        return arm_prompts(held_out, experiment.prompt)[: self.rows]


def ours_train(task: Task, folder: Path) -> None:
    """Train as the plugin does: its checks, its held-out loss, its checkpoints."""
    from pytest_finetune.data.formatting import format_pair
    from pytest_finetune.data.rows import read_rows
    from pytest_finetune.training.request import TrainingRequest
    from pytest_finetune.training.sft import train

    experiment, pairs = task.experiment(), task.pairs()
    held_out = read_rows(task.project, experiment.paths.eval_file, "eval")
    unseen = tuple(
        format_pair(row, experiment.prompt, experiment.training.assistant_turns) for row in held_out
    )
    trained = train(
        TrainingRequest(
            experiment=experiment,
            pairs=tuple(pairs),
            rows=tuple(f"row {at}" for at in range(len(pairs))),
            base=str(task.project / experiment.base_model),
            device=task.device,
            folder=folder / "ours",
            checkpoints=folder / "checkpoints",
            held_out=unseen,
        )
    )
    print(f"held-out loss per supervised token: {trained.held_out_loss[-1]['loss']:.4f}", flush=True)


def plain_train(task: Task, folder: Path) -> None:
    """Train with TRL's trainer and the same arguments."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    experiment = task.experiment()
    training, base = experiment.training, task.project / experiment.base_model
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=task.dtype(), device_map=task.device)
    config = SFTConfig(
        output_dir=str(folder / "plain"),
        max_length=training.max_seq_length,
        per_device_train_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_steps,
        max_steps=task.steps,
        seed=training.seed,
        gradient_checkpointing=training.gradient_checkpointing,
        use_cpu=task.device == "cpu",
        bf16=task.device != "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=experiment.lora.r,
        lora_alpha=experiment.lora.alpha,
        lora_dropout=experiment.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    rows = [{"prompt": pair.prompt, "completion": pair.completion} for pair in task.pairs()]
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()
    trainer.save_model(str(folder / "plain"))


def plain_answers(task: Task, folder: Path, adapter: str | None = None) -> None:
    """Answer with `generate`, in batches in the order of the file; once where an adapter is named, or "" for none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    experiment = task.experiment()
    base, generation = task.project / experiment.base_model, experiment.generation
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=task.dtype(), device_map=task.device)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder / adapter))
    texts = [_text(tokenizer, asked) for asked in task.prompts()]

    def answer() -> None:
        for start in range(0, len(texts), generation.batch_size):
            some = texts[start : start + generation.batch_size]
            batch = tokenizer(some, return_tensors="pt", padding=True).to(task.device)
            with torch.no_grad():
                made = model.generate(
                    **batch,
                    max_new_tokens=generation.max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    if adapter is None:
        quickest(answer, task.device)
    else:
        answer()


def _text(tokenizer: Any, asked: Any) -> str:
    if isinstance(asked.prompt, str):
        return str(asked.prompt)
    messages = [{"role": one["role"], "content": one["content"]} for one in asked.prompt]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def ours_answers(task: Task, folder: Path) -> None:
    """Answer with the built-in runtime."""
    from pytest_finetune.answering.runtimes.transformers import TransformersRuntime

    experiment = task.experiment()
    runtime = TransformersRuntime(str(task.project / experiment.base_model), device=task.device)
    _ = runtime.model
    prompts = task.prompts()
    quickest(lambda: runtime.answer(prompts, experiment.generation), task.device)


def harness_answers(task: Task, folder: Path) -> None:
    """Answer with the Hugging Face backend of lm-evaluation-harness, which decodes to the same end."""
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    experiment = task.experiment()
    generation = experiment.generation
    model = HFLM(
        pretrained=str(task.project / experiment.base_model),
        device=task.device,
        dtype="float32" if task.device == "cpu" else "bfloat16",
        batch_size=generation.batch_size,
    )
    settings = {
        "until": [model.tokenizer.eos_token],
        "max_gen_toks": generation.max_new_tokens,
        "do_sample": False,
    }
    asked = [
        Instance("generate_until", {}, (_text(model.tokenizer, one), settings), at)
        for at, one in enumerate(task.prompts())
    ]
    quickest(lambda: model.generate_until(asked, disable_tqdm=True), task.device)


def plain_scripts(task: Task, folder: Path) -> None:
    """Train, ask the base, ask the tuned model: three plain scripts, each a process of its own."""
    task = task._replace(rows=sys.maxsize)  # a session asks all of them
    for part in ("plain_train", "plain_answers=", "plain_answers=plain"):
        spent(part, task, folder)


def ours_session(task: Task, folder: Path) -> None:
    """Run the experiment from nothing: data, training, all arms with the few-shot one, drift, decision, page."""
    _session(task, folder / "store")  # asked again for the same folder, everything is stored


def _session(task: Task, store: Path) -> None:
    command = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n0",
        "--finetune",
        f"--finetune-store={store}",
    ]
    limit = [f"--finetune-set=training.max_steps={task.steps}", f"--finetune-device={task.device}"]
    done = subprocess.run(
        [sys.executable, *command, *limit],
        cwd=task.project,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)


def quickest(work: Callable[[], object], device: str) -> None:
    """Print the fewest seconds that the work took of three times; they count for the whole process."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(REPEATED):
        began = clock()
        work()
        seconds.append(clock() - began)
    print(f"\nSPENT {min(seconds)}", flush=True)


PARTS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        ours_train, plain_train, ours_answers, plain_answers, harness_answers, plain_scripts, ours_session,
    )
}  # fmt: skip


def spent(part: str, task: Task, folder: Path, python: str = sys.executable) -> float:
    """Run a part in a process of its own; return its seconds, or those of what it counted itself."""
    given = json.dumps([str(task.project), *task[1:]])
    one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **one_thread, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    command = [python, "-P", "-m", "benchmarks.both_sides", part, given, str(folder)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{part} ended with {process.returncode}\n{out.read()}\n{err.read()}")
        own = [float(line.split()[1]) for line in out if line.startswith("SPENT ")]
        took = time.perf_counter() - began
    if own and part != "plain_scripts":
        return own[0]
    return usage.ru_utime + usage.ru_stime if task.device == "cpu" else took


def main(part: str, given: str, folder: str) -> None:
    """Do a part; behind `=` stands the adapter that answers once, or nothing for the base."""
    project, *much = json.loads(given)
    name, once, adapter = part.partition("=")
    PARTS[name](Task(Path(project), *much), Path(folder), *([adapter] if once else []))


if __name__ == "__main__":
    main(*sys.argv[1:])
