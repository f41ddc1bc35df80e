"""Answer with the GGUF file that would be shipped, through llama.cpp's own server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.gguf.tools import find_server, release_of
from pytest_finetune.experiment.runtimes import ServerSettings
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
    from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
    from pytest_finetune.experiment import Generation

# The context grows in such steps, so that arms with prompts of about one length share a server.
_CONTEXT_STEP: Final = 512
# One prompt at a time and nothing kept of the last one: with either, other rounding could answer otherwise.
_EXTRA: Final = {"cache_prompt": False}


class GgufRuntime:
    """The tuned and the base model, each a GGUF file behind a llama-server of its own.

    `gguf` tells of the file that answered last, `rendering` and `decoding` what an OpenAI-compatible runtime tells.
    """

    def __init__(self, served: ServedFiles) -> None:
        """Remember what to ask; nothing is made or started before the first question."""
        self.proof = served.proof
        self.gguf: JsonTree = {}
        self.rendering: JsonTree = {}
        self.decoding: JsonTree = {}
        self._served = served
        self._asked: tuple[tuple[str, ...], OpenAIRuntime] | None = None

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order. Raises AnsweringError: all of them or none."""
        if not prompts:
            return []
        facts = self._served.products.facts(adapter)
        self.gguf = {**facts, "server": f"llama.cpp {release_of(find_server())}"}
        server = self._server(adapter, self._served.check.longest(prompts) + generation.max_new_tokens)
        answers = server.answer(prompts, generation, adapter)
        self.rendering, self.decoding = server.rendering, server.decoding
        return answers

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return what the answers' key must hold besides model, prompts, generation and packages."""
        return self._served.identity()

    def files(self, adapter: Path | None) -> Mapping[str, Path]:
        """Return the files that answer for a model, by the names under which they are shipped."""
        return self._served.products.files(adapter)

    def release(self) -> None:
        """Stop the server, if one was started; the next question starts it again."""
        if self._asked is not None:
            self._asked[1].release()
            self._asked = None

    def _server(self, adapter: Path | None, tokens: int) -> OpenAIRuntime:
        """Return the server for a model with room for so many tokens; another command is another server."""
        command = self._command(adapter, tokens)
        if self._asked is None or self._asked[0] != command:
            self.release()
            settings = ServerSettings(
                serve=command,
                concurrency=1,
                timeout_s=self._served.settings.timeout_s,
                start_timeout_s=self._served.settings.start_timeout_s,
                extra=_EXTRA,
            )
            self._asked = (command, self._served.asked_at(settings))
        return self._asked[1]

    def _command(self, adapter: Path | None, tokens: int) -> tuple[str, ...]:
        context = -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        added = self._served.products.adapter_file(adapter)
        return (
            str(find_server()),
            *("--model", "{model}", "--host", "{host}", "--port", "{port}"),
            *("--ctx-size", str(context), "--parallel", "1", "--jinja", "--no-webui"),
            *("--reasoning-format", "none"),  # what it thinks is taken apart by us, in every runtime alike
            *(("--threads", threads) if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() else ()),
            *(("--lora", str(added)) if added else ()),
        )
