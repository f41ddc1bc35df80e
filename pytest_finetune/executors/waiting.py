"""From a key to a job that has ended: sent once, attached to by whoever comes later, never a lie believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_finetune.executors import outcomes
from pytest_finetune.executors.masking import end_of
from pytest_finetune.executors.protocol import Executor, ExecutorError, Seen, Submission
from pytest_finetune.store.disk import StoreError, host_name
from pytest_finetune.store.jobs import JOB, SENT, TOLD, JobBook
from pytest_finetune.wording import duration, visible
from pytest_finetune.yamlfile import Json

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0
SILENT_S: Final = 120.0
"""A step beats every few seconds: after so long without a word, where no engine says that it runs, it is gone."""
GRACE_S: Final = 15.0
"""After so long without a word from a step that was stopped, or whose engine says that it ended badly, it is gone."""
UNHEARD_S: Final = 2.0
"""The same for a step that was never heard of: what a shared disk may take to show what was written."""
SECOND_S: Final = 3.0
"""Within so long, a second Ctrl-C cancels."""


LOST: Final = "lost"


class JobError(ExecutorError):
    """A job did not make what it was sent for; the message holds the end of its log and the one thing to do.

    `state` says how it ended.
    """

    def __init__(self, text: str, state: str = LOST) -> None:
        super().__init__(text)
        self.state = state


class Unwanted(BaseException):
    """Whoever waits for a result wants it no more. No error, so that nothing on its way takes it for one."""


class JobDetached(KeyboardInterrupt):
    """The user stopped waiting; the message says whether the job goes on."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long to wait for what; tests make it short. `queue_s` is how long a job may wait unheard of, where known."""

    queue_s: float | None = None
    silent_s: float = SILENT_S
    grace_s: float = GRACE_S
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S


class Job:
    """The job of one step. `hear` takes each thing that the step tells, `say` a whole line, `note` a passing word.

    `kept` tells whether what an earlier job made is still in the store.
    """

    def __init__(
        self,
        step: Submission,
        executor: Executor,
        book: JobBook,
        hear: Callable[[Json], None],
        say: Callable[[str], None],
        note: Callable[[str], None],
        kept: Callable[[Json], bool] = lambda _: True,
        wait: Wait = Wait(),
    ) -> None:
        self._step, self._executor, self._book = step, executor, book
        self._hear, self._say, self._note, self._wait = hear, say, note, wait
        self._kept = kept
        self._fixed: dict[tuple[int, str], Json] = {}

    def result(self, request: Callable[[], Json]) -> Json:
        """Return what the step told when it was done, of this or of an earlier job; JobError when none is."""
        number = self._attached() or self._sent(request)
        told = self._waited(number)
        if told["state"] != outcomes.DONE.word:
            raise self._error(number, told)
        return told

    def _attached(self) -> int | None:
        """Return the last attempt if it has come to a result or may still do so; None when one has to be started."""
        number = self._book.attempt(self._step.key)
        if not number:
            return None
        told = self._told(number)
        if told is not None and told["state"] == outcomes.DONE.word:
            return number if self._kept(told) else None
        if told is not None and told["state"] not in {outcomes.RUNNING, outcomes.INTERRUPTED.word}:
            return None
        seen = self._look(number)
        doubtful = seen.state == "ended" or (_was_stopped(told) and not seen.goes_on)
        if doubtful and not self._may_go_on(number, told):
            return None
        sent = self._once(number, SENT) or {}
        by = visible(f"{sent.get('executor')} from {sent.get('host')}")[:200]
        self._say(f"attached to the job of {self._step.what}, sent by {by}")
        for line in end_of("\n".join((told or {}).get("log", ())), lines=5):
            self._say(f"  {line}")
        return number

    def _may_go_on(self, number: int, told: Json | None) -> bool:
        """Tell whether a job goes on of which its engine does not say so: it is heard of, or may wait in a queue."""
        if told is None:
            sent = (self._once(number, SENT) or {}).get("at")
            return isinstance(sent, int) and time.time() - sent < (self._wait.queue_s or 0)
        until, pause = time.monotonic() + self._wait.grace_s, self._wait.first_pause_s
        while time.monotonic() < until:
            time.sleep(pause)
            pause = self._longer(pause)
            now = self._told(number)
            if self._look(number).goes_on or (now is not None and now.get("beat") != told.get("beat")):
                return True
        return False

    def _sent(self, request: Callable[[], Json]) -> int:
        """Start a job, unless another process has just begun to."""
        key = self._step.key
        number = self._book.attempt(key) + 1
        facts = {"executor": self._executor.name, "host": host_name(), "at": round(time.time())}
        if not self._book.send(key, number, facts):
            return number
        self._book.ask(key, request())
        try:
            ticket = self._executor.submit(self._step)
        except ExecutorError as error:
            self._book.tell(
                key, number, {"state": outcomes.FAILED.word, "text": str(error), "beat": 0, "log": []}
            )
            raise
        self._book.know(key, number, ticket)
        return number

    def _waited(self, number: int) -> Json:
        """Wait until the step has told its end, or cannot any more; return what it told last."""
        watch = _Watch(time.monotonic())
        pause = self._wait.first_pause_s
        while True:
            told, now = self._told(number), time.monotonic()
            if told is not None and watch.is_new(told, now):
                self._tell(number, told)
            if told is not None and told["state"] == outcomes.DONE.word:
                return told
            seen = self._look(number)
            if seen.goes_on:
                watch.heard_s = now
            if told is not None and self._is_over(told, watch, now):
                return told
            if told is None or told["state"] != outcomes.RUNNING or seen.state != "running":
                lost = self._lost(told, seen, watch, now)
                if lost:
                    found = {**(told or {}), "state": LOST, "text": lost, "do": seen.do}
                    self._book.tell(self._step.key, number, found)  # the next pytest sends a new job
                    return found
            if told is None:
                self._note(f"{seen.state}{f' ({seen.why})' if seen.why else ''}: {self._step.what}")
            self._sleep(number, pause)
            pause = self._longer(pause)

    def _longer(self, pause: float) -> float:
        """Return the next pause: an engine is asked ever less often, since each question may start a program."""
        return min(pause * 1.3, self._wait.longest_pause_s)

    def _tell(self, number: int, told: Json) -> None:
        """Pass on what a step tells; a result that is wanted no more is not made."""
        try:
            self._hear(told)
        except Unwanted:
            self._cancel(number)
            raise

    def _cancel(self, number: int) -> None:
        ticket = self._ticket(number)
        if ticket is not None:
            self._executor.cancel(self._step, ticket)

    def _is_over(self, told: Json, watch: _Watch, now: float) -> bool:
        """Tell that a step has come to its end; one that was stopped may be put into the queue again.

        While it is put there, an engine may say for a moment that the job neither waits nor runs.
        """
        if _was_stopped(told):
            return now - watch.heard_s >= self._wait.grace_s
        return bool(told["state"] != outcomes.RUNNING)

    def _lost(self, told: Json | None, seen: Seen, watch: _Watch, now: float) -> str | None:
        """Say why nothing more will come of a job; None while something may."""
        if seen.state == "ended":
            watch.ended_s = watch.ended_s or now
            if now - max(watch.ended_s, watch.heard_s) < self._patience_s(told, seen):
                return None
            code = "" if seen.code is None else f" with exit code {seen.code}"
            return f"{seen.why or f'ended{code}'} and left no result in the store {self._step.store}"
        watch.ended_s = None
        if seen.state == "unknown":
            limit = self._wait.silent_s if told is not None else self._wait.queue_s or self._wait.silent_s
            if now - watch.heard_s >= limit:
                return (
                    f"has not been heard of for {duration(now - watch.heard_s)}: it vanished, or never began"
                )
        return None

    def _patience_s(self, told: Json | None, seen: Seen) -> float:
        """Return how long a step may be silent once its engine says that it ended, which need not be true."""
        if told is not None:  # a command that only starts a job ends well while its step goes on
            return self._wait.silent_s if seen.code == 0 else self._wait.grace_s
        return (self._wait.queue_s if seen.code == 0 else None) or min(UNHEARD_S, self._wait.grace_s)

    def _look(self, number: int) -> Seen:
        ticket = self._ticket(number)
        return Seen("unknown") if ticket is None else self._executor.look(self._step, ticket)

    def _ticket(self, number: int) -> Json | None:
        """Return how this executor knows the job; None for the job of another one."""
        sent = self._once(number, SENT) or {}
        return self._once(number, JOB) if sent.get("executor") == self._executor.name else None

    def _once(self, number: int, kind: str) -> Json | None:
        """Return what is written once; it is read until it is there."""
        if (number, kind) not in self._fixed and (found := self._peek(number, kind)) is not None:
            self._fixed[number, kind] = found
        return self._fixed.get((number, kind))

    def _told(self, number: int) -> Json | None:
        return self._peek(number, TOLD)

    def _peek(self, number: int, kind: str) -> Json | None:
        try:
            return self._book.read(self._step.key, number, kind)
        except StoreError as error:
            self._note(str(error))  # a network that comes back is no reason to lose a job
            return None

    def _sleep(self, number: int, seconds: float) -> None:
        """Wait; one Ctrl-C detaches, two cancel."""
        try:
            time.sleep(seconds)
        except KeyboardInterrupt:
            self._say(
                f"detaching from the job of {self._step.what}; Ctrl-C again within {SECOND_S:.0f} s cancels it"
            )
            try:
                time.sleep(SECOND_S)
            except KeyboardInterrupt:
                self._cancel(number)
                raise JobDetached(f"the job of {self._step.what} was cancelled") from None
            raise JobDetached(
                f"the job of {self._step.what} goes on: run the same pytest again to attach to it"
            ) from None

    def _error(self, number: int, told: Json) -> JobError:
        """Return what a reader needs: what happened, the end of the log, the one thing to do."""
        state, ticket = told["state"], self._ticket(number)
        said = told.get("text") or state
        printed = "" if ticket is None else self._executor.output(self._step, ticket)
        log = list(told.get("log", ()))
        lines = end_of("\n".join(log)) or end_of(printed)
        shown = [f"  {line}" for line in lines if line.strip() not in said]
        head = f"the job of {self._step.what} " + (said if state == LOST else f"ended: {state}: {said}")
        log_lines = ["the end of its log:", *shown] if shown else []
        to_do = f"to do: {visible(str(told.get('do') or _TO_DO.get(state, _TO_DO['failed'])))}"
        return JobError("\n".join([*end_of(head), *log_lines, to_do]), state)


@dataclass(slots=True)
class _Watch:
    """When a job was last heard of, by its step or its engine, and since when its engine says that it ended."""

    heard_s: float
    ended_s: float | None = None
    beat: object = None

    def is_new(self, told: Json, now: float) -> bool:
        """Tell whether a step has told something since the last question, by its own count: clocks differ."""
        if told.get("beat") == self.beat:
            return False
        self.beat, self.heard_s = told.get("beat"), now
        return True


def _was_stopped(told: Json | None) -> bool:
    return told is not None and told["state"] == outcomes.INTERRUPTED.word


_TO_DO: Final[Mapping[str, Any]] = {
    outcomes.FAILED.word: "mend what the message names, and run the same pytest again: it sends a new job",
    outcomes.REFUSED.word: "mend what the message names where the job runs, and run the same pytest again",
    outcomes.MEMORY.word: "list a larger card under executor.cards, or make the training smaller as the message says",
    outcomes.INTERRUPTED.word: "run the same pytest again: the training goes on from its last sealed checkpoint",
    LOST: "look at the engine's own log; give more executor.minutes if its time was up, else let it write to the "
    "store; then run the same pytest again",
}
