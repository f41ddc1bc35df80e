"""Treat LLM fine-tunes as tests: data contracts, memory fit and keep-or-discard rules as pytest assertions.

The names below are the public face, listed in docs/api.md; everything else is private and may move. Each is
imported when it is first asked for, so `import pytest_finetune` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_finetune import rules as rules
    from pytest_finetune import strategies as strategies
    from pytest_finetune.answering.answers import Answer as Answer
    from pytest_finetune.answering.prompts import Prompted as Prompted
    from pytest_finetune.answering.response import Response as Response
    from pytest_finetune.answering.runtimes import AnsweringError as AnsweringError
    from pytest_finetune.answering.runtimes import ComparingRuntime as ComparingRuntime
    from pytest_finetune.answering.runtimes import Runtime as Runtime
    from pytest_finetune.data.contract import Contract as Contract
    from pytest_finetune.data.findings import Finding as Finding
    from pytest_finetune.data.rows import Row as Row
    from pytest_finetune.data.rows import Rows as Rows
    from pytest_finetune.errors import FinetuneError as FinetuneError
    from pytest_finetune.executors.protocol import Executor as Executor
    from pytest_finetune.executors.protocol import ExecutorError as ExecutorError
    from pytest_finetune.executors.protocol import Seen as Seen
    from pytest_finetune.executors.protocol import Submission as Submission
    from pytest_finetune.experiment import Experiment as Experiment
    from pytest_finetune.judging.decision import Decision as Decision
    from pytest_finetune.judging.drift import Drift as Drift
    from pytest_finetune.judging.evidence import DiagnosisEvidence as DiagnosisEvidence
    from pytest_finetune.judging.evidence import NextChange as NextChange
    from pytest_finetune.memory.hardware.detect import Budget as Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan as MemoryPlan
    from pytest_finetune.memory.tracer.steps import Loss as Loss
    from pytest_finetune.memory.tracer.steps import PlainStep as PlainStep
    from pytest_finetune.memory.tracer.steps import Step as Step
    from pytest_finetune.memory.tracer.steps import TrlStep as TrlStep
    from pytest_finetune.record.validate import problems as problems
    from pytest_finetune.store import Store as Store
    from pytest_finetune.suite.arm_view import Arm as Arm
    from pytest_finetune.training.request import TrainingError as TrainingError
    from pytest_finetune.training.request import TrainingRequest as TrainingRequest
    from pytest_finetune.training.request import TrainingResult as TrainingResult

__version__ = "0.2.0"

KiB: Final = 1024
MiB: Final = 1024**2
GiB: Final = 1024**3

_HOMES: Final = {
    "Answer": "answering.answers",
    "AnsweringError": "answering.runtimes",
    "Arm": "suite.arm_view",
    "Budget": "memory.hardware.detect",
    "ComparingRuntime": "answering.runtimes",
    "Contract": "data.contract",
    "Decision": "judging.decision",
    "DiagnosisEvidence": "judging.evidence",
    "Drift": "judging.drift",
    "Executor": "executors.protocol",
    "ExecutorError": "executors.protocol",
    "Experiment": "experiment",
    "Finding": "data.findings",
    "FinetuneError": "errors",
    "Loss": "memory.tracer.steps",
    "MemoryPlan": "memory.plan.plan",
    "NextChange": "judging.evidence",
    "PlainStep": "memory.tracer.steps",
    "Prompted": "answering.prompts",
    "Response": "answering.response",
    "Row": "data.rows",
    "Rows": "data.rows",
    "Runtime": "answering.runtimes",
    "Seen": "executors.protocol",
    "Step": "memory.tracer.steps",
    "Store": "store",
    "Submission": "executors.protocol",
    "TrainingError": "training.request",
    "TrainingRequest": "training.request",
    "TrainingResult": "training.request",
    "TrlStep": "memory.tracer.steps",
    "problems": "record.validate",
    "rules": "rules",
    "strategies": "strategies",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pytest_finetune' has no attribute {name!r}")
    from importlib import import_module

    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        from pytest_finetune.errors import for_user

        raise for_user(error) or error from None
    return home if _HOMES[name] == name else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
