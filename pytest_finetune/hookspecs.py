"""The extension points, for a ``conftest.py`` or a plugin; the built-in Hugging Face path is one too.

The types all come from `pytest_finetune`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_finetune import (
        DiagnosisEvidence,
        Executor,
        Experiment,
        Finding,
        NextChange,
        Rows,
        Runtime,
        Store,
        TrainingRequest,
        TrainingResult,
    )


@pytest.hookspec(firstresult=True)
def pytest_finetune_train(request: TrainingRequest) -> TrainingResult | None:
    """Train the adapter of a request and return what came out; return None to leave it to the next trainer.

    The adapter (``adapter_model.safetensors`` and ``adapter_config.json``) goes into ``request.folder``. What is
    returned is verified like our own training before it is kept: safetensors only, every tensor finite. The file in
    which it stands is part of the adapter's key, and so is ``pytest_finetune_train.version`` where that is set: a text
    that names whatever else trains, such as a script or a package. So a new trainer never reuses another's adapter::

        from my_trainer import trained_model
        from pytest_finetune import TrainingResult

        def pytest_finetune_train(request):
            model = trained_model(request.base, request.pairs, lora=request.experiment.lora)
            model.save_pretrained(request.folder)
            return TrainingResult(folder=request.folder, steps=120, seconds=61.0, final_loss=0.31, log=())
    """


@pytest.hookspec(firstresult=True)
def pytest_finetune_memory_step(experiment: Experiment) -> str | None:
    """Name the step that your trainer runs, so that the memory plan traces yours; None leaves it to the next trainer.

    The name is ``module:Class`` or ``file.py:Class``; the class does what `pytest_finetune.Step` says, and is
    loaded in the process that traces, so that this one stays without torch. Subclass ``PlainStep`` (the model's own
    loss) or ``TrlStep`` there. Keep it in a file of its own: its content is part of the plan's key::

        def pytest_finetune_memory_step(experiment):
            return "my_trainer.steps:DistillationStep"
    """


@pytest.hookspec(firstresult=True)
def pytest_finetune_runtime(
    name: str, experiment: Experiment, base: str, device: str, store: Store
) -> Runtime | None:
    """Return the runtime of that name for a base model, or None when the name is not yours.

    A runtime loads the base model and answers prompts with and without an adapter; see
    `pytest_finetune.Runtime`, and `ComparingRuntime` for one that can measure a KL. Take of the arguments those that
    you need::

        from my_runtimes import VllmRuntime

        def pytest_finetune_runtime(name, experiment, base, device):
            if name == "vllm":
                return VllmRuntime(base, device)
    """


@pytest.hookspec(firstresult=True)
def pytest_finetune_executor(name: str) -> Executor | None:
    """Return the executor that ``--finetune-executor=NAME`` means, or None when the name is not yours.

    It hands steps to an engine of yours and tells how a job stands; what came of it is read from the store alone. See
    `pytest_finetune.Executor`::

        from my_cluster import ClusterExecutor

        def pytest_finetune_executor(name):
            return ClusterExecutor() if name == "my-cluster" else None
    """


@pytest.hookspec
def pytest_finetune_data_checks(  # type: ignore[empty-body]
    experiment: Experiment, train_rows: Rows, eval_rows: Rows
) -> Iterable[Finding]:
    """Return further findings about the rows.

    Each appears, and closes the gate, like a built-in one::

        from pytest_finetune import Finding

        def pytest_finetune_data_checks(experiment, train_rows, eval_rows):
            for row in train_rows:
                if "lorem ipsum" in row.input.lower():
                    yield Finding(rule="acme/filler", severity="error", read="filler text",
                                  why="nothing to learn", fix="delete the row", file=row.file, line=row.line,
                                  digest=row.digest)
    """


@pytest.hookspec
def pytest_finetune_diagnose(evidence: DiagnosisEvidence) -> NextChange | None:
    """Name the one next change that the evidence points to, or None; asked after the built-in diagnoses::

    from pytest_finetune import NextChange

    def pytest_finetune_diagnose(evidence):
        if evidence.final_loss is not None and evidence.final_loss > 3:
            return NextChange("use our house tokenizer", f"loss {evidence.final_loss:.1f}", rows=())
    """


@pytest.hookspec
def pytest_finetune_record(record: Mapping[str, Any], directory: Path) -> None:
    """Receive the finished record (the content of ``record.json``) and the folder in which it lies::

    import tracker

    def pytest_finetune_record(record, directory):
        tracker.log(record["experiments"][0]["decision"]["verdict"], artifact=directory)
    """
