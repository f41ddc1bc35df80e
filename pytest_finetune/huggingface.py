"""The built-in Hugging Face path, registered like any plugin's: train with TRL and PEFT, answer with transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_finetune.evaluation.runtimes import Runtime
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.training.request import TrainingRequest, TrainingResult


@pytest.hookimpl(trylast=True)
def pytest_finetune_train(request: TrainingRequest) -> TrainingResult:
    """Train with TRL's SFTTrainer on a PEFT-wrapped base."""
    from pytest_finetune.training.sft import train

    return train(request)


@pytest.hookimpl(trylast=True)
def pytest_finetune_memory_step(experiment: Experiment) -> str:
    """Name TRL's step, which the trainer above runs."""
    from pytest_finetune.memory.workload import TRL_STEP

    return TRL_STEP


@pytest.hookimpl(trylast=True)
def pytest_finetune_runtime(name: str, experiment: Experiment, base: str, device: str) -> Runtime | None:
    """Answer with transformers: the adapter on the frozen base, in its training quantisation."""
    if name != "transformers":
        return None
    from pytest_finetune.evaluation.runtimes.transformers import TransformersRuntime

    return TransformersRuntime(
        base=base,
        revision=experiment.revision,
        device=device,
        quantization=experiment.quantization,
        trust_remote_code=experiment.trust_remote_code,
    )
