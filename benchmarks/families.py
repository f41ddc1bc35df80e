"""Take tiny random bases of every architecture family from the plan to a bundle that is verified.

    python -m benchmarks.families                       # all of them: some minutes on one core
    python -m benchmarks.families Llama "Gemma 3"       # these only, printed
    python -m benchmarks.families --page docs/families.md

A stage works, or it is refused in words; anything else is printed as what it is, a raw error, and ends in status 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.family_bundle import promote, verify
from benchmarks.family_shapes import SHAPES, Shape
from pytest_finetune.errors import FinetuneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.experiment import Experiment

STAGES: Final = ("premises", "plan", "train", "answer", "merge", "bundle", "verify")
ASIDE: Final = ("plan", "merge")  # no stage after them needs what they make
WORKS: Final = "works"
RAW: Final = "RAW ERROR"
# Of these, so small, two steps change no answer, and what changes none is not promoted.
MORE_STEPS: Final = dict.fromkeys(("Gemma", "Mamba-2", "SmolLM3", "OPT", "Bloom", "ERNIE-4.5"), 16)


@dataclass(slots=True)
class Outcome:
    """What became of one family: a word or a refusal a stage, what was said, the processor seconds of all."""

    name: str
    stages: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def raw(self) -> bool:
        """Tell whether a stage ended in an error that was not put into words."""
        return any(said.startswith(RAW) for said in self.stages.values())


def pairs(count: int = 16) -> list[Pair]:
    """Return rows that need no file."""
    from pytest_finetune.data.formatting import Pair

    return [
        Pair(f"Instruction: add\nInput: {i // 8} and {i % 8}\nAnswer:", f' {{"sum": {i // 8 + i % 8}}}')
        for i in range(count)
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE trained on the rows."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [f"{pair.prompt}{pair.completion}" for pair in pairs(64)],
        vocab_size=400,
        min_frequency=1,
        special_tokens=["<pad>", "<s>", "</s>"],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def build(folder: Path, shape: Shape) -> Path:
    """Save a random base of this shape with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    fast = tokenizer()
    fast.save_pretrained(folder)
    tree = json.loads(json.dumps(shape))
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(fast)}
    for inner in (tree, tree.get("text_config", {})):
        inner.update(special)
    config = AutoConfig.for_model(tree.pop("model_type"), **tree)
    whole = type(config) in AutoModelForImageTextToText._model_mapping  # as the hub has it, with its towers
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (AutoModelForImageTextToText if whole else AutoModelForCausalLM).from_config(config)
    _sharpen(model)
    model.save_pretrained(folder)
    return folder


def _sharpen(model: Any) -> None:
    """Give the logits some spread, so that rounding is not what decides."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)


EXPERIMENT: Final = """
base_model: base
peft_method: lora
lora: {r: 4, alpha: 8}
training:
  max_seq_length: 128
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  learning_rate: 0.01
  max_steps: 2
generation: {max_new_tokens: 8, batch_size: 4}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""


def experiment(root: Path, **overrides: Any) -> Experiment:
    """Write the files of an experiment around the base in `root`, and load it."""
    from pytest_finetune.experiment import load_experiment

    (root / "finetune.yaml").write_text(EXPERIMENT, encoding="utf-8")
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).touch()
    return load_experiment(root, "finetune.yaml", overrides)


def premises(one: Experiment) -> None:
    """Raise what the files tell."""
    from pytest_finetune.suite.steps.premises import problems

    found = [f"{'.'.join(map(str, path))}: {text}" for path, text in problems(one)]
    if found:
        raise FinetuneError("\n".join(found))


def plan(one: Experiment) -> None:
    """Trace the step in this process."""
    import gc

    from pytest_finetune.memory.plan.plan import workload_of
    from pytest_finetune.memory.tracer.trace import trace

    gc.disable()
    try:
        trace(workload_of(one, 40)[0])
    finally:
        gc.enable()


def outcome(name: str, root: Path, shape: Shape, *, last: str = STAGES[-1], **overrides: Any) -> Outcome:
    """Take one family through the stages up to `last`; what needs a stage that failed is left out."""
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.merged import MergedRuntime, ModelFolders
    from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
    from pytest_finetune.store import Store
    from pytest_finetune.training.base import BaseSource
    from pytest_finetune.training.request import TrainingRequest
    from pytest_finetune.training.sft import train

    said = Outcome(name)
    began = time.process_time()
    base = build(root / "base", shape)
    steps = {"training.max_steps": MORE_STEPS[name]} if name in MORE_STEPS else {}
    one = experiment(root, **steps, **overrides)
    rows = tuple(pairs())
    asked = [Prompted(str(at), at + 1, str(pair.prompt)) for at, pair in enumerate(rows[:12])]
    texts: dict[str, list[str]] = {}

    def training() -> None:
        places = tuple(f"train.jsonl:{line}" for line in range(1, len(rows) + 1))
        result = train(TrainingRequest(one, rows, places, str(base), root / "adapter", root / "checkpoints"))
        said.notes += result.notes

    def answering() -> None:
        runtime = TransformersRuntime(str(base), quantization=one.quantization)
        texts["beside"] = [a.response for a in runtime.answer(asked, one.generation, root / "adapter")]

    def merging() -> None:
        source = BaseSource(str(base), quantization=one.quantization)
        folders = ModelFolders(Store(root / "store"), source, base, "cpu")
        merged = MergedRuntime(folders, "cpu")
        texts["merged"] = [a.response for a in merged.answer(asked[:4], one.generation, root / "adapter")]
        # An int8 base rounds what goes into each layer; what is merged is not, so single answers may change.
        if texts["merged"] != texts["beside"][:4] and one.quantization != "int8":
            raise AssertionError(f"merged answers otherwise: {texts}")

    stages: Mapping[str, Callable[[], None]] = {
        "premises": lambda: premises(one),
        "plan": lambda: plan(one),
        "train": training,
        "answer": answering,
        "merge": merging,
        "bundle": lambda: promote(root, rows[:12], texts["beside"]),
        "verify": lambda: verify(root),
    }
    for stage, run in stages.items():
        said.stages[stage] = _attempt(run)
        if stage == last or (stage not in ASIDE and said.stages[stage] != WORKS):
            break
    said.seconds = time.process_time() - began
    return said


def _attempt(run: Callable[[], None]) -> str:
    try:
        run()
    except FinetuneError as error:
        return str(error)
    except Exception as error:
        if os.environ.get("TRACE"):
            traceback.print_exc()
        return f"{RAW} {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return WORKS


HEAD: Final = """\
# Architecture families

`python -m benchmarks.families --page docs/families.md` writes this page: a tiny random base of each architecture, made
from transformers' own configuration ({versions}), goes through the
[memory plan](memory.md), two training steps (sixteen where two change no answer), answers and a [merge](runtimes.md) on
the CPU, with a LoRA [adapter](glossary.md#adapter) on `target_modules: all-linear` and nothing else set. Then a session
of pytest judges the adapter and [promotes](promotion.md) it, by a rule that asks for what it answered before, and
`pytest-finetune verify --run` gives all answers of the [bundle](glossary.md#bundle) again. A stage works (yes) or is
refused, in the words below; what needs a stage that was refused is not tried. The {count} families took
{minutes} minutes of one core. The page says that the machinery fits the shape, and nothing about what a
real model of the family learns."""
COLUMNS: Final = {
    "plan": "plan",
    "train": "training",
    "answer": "answers",
    "merge": "merge",
    "bundle": "bundle",
    "verify": "`verify --run`",
}


def page(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the page of the documentation."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft", "trl")
    )
    head = HEAD.format(versions=versions, count=len(outcomes), minutes=round(seconds / 60))
    lines = [
        *head.splitlines(),
        "",
        f"| family | {' | '.join(COLUMNS.values())} | seconds |",
        f"|---|{'---|' * len(COLUMNS)}---|",
    ]
    for one in outcomes:
        cells = [_cell(one.stages.get(stage)) for stage in COLUMNS]
        lines.append(f"| {one.name} | {' | '.join(cells)} | {one.seconds:.0f} |")
    lines += ["", "## What was said", ""]
    for one in outcomes:
        said = [text for text in one.stages.values() if text != WORKS] + one.notes
        lines += [f"- **{one.name}**: {_one_line(text)}" for text in said]
    return "\n".join(lines) + "\n"


def _cell(said: str | None) -> str:
    return {None: "-", WORKS: "yes"}.get(said, "refused")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("*", "\\*").replace("<", "&lt;")


def main() -> int:
    """Run the families that were named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help="names; all when none is given")
    parser.add_argument("--page", type=Path, help="write the table there")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    began = time.process_time()
    outcomes = []
    for name in given.families or SHAPES:
        with tempfile.TemporaryDirectory() as root:
            outcomes.append(outcome(name, Path(root), SHAPES[name]))
        _print(outcomes[-1])
    if given.page:
        given.page.write_text(page(outcomes, time.process_time() - began), encoding="utf-8")
    return 1 if any(one.raw for one in outcomes) else 0


def _print(said: Outcome) -> None:
    told = ", ".join(f"{stage}: {_one_line(word)}" for stage, word in said.stages.items())
    print(f"{said.name:20s} {said.seconds:5.1f} s  {told}", flush=True)
    for note in said.notes:
        print(f"      {note}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
