"""The built-in Hugging Face path, registered like any plugin's: train with TRL and PEFT, answer with transformers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_finetune.answering.runtimes import Runtime
from pytest_finetune.answering.runtimes.gguf.ollama import OllamaRuntime
from pytest_finetune.answering.runtimes.gguf.products import GgufProducts
from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, Converted
from pytest_finetune.answering.runtimes.gguf.proving import prove_file
from pytest_finetune.answering.runtimes.gguf.runtime import GgufRuntime
from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
from pytest_finetune.answering.runtimes.gguf.tools import find_tools
from pytest_finetune.answering.runtimes.merged import MergedRuntime, ModelFolders
from pytest_finetune.answering.runtimes.proof import held_out_rows
from pytest_finetune.answering.runtimes.server.checking import RenderingCheck, judged_by
from pytest_finetune.answering.runtimes.server.decoding import base_decoding
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime, not_merged
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.data.chat import chat_of
from pytest_finetune.experiment import Experiment
from pytest_finetune.experiment.runtimes import (
    OLLAMA,
    TRANSFORMERS,
    GgufSettings,
    MergedSettings,
    ServerSettings,
)
from pytest_finetune.fingerprint import base_folder
from pytest_finetune.memory.plan.workload import TRL_STEP
from pytest_finetune.store import Store
from pytest_finetune.training.base import source_of
from pytest_finetune.training.request import TrainingRequest, TrainingResult
from pytest_finetune.training.sft import train


@pytest.hookimpl(trylast=True)
def pytest_finetune_train(request: TrainingRequest) -> TrainingResult:
    """Train with TRL's SFTTrainer on a PEFT-wrapped base."""
    return train(request)


@pytest.hookimpl(trylast=True)
def pytest_finetune_memory_step(experiment: Experiment) -> str:
    """Name TRL's step, which the trainer above runs."""
    return TRL_STEP


@pytest.hookimpl(trylast=True)
def pytest_finetune_runtime(
    name: str, experiment: Experiment, base: str, device: str, store: Store
) -> Runtime | None:
    """Answer with the adapter on the frozen base, with the merged model, or with a server."""
    settings = experiment.runtime_settings.get(name)
    if isinstance(settings, MergedSettings):
        folders = _folders(experiment, base, device, store, settings.dtype)
        return MergedRuntime(folders, device)
    if isinstance(settings, GgufSettings):
        return _gguf(name, settings, experiment, base, device, store)
    if isinstance(settings, ServerSettings):
        log = _log(experiment, name, store)
        folders = _folders(experiment, base, device, store)
        place = base_folder(experiment)
        filled_in = base_decoding(place, experiment.generation)
        check = RenderingCheck(name, judged_by(source_of(experiment, base), filled_in.stops), settings.api)
        return OpenAIRuntime(
            name, settings, folders.folder, log, filled_in, chat_of(experiment), folders.proof, check, place
        )
    if name != TRANSFORMERS:
        return None
    source = source_of(experiment, base)
    return TransformersRuntime(
        base=source.name,
        revision=source.revision,
        device=device,
        quantization=source.quantization,
        trust_remote_code=source.trust_remote_code,
        attention=source.attention,
    )


def _gguf(
    name: str, settings: GgufSettings, experiment: Experiment, base: str, device: str, store: Store
) -> GgufRuntime | OllamaRuntime:
    folders = _folders(experiment, base, device, store)
    decoding = base_decoding(base_folder(experiment), experiment.generation)
    judged = judged_by(source_of(experiment, base), decoding.stops)
    check = RenderingCheck(name, judged, refuses=True)
    log = _log(experiment, name, store)

    def prove(converted: Converted) -> ConversionProof:
        rows, server = held_out_rows(experiment), find_tools().server
        return prove_file(converted, folders.source, rows, server, log)

    products = GgufProducts(store, folders, settings, find_tools, prove)
    proof = folders.stored_proof if settings.adapter == "merged" else not_merged
    served = ServedFiles(name, settings, products, find_tools, log, decoding, check, proof)
    return OllamaRuntime(served, chat_of(experiment)) if settings.server == OLLAMA else GgufRuntime(served)


def _log(experiment: Experiment, name: str, store: Store) -> Path:
    return store.log(re.sub(r"[^0-9A-Za-z._-]", "-", f"{experiment.name}-{name}")[:120].lstrip("._-"))


def _folders(
    experiment: Experiment, base: str, device: str, store: Store, dtype: str = "auto"
) -> ModelFolders:
    source, rows = source_of(experiment, base), held_out_rows(experiment)
    return ModelFolders(store, source, base_folder(experiment), device, dtype, rows)
