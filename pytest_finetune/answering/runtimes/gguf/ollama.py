"""Answer with the GGUF file that would be shipped, through an Ollama of its own, by a Modelfile."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.gguf.modelfile import PLAIN, Modelfile, context_for, go_template
from pytest_finetune.answering.runtimes.gguf.tools import run_tool
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.process import Server, command_identity
from pytest_finetune.experiment.runtimes import ServerSettings
from pytest_finetune.fingerprint import digest

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
    from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
    from pytest_finetune.data.chat import Chat
    from pytest_finetune.experiment import Generation
    from pytest_finetune.yamlfile import JsonTree

PROGRAM: Final = "ollama"
MODELFILE: Final = "Modelfile"
_PROBE_S: Final = 5.0


class OllamaRuntime:
    """The tuned and the base model, each a GGUF file that an Ollama of ours is given with a Modelfile.

    It listens on a port of its own and keeps its models in a folder of its own beside its log, which goes with it: what
    the user's Ollama holds is not touched. `chat` is the template that its own is made of, unless `written` is a
    Modelfile that is there already. `gguf` tells of the file that answered last and of its Modelfile.
    """

    def __init__(self, served: ServedFiles, chat: Chat | None, written: str | None = None) -> None:
        """Remember what to ask; nothing is made or started before the first question."""
        self.proof = served.proof
        self.gguf: JsonTree = {}
        self.rendering: JsonTree = {}
        self.decoding: JsonTree = {}
        self._served = served
        self._settings = served.settings
        self._products = served.products
        self._chat = chat
        self._written = written
        self._server: Server | None = None
        self._created: set[str] = set()

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order. Raises AnsweringError: all of them or none."""
        if not prompts:
            return []
        modelfile = self.modelfile(prompts, generation, adapter) if self._written is None else None
        text, shipped = (modelfile.text, modelfile.shipped) if modelfile else (self._written or "",) * 2
        facts = self._products.facts(adapter)
        server = self._serving()
        wire = Wire(server.url, self._settings.timeout_s)
        model = self._create(server, text)
        self.gguf = {**facts, "server": f"ollama {_version(wire)}", "modelfile": shipped}
        asked = self._asking(server, model)
        answers = asked.answer(prompts, generation, adapter)
        self.rendering, self.decoding = asked.rendering, asked.decoding
        return answers

    def modelfile(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None
    ) -> Modelfile:
        """Return how Ollama is to serve a model so that it answers these prompts as they were judged."""
        added, ours = self._products.adapter_file(adapter), self._served.check.ours
        return Modelfile(
            gguf=str(self._products.file(adapter)),
            adapter=str(added) if added else None,
            template=self._template(prompts),
            stops=tuple(ours.decoded([stop]) for stop in ours.stops),
            context=context_for(self._served.check.longest(prompts), generation.max_new_tokens),
            generation=generation,
        )

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return what the answers' key must hold besides model, prompts, generation and packages."""
        program = command_identity(find_ollama())
        own = {f"ollama_{name}": value for name, value in program.items()}
        return {**self._served.identity(), **own}

    def files(self, adapter: Path | None) -> Mapping[str, Path]:
        """Return the files that answer for a model, by the names under which they are shipped."""
        return self._products.files(adapter)

    def release(self) -> None:
        """Stop the server, and remove its copies of the models; the next question starts it again."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        shutil.rmtree(self._home, ignore_errors=True)
        self._created.clear()

    @property
    def _home(self) -> Path:
        return self._served.log.with_suffix(".ollama")

    def _template(self, prompts: Sequence[Prompted]) -> str | None:
        if all(isinstance(asked.prompt, str) for asked in prompts):
            return PLAIN
        if self._chat is None or any(asked.tools for asked in prompts):
            return None  # Ollama then takes the nearest of its own to the file's, and the check says what that changes
        return go_template(self._chat.asked, self._served.check.ours.added_start)

    def _serving(self) -> Server:
        if self._server is not None and not self._server.ended:
            return self._server
        self.release()
        told = {
            "OLLAMA_HOST": "{host}:{port}",
            "OLLAMA_MODELS": str(self._home),
            "OLLAMA_NUM_PARALLEL": "1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_KEEP_ALIVE": "-1",
        }
        command = ("env", *(f"{name}={value}" for name, value in told.items()), find_ollama(), "serve")
        self._server = server = Server(self._served.name, command, "", self._served.log)
        wire = Wire(server.url, self._settings.timeout_s)
        try:
            server.await_ready(lambda: _version(wire) != "", self._settings.start_timeout_s)
        except BaseException:
            self.release()
            raise
        return server

    def _create(self, server: Server, modelfile: str) -> str:
        """Let Ollama take the file as a model, once; return the name that it has there. Raises AnsweringError."""
        name = f"finetune-{digest(modelfile)[:12]}:latest"
        if name in self._created:
            return name
        self._home.mkdir(parents=True, exist_ok=True)
        written = self._home / MODELFILE
        written.write_text(modelfile, encoding="utf-8")
        command: list[str | Path] = [find_ollama(), "create", name, "-f", written]
        run_tool(f"runtime {self._served.name!r}: ollama create", command, OLLAMA_HOST=server.url)
        self._created.add(name)
        return name

    def _asking(self, server: Server, model: str) -> OpenAIRuntime:
        timeout_s = self._settings.timeout_s
        return self._served.asked_at(
            ServerSettings(url=server.url, model=model, base_model=model, concurrency=1, timeout_s=timeout_s)
        )


def find_ollama() -> str:
    """Return where Ollama is; AnsweringError says how it is brought."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise AnsweringError(
            "server: ollama needs Ollama, and `ollama` is not on PATH\n"
            "  install it (brew install ollama, or the script on its site), or write server: llama.cpp"
        )
    return found


def _version(wire: Wire) -> str:
    """Return the release that answers; empty while none does."""
    try:
        found = wire.get("/api/version", _PROBE_S)
    except WireError:
        return ""
    return str(found.get("version") or "unknown") if isinstance(found, dict) else ""
