"""The calling side of a job: asked by its key, waited for or attached to, and its result verified like any read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.executors import outcomes
from pytest_finetune.executors.protocol import Submission
from pytest_finetune.executors.waiting import Job, JobError, Wait
from pytest_finetune.store.jobs import TOLD
from pytest_finetune.suite.jobs.agreement import disagreement, worded
from pytest_finetune.suite.jobs.requests import with_head
from pytest_finetune.suite.jobs.resources import chosen_card, remember_time, resources
from pytest_finetune.training.request import Progress
from pytest_finetune.wording import visible

if TYPE_CHECKING:
    from pytest_finetune.executors.protocol import Executor
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.hardware.budget import Budget
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.jobs.resources import Chosen
    from pytest_finetune.yamlfile import Json, JsonTree

_PROGRESS: Final = tuple(field.name for field in fields(Progress))

Tell = Callable[[Progress], None]


class SentAway:
    """Where the steps of one experiment run: an executor, and the context of its steps, given when there is one."""

    def __init__(
        self,
        executor: Executor,
        context: Callable[[], Context],
        longest: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._executor, self._context_of = executor, context
        self.longest = longest
        self._printed: set[str] = set()

    def of(self, context: Callable[[], Context], longest: Callable[[], int | None]) -> SentAway:
        """Return where the steps of a trial run: sent alike, for its own settings and rows."""
        return SentAway(self._executor, context, longest)

    @property
    def _context(self) -> Context:
        return self._context_of()

    @cached_property
    def _card(self) -> Chosen | None:
        return chosen_card(self._context, self.longest()) if self._context.experiment.executor.cards else None

    @property
    def device(self) -> str | None:
        """The kind of device that the steps are asked on: a listed card, any card, the CPU; None for this machine's."""
        if self._card is not None:
            return self._card.device
        asked = self._context.settings.device
        return None if asked == "auto" else asked

    @property
    def budget(self) -> Budget | None:
        """The card that the training is held against; None for that of this machine."""
        return None if self._card is None else self._card.budget

    def made(
        self, kind: str, key: Key, request: Callable[[], JsonTree], tell: Tell | None
    ) -> tuple[Entry, bool]:
        """Return what a job makes of a request, verified, and whether it was there before.

        JobError when none comes of it; the test that asked is an error then, and the next pytest sends it again.
        """
        if self._card is not None and self._card.refusal and kind == "adapters":
            raise JobError(self._card.refusal, outcomes.MEMORY.word)
        found = self._done_before(kind, key)
        if found is not None:
            return found, True
        step = self._step(kind, key)
        if self._context.settings.executor_dry_run:
            self._print(step)
        told = self._job(step, tell).result(lambda: self._whole(key, request()))
        entry = self._verified(kind, key, told)
        remember_time(self._context, kind, told.get("seconds"))
        return entry, False

    def _step(self, kind: str, key: Key) -> Submission:
        context = self._context
        store, name = context.store, context.experiment.name
        what = f"the {'training' if kind == 'adapters' else 'answers'} of {name} ({key.value[:12]})"
        return Submission(
            key=key.value,
            store=str(store.root) if store.upstream is None else store.upstream.name,
            what=what,
            resources=resources(context, self._card, kind, self.device or ""),
            project=context.experiment.root,
            log=Path() if context.settings.executor_dry_run else store.log(f"job-{key.value[:32]}"),
        )

    def _whole(self, key: Key, tree: JsonTree) -> JsonTree:
        settings = self._context.settings
        asked = self.device or "auto"
        device = "cuda" if asked.startswith("cuda") else asked
        return with_head(tree, key, self._context.experiment, device, settings.reuse)

    def _job(self, step: Submission, tell: Tell | None) -> Job:
        line = self._context.line
        queue = self._context.experiment.executor.queue_minutes

        def hear(told: Json) -> None:
            progress = told.get("progress")
            if tell is not None and progress:
                tell(Progress(**{name: progress[name] for name in _PROGRESS}))
            elif told.get("part"):
                line.note(visible(f"{told['part']} on {told.get('host')}")[:200])

        def kept(told: Json) -> bool:
            return store.read(str(told["kind"]), str(told["made"])) is not None

        store, wait = self._context.store, Wait(queue_s=None if queue is None else queue * 60.0)
        return Job(step, self._executor, store.jobs, hear, line.say, line.note, kept, wait)

    def _print(self, step: Submission) -> None:
        """Print what would be sent, once, and end the test that asks: nothing can come of it."""
        if step.key not in self._printed:
            self._printed.add(step.key)
            self._context.line.say(f"would send {step.what}:\n{self._executor.script(step)}")
        pytest.skip(f"--finetune-executor-dry-run: {step.what} was printed, not sent")

    def _done_before(self, kind: str, key: Key) -> Entry | None:
        """Return what an earlier job made for this key on a card of its own; None where there was none."""
        book = self._context.store.jobs
        number = book.attempt(key.value)
        told = book.read(key.value, number, TOLD) if number else None
        if told is None or told["state"] != outcomes.DONE.word or told.get("kind") != kind:
            return None
        if self._context.store.read(kind, str(told["made"])) is None:
            return None  # it was collected since
        return self._verified(kind, key, told)

    def _verified(self, kind: str, key: Key, told: Json) -> Entry:
        """Read what a step says that it has made: its bytes, its key, and whether it is what was asked for."""
        context = self._context
        entry = context.store.read(kind, str(told.get("made")))
        if entry is None:
            raise JobError(
                f"a job says that it made {kind}/{str(told.get('made'))[:12]}, and the store has no sound one\n"
                "to do: run the same pytest again: it sends a new job"
            )
        hardware: Mapping[str, Any] = told.get("hardware") or {}
        reuse = context.settings.reuse
        wrong = disagreement(key, entry.fields, int(hardware.get("total_bytes") or 0), reuse=reuse)
        if wrong:
            raise JobError(
                f"a job made something else than was asked for: {visible(worded(wrong))}\n"
                "to do: install the same versions there, or take it with --finetune-reuse=semantic"
            )
        context.record(("hardware",), dict(hardware))
        context.record(("environment",), dict(told.get("environment") or {}))
        return entry
