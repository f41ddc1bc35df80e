"""The drift's reference: what a random adapter of the trained one's shapes and norms answers to neutral prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.protocol import ComparingRuntime
from pytest_finetune.experiment.runtimes import TRANSFORMERS
from pytest_finetune.fingerprint import digest
from pytest_finetune.suite.jobs.requests import can_be_sent
from pytest_finetune.suite.steps.answering import ResolvedArm, Stored, answered

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.engine import Engine

SCHEMA: Final = 1
"""Raise it when our own code makes another random adapter of the same trained one."""
_ASKED: Final = "neutral prompts, a random adapter"


def null_answered(
    context: Context, engine: Engine, tuned: ResolvedArm, prompts: Sequence[Prompted]
) -> Stored | None:
    """Return a random adapter's answers, stored under a key of their own; None where none of the same size can be made.

    That is a model trained in full, one whose training changes its base or scales its weights as well (DoRA), and a
    runtime that takes no adapter as it comes.
    """
    experiment = context.experiment
    plain = experiment.peft_method in {"lora", "qlora"} and not experiment.lora.changes_base
    if not plain or experiment.trained or tuned.plan.runtime != TRANSFORMERS:
        return None
    null = null_of(tuned)
    if context.store.read("outputs", null.key(prompts)) is not None:
        return answered(context, engine, null, prompts, _ASKED)
    if tuned.adapter is None or not isinstance(engine.runtime(TRANSFORMERS), ComparingRuntime):
        return None
    if context.jobs is not None and can_be_sent(context, TRANSFORMERS, tuned.adapter):
        return answered(context, engine, null, prompts, _ASKED)
    from pytest_finetune.answering.null_adapter import write_null_adapter

    with TemporaryDirectory() as scratch:
        write_null_adapter(tuned.adapter, Path(scratch))
        return answered(context, engine, dataclasses.replace(null, adapter=Path(scratch)), prompts, _ASKED)


def null_of(tuned: ResolvedArm) -> ResolvedArm:
    """Return the arm that answers with a random adapter of the trained one's shapes."""
    model = digest({"null adapter": SCHEMA, "of": tuned.model})
    return dataclasses.replace(tuned, model=model, random=True)
