"""Start the server of a file that was just converted, and prove it against the model that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.attach import attach
from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, Converted, prove_conversion
from pytest_finetune.answering.runtimes.proof import MOST_TOKENS, RowsOf, Tokens, logits_of
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.openai import ready
from pytest_finetune.answering.runtimes.server.process import Server
from pytest_finetune.answering.runtimes.server.speaking import LlamaServer
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_finetune.training.base import BaseSource

_TIMEOUT_S: Final = 600.0


def prove_file(
    converted: Converted, source: BaseSource, rows: RowsOf, server: Path, log: Path
) -> ConversionProof:
    """Return the proof that a GGUF file is what it was converted from, an adapter's own beside that of its base.

    `source` says how the base of the model is loaded, `rows` are those to prove on, `server` is llama.cpp's program.
    Raises AnsweringError.
    """
    from pytest_finetune.training.model import load_model, load_tokenizer

    with surroundings(offline=True):
        folder = str(converted.folder)
        whole = replace(source, name=folder, revision=None, quantization="none", dtype="float32")
        tokens = rows(load_tokenizer(whole))
        judged, without = _judged(load_model(whole, "cpu"), converted.adapter, tokens)
    command = (
        *(str(server), "--model", "{model}", "--host", "{host}", "--port", "{port}"),
        *("--ctx-size", str(MOST_TOKENS + 1), "--parallel", "1", "--no-webui"),
        *(("--lora", str(converted.adapter_file)) if converted.adapter_file else ()),
    )
    running = Server("the proof of the conversion", command, str(converted.file), log)
    try:
        wire = Wire(running.url, _TIMEOUT_S)
        running.await_ready(lambda: ready(wire), _TIMEOUT_S)
        told = LlamaServer(wire, {}).next_tokens
        return prove_conversion(judged, tokens, told, converted.form, without)
    except WireError as error:
        raise AnsweringError(running.told(f"the converted model does not answer: {error}")) from None
    finally:
        running.stop()


def _judged(
    model: PreTrainedModel, adapter: Path | None, rows: Tokens
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return the logits that the file is held against, and for an adapter those of its base alone."""
    alone = logits_of(model, rows)
    return (alone, None) if adapter is None else (logits_of(attach(model, adapter), rows), alone)
