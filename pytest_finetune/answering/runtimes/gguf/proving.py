"""Start the server of a file that was just converted, and prove it against the model that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, prove_conversion
from pytest_finetune.answering.runtimes.proof import MOST_TOKENS, RowsOf, logits_of
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.openai import ready
from pytest_finetune.answering.runtimes.server.process import Server
from pytest_finetune.answering.runtimes.server.speaking import LlamaServer
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    from pytest_finetune.training.base import BaseSource

_TIMEOUT_S: Final = 600.0


def prove_file(
    file: Path, form: str, folder: Path, source: BaseSource, rows: RowsOf, server: Path, log: Path
) -> ConversionProof:
    """Return the proof that a whole GGUF file is the model in `folder`, which it was converted from.

    `source` says how the base of that model is loaded, `rows` are those to prove on, `server` is llama.cpp's program.
    Raises AnsweringError.
    """
    from pytest_finetune.training.model import load_model, load_tokenizer

    with surroundings(offline=True):
        whole = replace(source, name=str(folder), revision=None, quantization="none", dtype="float32")
        tokens = rows(load_tokenizer(whole))
        judged = logits_of(load_model(whole, "cpu"), tokens)
    command = (
        *(str(server), "--model", "{model}", "--host", "{host}", "--port", "{port}"),
        *("--ctx-size", str(MOST_TOKENS + 1), "--parallel", "1", "--no-webui"),
    )
    running = Server("the proof of the conversion", command, str(file), log)
    try:
        wire = Wire(running.url, _TIMEOUT_S)
        running.await_ready(lambda: ready(wire), _TIMEOUT_S)
        return prove_conversion(judged, tokens, LlamaServer(wire, {}).next_tokens, form)
    except WireError as error:
        raise AnsweringError(running.told(f"the converted model does not answer: {error}")) from None
    finally:
        running.stop()
