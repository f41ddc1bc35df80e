"""Answer with any OpenAI-compatible server: one that runs elsewhere, or one that is started for it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import Wire, WireError, persistently
from pytest_finetune.answering.runtimes.server.process import Server, command_identity
from pytest_finetune.experiment.runtimes import ServerSettings, api_key
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.experiment import Generation

_WATCH_S = 0.2
_PROBE_S = 5.0
_STOPPED = frozenset({"stop", "eos_token", "stop_sequence", "tool_calls", "function_call"})
_CUT = frozenset({"length", "max_tokens", "content_filter"})


class Asked(NamedTuple):
    """Where the prompts go: the address, and the name of the model there; the server when it is ours."""

    wire: Wire
    model: str
    server: Server | None


class OpenAIRuntime:
    """The tuned and the base model behind a server.

    `model_folder` gives the folder of the model that a command is to serve: the tuned one (an adapter's folder,
    merged) or, for None, the base. `log` is where the output of a server of ours is kept.
    """

    def __init__(
        self, name: str, settings: ServerSettings, model_folder: Callable[[Path | None], Path], log: Path
    ) -> None:
        """Remember what to ask; nothing is started before the first question."""
        self._name = name
        self._settings = settings
        self._model_folder = model_folder
        self._log = log
        self._server: Server | None = None
        self._served: str | None = None

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order. Raises AnsweringError: all of them or none."""
        if not prompts:
            return []
        asked = self._reach(adapter)
        try:
            return _Batch(self._name, self._settings, asked, generation).answers(prompts)
        except AnsweringError:
            self.release()
            raise

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return what the answers' key must hold of this server, as far as that can be known without a start."""
        settings = self._settings
        known: JsonTree = {
            "api": settings.api,
            "extra": dict(settings.extra),
            "model": settings.model if adapter is not None else settings.base_model or settings.model,
        }
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
        if self._settings.url is not None:
            wire = self._wire(self._settings.url)
            return Asked(wire, self._remote_model(wire, adapter), None)
        given = (
            self._settings.model if adapter is not None else self._settings.base_model or self._settings.model
        )
        needed = self._settings.starts_per_model or given is None
        folder = str(self._model_folder(adapter)) if needed else ""
        served = folder if self._settings.starts_per_model else ""
        if self._server is None or self._served != served or self._server.ended:
            self._start(served)
        assert self._server is not None
        return Asked(self._wire(self._server.url), given or folder, self._server)

    def _start(self, model: str) -> None:
        self.release()
        self._server = server = Server(self._name, self._settings.serve, model, self._log)
        self._served = model
        wire = self._wire(server.url)
        try:
            server.await_ready(lambda: _ready(wire), self._settings.start_timeout_s)
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


class _Batch:
    """One round of questions: a few threads ask, this one watches them and the server."""

    def __init__(self, name: str, settings: ServerSettings, asked: Asked, generation: Generation) -> None:
        self._name = name
        self._settings = settings
        self._asked = asked
        self._generation = generation
        self._stop = threading.Event()
        self._results: queue.Queue[tuple[int, Answer | Exception]] = queue.Queue()

    def answers(self, prompts: Sequence[Prompted]) -> list[Answer]:
        """Return every answer, or raise AnsweringError for the first that cannot be had."""
        waiting: queue.SimpleQueue[tuple[int, Prompted]] = queue.SimpleQueue()
        for at, prompted in enumerate(prompts):
            waiting.put((at, prompted))
        # Daemon threads: an interrupt does not wait for a server that hangs.
        for number in range(min(self._settings.concurrency, len(prompts))):
            name = f"finetune-{self._name}-{number}"
            threading.Thread(target=self._work, args=(waiting,), name=name, daemon=True).start()
        found: dict[int, Answer] = {}
        try:
            while len(found) < len(prompts):
                at, result = self._next(len(found), len(prompts))
                if isinstance(result, Exception):
                    raise AnsweringError(self._told(prompts[at], result, len(found), len(prompts))) from None
                found[at] = result
        finally:
            self._stop.set()
        return [found[at] for at in range(len(prompts))]

    def _next(self, done: int, total: int) -> tuple[int, Answer | Exception]:
        while True:
            try:
                return self._results.get(timeout=_WATCH_S)
            except queue.Empty:
                server = self._asked.server
                if server is not None and server.ended:
                    raise AnsweringError(
                        server.told(f"the server ended after {done} of {total} answers; none of them is kept")
                    ) from None

    def _told(self, prompted: Prompted, error: Exception, done: int, total: int) -> str:
        what = f"{prompted.id} (line {prompted.line}) got no answer, after {done} of {total}; none of them is kept"
        server = self._asked.server
        if server is not None:
            # A refused connection is often the first sign of a server that is about to be gone.
            deadline = time.monotonic() + 1.0
            while not server.ended and time.monotonic() < deadline:
                time.sleep(0.05)
            ended = "; the server has ended" if server.ended else ""
            return server.told(f"{what}: {error}{ended}")
        return f"runtime {self._name!r}: {what}\n  {self._asked.wire.url}: {error}"

    def _work(self, waiting: queue.SimpleQueue[tuple[int, Prompted]]) -> None:
        while not self._stop.is_set():
            try:
                at, prompted = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._results.put((at, self._ask(at, prompted)))
            except Exception as error:  # every failure belongs to the thread that waits
                self._results.put((at, error))
                return

    def _ask(self, at: int, prompted: Prompted) -> Answer:
        chat = self._settings.api == "chat" or (
            self._settings.api is None and not isinstance(prompted.prompt, str)
        )
        body = self._body(at, prompted, chat=chat)
        path = "/v1/chat/completions" if chat else "/v1/completions"
        started = time.perf_counter()
        found = persistently(lambda: self._asked.wire.post(path, body), self._settings.retries, self._stop)
        seconds = time.perf_counter() - started
        return _answer(prompted, found, seconds, self._generation.max_new_tokens, chat=chat)

    def _body(self, at: int, prompted: Prompted, *, chat: bool) -> JsonTree:
        generation = self._generation
        prompt = prompted.prompt
        if chat:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            asked: JsonTree = {"messages": messages}
        else:
            asked = {"prompt": prompt}
        body = {
            **self._settings.extra,
            "model": self._asked.model,
            **asked,
            "max_tokens": generation.max_new_tokens,
            "temperature": 0,
        }
        if generation.do_sample:
            sampling = {"temperature": generation.temperature, "top_p": generation.top_p}
            body |= {**sampling, "seed": generation.seed + at}
        return body


def _answer(prompted: Prompted, found: JsonTree, seconds: float, limit: int, *, chat: bool) -> Answer:
    """Read a completion; WireError names what it lacks: a number that is not there is not made up."""
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"] if chat else choice["text"]
        tokens = found["usage"]["completion_tokens"]
    except (LookupError, TypeError):
        raise WireError(f"the answer lacks choices or usage: {_brief(found)}", again=False) from None
    if text is None:
        text = ""
    if not isinstance(text, str) or not isinstance(tokens, int) or isinstance(tokens, bool):
        raise WireError(f"the answer holds no text with its tokens: {_brief(found)}", again=False)
    reason = choice.get("finish_reason")
    stopped = reason in _STOPPED if reason in _STOPPED | _CUT else tokens < limit
    sent = (
        prompted.prompt
        if isinstance(prompted.prompt, str)
        else json.dumps(prompted.prompt, ensure_ascii=False)
    )
    return Answer(prompted.id, prompted.line, sent, text, tokens, seconds, stopped)


def _brief(found: object) -> str:
    return json.dumps(found)[:200]


def _ready(wire: Wire) -> bool:
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


def _served_entry(wire: Wire, model: str) -> JsonTree:
    """Return what the server tells of the model, without what changes from one request to the next."""
    try:
        listed = _models(wire)
    except WireError:
        return {}
    entry = next((one for one in listed if one["id"] == model), {})
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
