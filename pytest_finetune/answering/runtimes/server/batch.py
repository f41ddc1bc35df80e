"""One round of questions to a server: asked by a few threads, watched by another, all answers or none."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server import decoding, tool_calls
from pytest_finetune.answering.runtimes.server.http import Wire, WireError, persistently
from pytest_finetune.answering.runtimes.server.process import Server
from pytest_finetune.answering.runtimes.server.speaking import question
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.experiment import Generation
    from pytest_finetune.experiment.runtimes import ServerSettings

_WATCH_S: Final = 0.2
_STOPPED: Final = frozenset({"stop", "eos_token", "stop_sequence", "tool_calls", "function_call"})
_CUT: Final = frozenset({"length", "max_tokens", "content_filter"})
_REFUSED: Final = frozenset({400, 422})


class Asked(NamedTuple):
    """Where the prompts go: the address, the name of the model there, the kind of server; itself when it is ours."""

    wire: Wire
    model: str
    kind: str
    server: Server | None


class Batch:
    """One round of questions: a few threads ask, this one watches them and the server.

    `refused` are the settings that the server did not take, `prompt_tokens` how many tokens it says that each prompt
    had, known once it has answered.
    """

    def __init__(
        self,
        name: str,
        settings: ServerSettings,
        asked: Asked,
        generation: Generation,
        stops: Sequence[int] = (),
    ) -> None:
        self._name = name
        self._settings = settings
        self._asked = asked
        self._generation = generation
        self._stops = stops
        self.refused: tuple[str, ...] = ()
        self.prompt_tokens: dict[str, int] = {}
        self._taken: int | None = None
        self._settling = threading.Lock()
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
        with self._settling:  # one question finds out what the server takes; the others wait for it
            if self._taken is None:
                return self._ask_first(at, prompted)
        return self._ask_with(at, prompted, self._taken)

    def _ask_first(self, at: int, prompted: Prompted) -> Answer:
        """Ask with every setting of the decision, and where that is refused with fewer, until the server answers."""
        offered = self._requests(at)
        for number in range(len(offered)):
            try:
                answer = self._ask_with(at, prompted, number)
            except WireError as error:
                if error.status not in _REFUSED or number == len(offered) - 1:
                    raise
                continue
            self._taken, self.refused = number, decoding.not_taken(offered, number)
            return answer
        raise AssertionError("unreachable")

    def _requests(self, at: int) -> tuple[JsonTree, ...]:
        generation = self._generation
        return decoding.requests(self._asked.kind, generation, self._stops, generation.seed + at)

    def _ask_with(self, at: int, prompted: Prompted, number: int) -> Answer:
        path, said = asked = question(prompted, self._settings.api)
        body = {**self._requests(at)[number], **self._settings.extra, "model": self._asked.model, **said}
        started = time.perf_counter()
        found = persistently(lambda: self._asked.wire.post(path, body), self._settings.retries, self._stop)
        seconds = time.perf_counter() - started
        answer = _answer(prompted, found, seconds, self._generation.max_new_tokens, chat=asked.chat)
        counted = found["usage"].get("prompt_tokens")
        if isinstance(counted, int) and counted > 0:
            self.prompt_tokens[prompted.id] = counted
        return answer


def _answer(prompted: Prompted, found: JsonTree, seconds: float, limit: int, *, chat: bool) -> Answer:
    """Read a completion; WireError names what it lacks: a number that is not there is not made up."""
    try:
        choice = found["choices"][0]
        message = choice["message"] if chat else {}
        text = tool_calls.said(message) if chat else choice["text"]
        thinking = message.get("reasoning_content") or message.get("reasoning")
        tokens = found["usage"]["completion_tokens"]
    except (LookupError, TypeError):
        raise WireError(f"the answer lacks choices or usage: {_brief(found)}", again=False) from None
    if text is None:
        text = ""
    if not isinstance(text, str) or not isinstance(tokens, int) or isinstance(tokens, bool):
        raise WireError(f"the answer holds no text with its tokens: {_brief(found)}", again=False)
    reason = choice.get("finish_reason")
    stopped = reason in _STOPPED if reason in _STOPPED | _CUT else tokens < limit
    answer = Answer(prompted.id, prompted.line, prompted.recorded, text, tokens, seconds, stopped)
    if not isinstance(thinking, str):
        return answer
    details = found["usage"].get("completion_tokens_details")
    told = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    spent = min(tokens, told) if isinstance(told, int) else 0
    return dataclasses.replace(answer, thinking=thinking, thinking_tokens=spent, raw=thinking + text)


def _brief(found: object) -> str:
    return json.dumps(found)[:200]
