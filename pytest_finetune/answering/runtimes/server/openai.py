"""Answer with any OpenAI-compatible server: one that runs elsewhere, or one that is started for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server import decoding
from pytest_finetune.answering.runtimes.server.batch import Asked, Batch
from pytest_finetune.answering.runtimes.server.decoding import NOTHING_SET, BaseDecoding
from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.process import Server, command_identity
from pytest_finetune.answering.runtimes.server.speaking import speaker_of
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.experiment.runtimes import ServerSettings, api_key
from pytest_finetune.experiment.serve_command import without_adapter
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.proof import Proof
    from pytest_finetune.answering.runtimes.server.checking import RenderingCheck
    from pytest_finetune.data.chat import Chat
    from pytest_finetune.experiment import Generation

_PROBE_S: Final = 5.0


def not_merged(adapter: Path | None) -> None:
    """Stand for models of which nothing was merged here."""


class OpenAIRuntime:
    """The tuned and the base model behind a server.

    `model_folder` gives the folder of the model that a command is to serve: the tuned one (an adapter's folder,
    merged) or, for None, the base. `log` is where the output of a server of ours is kept, `base` what the base's folder
    says of decoding, `chat` its template, which makes messages the text of ``api: completions``, `proof` gives the
    proof of the merged model in such a folder, `check` holds the prompts that the server makes against those of the
    decision, `base_folder` is where the base lies. `decoding` tells how the last questions were decoded, where that may
    not be how the decision does, and `rendering` what their check has found.
    """

    def __init__(
        self,
        name: str,
        settings: ServerSettings,
        model_folder: Callable[[Path | None], Path],
        log: Path,
        base: BaseDecoding = NOTHING_SET,
        chat: Chat | None = None,
        proof: Callable[[Path | None], Proof | None] = not_merged,
        check: RenderingCheck | None = None,
        base_folder: Path | None = None,
    ) -> None:
        """Remember what to ask; nothing is started before the first question."""
        self.proof = proof
        self._name = name
        self._settings = settings
        self._model_folder = model_folder
        self._log = log
        self._chat = chat
        self._base = base.but_for(settings.extra)
        self._check = check
        self._base_folder = str(base_folder or "")
        self.decoding: JsonTree = {}
        self.rendering: JsonTree = {}
        self._server: Server | None = None
        self._served: str | None = None

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order. Raises AnsweringError: all of them or none."""
        if not prompts:
            return []
        asked = self._reach(adapter)
        batch = Batch(self._name, self._settings, asked, generation, self._base.stops)
        try:
            sent = [self._sent(one) for one in prompts]
            answers = self._checked(batch, asked, prompts, sent)
        except AnsweringError:
            self.release()
            raise
        held = decoding.calls_held(asked.kind, sent, self._settings.extra)
        self.decoding = decoding.facts(self._base, batch.refused, held)
        return answers

    def _checked(
        self, batch: Batch, asked: Asked, prompts: Sequence[Prompted], sent: Sequence[Prompted]
    ) -> list[Answer]:
        """Return the answers, the prompts that the server makes compared before and its counts after."""
        if self._check is None:
            return batch.answers(sent)
        speaker = speaker_of(asked.kind, asked.wire, asked.model, self._settings.extra)
        found = self._check.before(prompts, sent, speaker)
        answers = batch.answers(sent)
        self.rendering = self._check.after(prompts, found, batch.prompt_tokens)
        return answers

    def _sent(self, asked: Prompted) -> Prompted:
        """Return a prompt as the server is sent it: completions know no messages."""
        if isinstance(asked.prompt, str) or self._settings.api != "completions":
            return asked
        if self._chat is None:
            raise AnsweringError(
                f"runtime {self._name!r}: api: completions takes text, and the base's chat template is not here to "
                "make it: leave api out"
            )
        try:
            return asked._replace(prompt=self._chat.asked(asked.prompt, asked.tools))
        except TemplateError as error:
            raise AnsweringError(f"{asked.id} (line {asked.line}): {error}") from None

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return what the answers' key must hold of this server, as far as that can be known without a start."""
        settings = self._settings
        known: JsonTree = {
            "api": settings.api,
            "extra": dict(settings.extra),
            "model": settings.model if adapter is not None else settings.base_model or settings.model,
        }
        if self._base.sets:  # what the folder sets, a server applied before it was told otherwise
            known["decoding"] = {"instead_of": dict(self._base.sets)}
        if settings.url is None:
            return {**known, "serve": list(settings.serve), **command_identity(settings.serve[0])}
        return {**known, "url": settings.url, **self._remote_identity(adapter)}

    def release(self) -> None:
        """Stop the server, if one was started; the next question starts it again."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _remote_identity(self, adapter: Path | None) -> JsonTree:
        wire = self._wire(str(self._settings.url))
        model = self._remote_model(wire, adapter)
        return {"served": _served_entry(wire, model), "version": _version(wire)}

    def _reach(self, adapter: Path | None) -> Asked:
        settings = self._settings
        if settings.url is not None:
            wire = self._wire(settings.url)
            return self._asked(wire, self._remote_model(wire, adapter), None)
        given = settings.model if adapter is not None else settings.base_model or settings.model
        if settings.takes_adapter:
            if adapter is None:
                given = settings.base_model or self._base_folder
            return self._reach_beside(adapter, str(given))
        needed = settings.starts_per_model or given is None
        folder = str(self._model_folder(adapter)) if needed else ""
        served = folder if settings.starts_per_model else ""
        if self._server is None or self._served != served or self._server.ended:
            self._start(settings.serve, served)
        assert self._server is not None
        return self._asked(self._wire(self._server.url), given or folder, self._server)

    def _reach_beside(self, adapter: Path | None, name: str) -> Asked:
        """Reach the server of the base that knows an adapter by its name; the base itself answers at any of them."""
        if adapter is not None and is_whole_model(adapter):
            raise AnsweringError(
                f"runtime {self._name!r}: {adapter} is a model that was trained in full, no adapter: write {{model}} "
                "in `serve`"
            )
        running = self._server is not None and not self._server.ended
        if not running or (adapter is not None and self._served != str(adapter)):
            command, folders = self._settings.serve, {"base": self._base_folder, "adapter": str(adapter)}
            self._start(command if adapter is not None else without_adapter(command), "", folders)
            self._served = str(adapter or "")
        assert self._server is not None
        wire = self._wire(self._server.url)
        listed = [str(one["id"]) for one in _models_or_none(wire)]
        if listed and name not in listed:
            what = f"the server has no model {name!r}; it has: {', '.join(listed[:10])}"
            raise AnsweringError(
                f"{self._server.told(what)}\n  `model` and `base_model` are the names that `serve` gives them"
            )
        return self._asked(wire, name, self._server)

    def _asked(self, wire: Wire, model: str, server: Server | None) -> Asked:
        owner = _served_entry(wire, model).get("owned_by")
        return Asked(wire, model, decoding.kind_of(wire, owner, self._settings.serve), server)

    def _start(self, command: Sequence[str], model: str, folders: Mapping[str, str] = {}) -> None:
        self.release()
        self._server = server = Server(self._name, command, model, self._log, folders)
        self._served = model
        wire = self._wire(server.url)
        try:
            server.await_ready(lambda: ready(wire), self._settings.start_timeout_s)
        except BaseException:
            self.release()
            raise

    def _wire(self, url: str) -> Wire:
        try:
            key = api_key(self._settings)
        except KeyError as error:
            raise AnsweringError(
                f"runtime {self._name!r}: api_key_env names {error.args[0]}, and this variable is not set"
            ) from None
        address = url.rstrip("/")
        return Wire(address.removesuffix("/v1"), self._settings.timeout_s, key)

    def _remote_model(self, wire: Wire, adapter: Path | None) -> str:
        """Return the model's name at a server that runs already; the only one there when none is given."""
        settings = self._settings
        given = settings.model if adapter is not None else settings.base_model
        names = self._remote_names(wire)
        if given is not None:
            if names and given not in names:
                raise AnsweringError(
                    f"runtime {self._name!r}: the server at {wire.url} has no model {given!r}; "
                    f"it has: {', '.join(names[:10])}"
                )
            return given
        if adapter is None:
            raise AnsweringError(
                f"runtime {self._name!r}: base_model is not given, so the base cannot be asked at {wire.url}"
            )
        if len(names) != 1:
            found = ", ".join(names[:10]) or "a list without models"
            raise AnsweringError(
                f"runtime {self._name!r}: the server at {wire.url} has {found}: "
                "write in `model` which of them is the tuned one"
            )
        return names[0]

    def _remote_names(self, wire: Wire) -> list[str]:
        try:
            return [str(one["id"]) for one in _models(wire)]
        except WireError as error:
            if error.status in (404, 405, 501):
                return []  # it has no list of models
            raise AnsweringError(
                f"runtime {self._name!r}: the server at {wire.url} does not answer: {error}\n"
                "  start it, or correct `url`"
            ) from None


def ready(wire: Wire) -> bool:
    """Tell whether a server that was just started takes questions."""
    health = _status(wire, "/health")
    if health in (None, 503):  # not there yet, or still loading its model
        return False
    return health == 200 or _status(wire, "/v1/models") == 200


def _status(wire: Wire, path: str) -> int | None:
    """Return the status that a path answers with, None when there is no connection."""
    try:
        wire.get(path, _PROBE_S)
    except WireError as error:
        return error.status
    return 200


def _models(wire: Wire) -> list[Json]:
    found = wire.get("/v1/models")
    listed = found.get("data") if isinstance(found, Mapping) else None
    return [one for one in listed or () if isinstance(one, Mapping) and isinstance(one.get("id"), str)]


def _models_or_none(wire: Wire) -> list[Json]:
    """Return the models that a server lists; none where it has no list."""
    try:
        return _models(wire)
    except WireError:
        return []


def _served_entry(wire: Wire, model: str) -> JsonTree:
    """Return what the server tells of the model, without what changes from one request to the next."""
    entry = next((one for one in _models_or_none(wire) if one["id"] == model), {})
    stable = ("id", "owned_by", "root", "parent", "max_model_len", "meta")
    return {name: entry[name] for name in stable if name in entry}


def _version(wire: Wire) -> object:
    """Return the server's version where it tells one (vLLM at /version, TGI at /info)."""
    for path in ("/version", "/info"):
        try:
            found = wire.get(path, _PROBE_S)
        except WireError:
            continue
        if isinstance(found, Mapping):
            return {
                name: found[name] for name in ("version", "model_id", "model_sha", "sha") if name in found
            }
    return None
