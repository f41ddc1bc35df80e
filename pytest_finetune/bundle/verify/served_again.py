"""Let the GGUF file of a bundle answer again, through the server that answered when the decision was made."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.gguf.ollama import OllamaRuntime
from pytest_finetune.answering.runtimes.gguf.runtime import GgufRuntime
from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
from pytest_finetune.answering.runtimes.gguf.tools import find_tools
from pytest_finetune.answering.runtimes.server.checking import Judged, RenderingCheck
from pytest_finetune.answering.runtimes.server.decoding import base_decoding
from pytest_finetune.bundle.format import BundleError
from pytest_finetune.bundle.shipped import ADAPTER, MODEL, judged_file
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.experiment.runtimes import GgufSettings
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.yamlfile import Json, JsonTree


class BundledFiles:
    """The files of a bundle, which answer for its adapter alone."""

    def __init__(self, bundle: Path, told: Json) -> None:
        self._bundle = bundle
        self._told = told

    def file(self, adapter: Path | None) -> Path:
        """Return the file of the tuned model; with an adapter beside it, that of its base."""
        return self._bundle / MODEL

    def adapter_file(self, adapter: Path | None) -> Path | None:
        """Return the file of the adapter; None where it is merged."""
        file = self._bundle / ADAPTER
        return file if self._told["adapter"] == "lora" and file.is_file() else None

    def files(self, adapter: Path | None) -> Mapping[str, Path]:
        """Return both by their names."""
        return {file.name: file for file in (self.file(adapter), self.adapter_file(adapter)) if file}

    def facts(self, adapter: Path | None) -> JsonTree:
        """Return what the record says."""
        return dict(self._told)


def served_again(
    bundle: Bundle, experiment: Experiment, recorded: Sequence[Answer]
) -> tuple[list[Answer], dict[str, tuple[object, object]]]:
    """Return new answers to recorded prompts, and what is not as it was. Raises AnsweringError."""
    told = judged_file(bundle.experiment)
    if told is None:
        raise BundleError("the decision was made on no GGUF file")
    chat = experiment.prompt.template == CHAT
    arguments = experiment.prompt.chat_template_kwargs
    prompts = [_prompted(answer, arguments if chat else None) for answer in recorded]
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        runtime = _runtime(bundle, experiment, told, Path(scratch) / "server.log")
        try:
            given = runtime.answer(prompts, experiment.generation, bundle.folder)
        finally:
            runtime.release()
    now = str(runtime.gguf["server"])
    return given, {} if now == told["server"] else {"server": (told["server"], now)}


def _runtime(bundle: Bundle, experiment: Experiment, told: Json, log: Path) -> GgufRuntime | OllamaRuntime:
    folder, server = bundle.folder.resolve(), str(told["server"]).partition(" ")[0]
    settings = GgufSettings(told["quantization"], server, told["adapter"])
    decoding = base_decoding(folder, experiment.generation)
    check = RenderingCheck("gguf", lambda: _judged(folder, decoding.stops), refuses=True)
    files = BundledFiles(folder, told)
    served = ServedFiles("gguf", settings, files, find_tools, log, decoding, check)
    if "modelfile" not in told:
        return GgufRuntime(served)
    written = str(told["modelfile"]).replace(" ./", f" {(folder / MODEL).parent}/")
    return OllamaRuntime(served, None, written)


def _judged(folder: Path, stops: Sequence[int]) -> Judged:
    """Load the tokenizer that lies in the bundle."""
    from transformers import AutoTokenizer

    with surroundings(offline=True):
        return Judged(AutoTokenizer.from_pretrained(str(folder)), "the bundle", stops)


def _prompted(answer: Answer, arguments: Json | None) -> Prompted:
    """Read a recorded prompt back: of a chat, a server was sent the messages, and tools beside them."""
    prompt = answer.prompt if arguments is None else json.loads(answer.prompt)
    return Prompted(answer.id, answer.line, prompt, answer.tools, arguments or {})
