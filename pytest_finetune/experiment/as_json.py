"""An experiment on its way to a process of its own: what a training reads, as JSON, checked again when it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_finetune.experiment.reading import build
from pytest_finetune.experiment.records import Experiment
from pytest_finetune.experiment.schema import schema
from pytest_finetune.yamlfile import schema_problems

TRAINED_BY: Final = (
    "task",
    "base_model",
    "revision",
    "trust_remote_code",
    "peft_method",
    "quantization",
    "lora",
    "training",
    "prompt",
    "paths",
)


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """Return what a training reads of an experiment."""
    keys = {name: experiment.resolved[name] for name in TRAINED_BY if name in experiment.resolved}
    return {"name": experiment.name, "file": experiment.file, "root": str(experiment.root), "keys": keys}


def experiment_of(tree: Mapping[str, Any]) -> Experiment:
    """Build the experiment again; what a training does not read has its default. Raises ValueError for a bad tree."""
    keys = tree["keys"]
    problems = [f"{found.key}: {found.text}" for found in schema_problems(keys, schema(), lambda _: 1)]
    if problems:
        raise ValueError("; ".join(problems))
    return build(Path(tree["root"]), tree["file"], keys, {}, tree["name"])
