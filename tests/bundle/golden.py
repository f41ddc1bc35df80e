"""What stood in keys and digests when the bundle and the store of `made_before/` were made, for fixed inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_finetune.experiment import Generation, load_experiment
from pytest_finetune.fingerprint import (
    BaseDigest,
    adapter_digest,
    adapter_key,
    base_digest,
    canonical_json,
    digest,
    model_digest,
    outputs_key,
)
from pytest_finetune.store import Look

_BASE: Final = BaseDigest("w" * 64, "t" * 64, "c" * 64, "f" * 64, "g" * 64, "0" * 64)
_VERSIONS: Final = {
    "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0", "bitsandbytes": "0.50.2",
}  # fmt: skip
_PAIRS: Final = (("Ticket: A\nAnswer:", " high"), ("Ticket: B\nAnswer:", " low"))
_EXPERIMENTS: Final = {
    "lora": "peft_method: lora\nlora: {r: 4}\ntraining: {num_train_epochs: 1}\n",
    "dora in four bits": "peft_method: dora\nquantization: nf4\nlora: {r: 8, target_modules: [q_proj, v_proj]}\n"
    "training: {num_train_epochs: 2, learning_rate: 1.0e-4}\n",
    "full, on two processes": "peft_method: full\ntraining: {max_steps: 3, launcher: {processes: 2}}\n",
}
_GENERATIONS: Final = {
    "greedy": Generation(max_new_tokens=32),
    "sampled": Generation(max_new_tokens=32, do_sample=True, temperature=0.7),
}


def computed(project: Path, scratch: Path) -> Mapping[str, object]:
    """Compute every key and digest; `project` is the project of `made_before/`, `scratch` an empty folder."""
    keys = {}
    for rows in ("train.jsonl", "eval.jsonl"):
        (scratch / rows).touch()
    for name, text in _EXPERIMENTS.items():
        (scratch / "finetune.yaml").write_text(
            f"task: priority\nbase_model: base\npaths: {{train_file: train.jsonl, eval_file: eval.jsonl}}\n{text}",
            encoding="utf-8",
        )
        experiment = load_experiment(scratch, "finetune.yaml")
        keys[name] = adapter_key(experiment, _PAIRS, _BASE, _VERSIONS, "cpu", "float32").value
        keys[f"{name}, by another trainer"] = adapter_key(
            experiment, _PAIRS, _BASE, _VERSIONS, "cpu", "float32", trainer="ours 1.0"
        ).value
    (adapter,) = (project / ".finetune" / "adapters").iterdir()
    prompts = ("Ticket: A\nAnswer:", "Ticket: B\nAnswer:")
    return {
        "adapter keys": keys,
        "answer keys": {
            f"{name}, run {run}": outputs_key("m" * 64, prompts, settings, "ours", _VERSIONS, run=run).value
            for name, settings in _GENERATIONS.items()
            for run in (1, 2)
        },
        "adapter": adapter_digest(adapter),
        "base": base_digest(project / "base").value,
        "model": model_digest(_BASE, adapter, quantization="nf4"),
        "look": Look("a" * 64, "b" * 64, "c" * 64, frozenset({"d" * 64, "e" * 64})).identity,
        "canonical": canonical_json({"b": [1, 2.0, None, True], "a": 2e-4, "ü": {"y", "x"}}).decode("ascii"),
        "digest": digest({"b": [1, 2.0], "a": 2e-4}),
    }
