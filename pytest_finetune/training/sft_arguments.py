"""The names of SFTConfig's arguments, read from the installed sources; neither TRL nor torch is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from pytest_finetune.wording import nearest

_SOURCES: Final = (
    ("trl", "trainer/sft_config.py"),
    ("trl", "trainer/base_config.py"),
    ("transformers", "training_args.py"),
)

OURS: Final[Mapping[str, str]] = {
    "chat_template_path": "evaluation would ask with another template: put it into the base's tokenizer",
    "data_seed": "write training.seed",
    "dataset_kwargs": "the rows are checked as they are prepared; it cannot be switched off",
    "dataset_text_field": "rows are prompt and completion",
    "eos_token": "evaluation would stop at another token: set eos_token in the base model's tokenizer",
    "eval_strategy": "held-out rows are judged after the training, by the eval rules",
    "hub_model_id": "a training sends nothing anywhere",
    "hub_token": "a training sends nothing anywhere",
    "load_best_model_at_end": "choosing a checkpoint on held-out rows would spend them",
    "logging_nan_inf_filter": "a loss that is not finite stops the training at once",
    "max_length": "write training.max_seq_length",
    "model_init_kwargs": "the base is loaded from base_model, revision and quantization",
    "output_dir": "checkpoints lie in the store",
    "pad_token": "set pad_token in the base model's tokenizer",
    "push_to_hub": "a training sends nothing anywhere",
    "report_to": "a training sends nothing anywhere; the record holds its log",
    "resume_from_checkpoint": "an interrupted training goes on by itself",
    "save_only_model": "a training that resumes needs its optimizer",
    "trust_remote_code": "write trust_remote_code in the experiment",
    "use_cpu": "write --finetune-device=cpu",
}


def unknown(given: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each key of `training.sft` that cannot be set among the `known` arguments of SFTConfig, and why."""
    known = set(known)
    for name in given:
        if name in OURS:
            yield name, f"not to be set here: {OURS[name]}"
        elif known and name not in known:
            guess = nearest(name, sorted(known))
            yield name, "SFTConfig has no such argument" + (f"; did you mean {guess!r}?" if guess else "")


@cache
def known_arguments() -> frozenset[str]:
    """Return the annotated fields of the configuration and its parents; empty when a source is not where it was."""
    names: set[str] = set()
    for package, relative in _SOURCES:
        spec = importlib.util.find_spec(package)
        file = Path(spec.origin).parent / relative if spec is not None and spec.origin else None
        if file is None or not file.is_file():
            return frozenset()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names |= {
                    part.target.id
                    for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                }
    return frozenset(names)
