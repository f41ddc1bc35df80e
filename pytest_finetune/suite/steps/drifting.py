"""Drift from the base: both models answer prompts that are not of the task, while they are loaded anyway.

Nobody has to ask for it, so nothing that goes wrong here fails a run: it is recorded with its reason, and fails a
test that asks for `drift`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.answering.runtimes.protocol import ComparingRuntime
from pytest_finetune.data.neutral import asks_as_written
from pytest_finetune.data.task_format import task_format
from pytest_finetune.fingerprint import Key, digest
from pytest_finetune.judging.drift import ERROR, NOT_POSSIBLE, Drift, DriftRow
from pytest_finetune.suite.jobs.requests import can_be_sent, divergence
from pytest_finetune.suite.steps.replaying import drift_without

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.answering import Stored

T = TypeVar("T")

SCHEMA: Final = 1
"""Raise it when our own code measures another KL on the same answers."""

KL_FILE: Final = "token_kl.json"
NO_INSTRUCTION: Final = (
    "prompt.template shows no {instruction}, so the prompts that ship cannot be asked through it: "
    "name prompts of your own under drift.prompts"
)


class Failed(NamedTuple):
    """Why a part was not measured."""

    reason: str


class TokenKl(NamedTuple):
    """The divergence at each token of each answer, by prompt; None and a reason where the runtime gives none."""

    by_id: Mapping[str, Sequence[float]] | None
    reason: str | None = None


class Drifting:
    """Both models' answers to the neutral prompts, each asked once, and how far they differ.

    `ask` lets an arm answer prompts without sampling, and `ask_null` a random adapter of the tuned one's size, where
    there can be one; `runtime` is the one that loads both models.
    """

    def __init__(
        self,
        context: Context,
        rows: Rows,
        ask: Callable[[str, Sequence[Prompted]], Stored],
        runtime: Callable[[], Runtime],
        ask_null: Callable[[Sequence[Prompted]], Stored | None] = lambda _: None,
    ) -> None:
        self._context = context
        self._rows = rows
        self._ask = ask
        self._runtime = runtime
        self._ask_null = ask_null
        self._prompts = arm_prompts(rows, context.experiment.prompt)
        self._answers: dict[str, Stored | Failed] = {}
        experiment = context.experiment
        self._possible = experiment.drift.prompts is not None or asks_as_written(experiment.prompt.template)

    def ask_along(self, arm: str) -> None:
        """Let an arm that has just answered the held-out rows answer the neutral prompts too, before it is let go."""
        if arm in {BASELINE, TUNED} and self._possible:
            self._answered(arm)
        if arm == TUNED and self._possible:
            _ = self._null_answers

    def measure(self, adapter: Callable[[], Path], contract: Contract, train_rows: Rows) -> Drift:
        """Return the drift, and record it; contract and training rows tell what an answer of the task looks like."""
        experiment = self._context.experiment
        drift = Drift(outcome=NOT_POSSIBLE, reason=NO_INSTRUCTION)
        if self._possible:
            drift = self._measured(adapter, contract, train_rows)
        asked = {"file": experiment.drift.prompts, "sha256": self._rows.sha256}
        facts = {**drift.facts(), **asked, "runtime": experiment.runtimes[0], **self._without_replay()}
        self._context.record(("drift",), facts)
        return drift

    def _without_replay(self) -> dict[str, Any]:
        """Return the drift before anything was replayed, where a stored run of the same training shows it."""
        replay = (self._context.facts.tree().get("training") or {}).get("replay")
        found = drift_without(self._context.store, replay["without_key"], self._rows.sha256) if replay else {}
        return {"without_replay": found} if found else {}

    def _measured(self, adapter: Callable[[], Path], contract: Contract, train_rows: Rows) -> Drift:
        confidence = self._context.experiment.decision.confidence
        tuned, base = self._answered(TUNED), self._answered(BASELINE)
        if isinstance(tuned, Failed):
            return Drift(outcome=ERROR, reason=tuned.reason, confidence=confidence)
        if isinstance(base, Failed):
            return Drift(outcome=ERROR, reason=base.reason, confidence=confidence)
        found = _guarded(lambda: self._token_kl(base, tuned, adapter()))
        kl = TokenKl(None, found.reason) if isinstance(found, Failed) else found
        null = self._null_answers
        changed = (
            None
            if null is None
            else sum(null.answers[id_].response != said.response for id_, said in base.answers.items())
        )
        shape = task_format(contract, (row.output for row in train_rows))
        rows = []
        for id_, said in base.answers.items():
            ours = tuned.answers[id_].response
            tokens = (kl.by_id or {}).get(id_, ())
            mean = sum(tokens) / len(tokens) if tokens else None
            like = (shape.fits(said.response), shape.fits(ours))
            rows.append(DriftRow(id_, said.prompt, said.response, ours, len(tokens), mean, *like))
        return Drift(
            tuple(rows),
            kl_reason=kl.reason,
            told_by=shape.told_by,
            confidence=confidence,
            null_changed=changed,
        )

    def _answered(self, arm: str) -> Stored | Failed:
        if arm not in self._answers:
            self._answers[arm] = _guarded(lambda: self._ask(arm, self._prompts))
        return self._answers[arm]

    @cached_property
    def _null_answers(self) -> Stored | None:
        """What a random adapter of the tuned one's size answers; it is only a reference, so none is no failure."""
        found = _guarded(lambda: self._ask_null(self._prompts))
        return None if isinstance(found, Failed) else found

    def _token_kl(self, base: Stored, tuned: Stored, adapter: Path) -> TokenKl:
        """Return the divergence along the base's answers, from the store or from the runtime."""
        context, store = self._context, self._context.store
        key = divergence_key(base.key, tuned.key, tuple(base.answers.values()))
        runtime = context.experiment.runtimes[0]
        if context.jobs is not None and can_be_sent(context, runtime, adapter):
            keys = (base.key, tuned.key, adapter.name)
            request = partial(divergence, context.experiment, runtime, *keys, self._prompts)
            made = store.read("outputs", key) or context.jobs.made("outputs", key, request, None)[0]
            return _read(made.path / KL_FILE)
        entry = kept_divergence(
            context, key, self._runtime, runtime, self._prompts, base.answers, adapter, say=lambda _: None
        )
        return _read(entry.path / KL_FILE)


def divergence_key(base: str, tuned: str, answers: Sequence[Answer]) -> Key:
    """Return the key of the divergence along the base's answers; `base` and `tuned` are the keys of both arms'."""
    said = digest([[answer.id, answer.response] for answer in answers])
    return Key.of({"schema": SCHEMA, "measure": "token KL", "base": base, "tuned": tuned, "answers": said})


def kept_divergence(
    context: Context,
    key: Key,
    runtime: Callable[[], Runtime],
    name: str,
    prompts: Sequence[Prompted],
    answers: Mapping[str, Answer],
    adapter: Path,
    *,
    say: Callable[[str], None],
) -> Entry:
    """Return the stored divergence of a key, measured now by the runtime of this name where there was none."""
    store = context.store
    with store.lock("outputs", key, say):
        entry = store.read("outputs", key)
        if entry is None:
            write = partial(_write_divergence, runtime(), name, prompts, answers, adapter)
            about = {"measure": "token KL", "task": context.experiment.task}
            entry = store.commit("outputs", key, write, about)
    return entry


def _write_divergence(
    runtime: Runtime,
    name: str,
    prompts: Sequence[Prompted],
    answers: Mapping[str, Answer],
    adapter: Path,
    folder: Path,
) -> None:
    """Measure; that a runtime gives no probabilities is kept as well, so that nothing asks it again."""
    kept: dict[str, Any] = {
        "by_id": None,
        "reason": f"the runtime {name!r} gives texts and no probabilities",
    }
    if isinstance(runtime, ComparingRuntime):
        by_token = runtime.token_kl(prompts, [answers[asked.id] for asked in prompts], adapter)
        by_id = {asked.id: list(tokens) for asked, tokens in zip(prompts, by_token, strict=True)}
        kept = {"by_id": by_id, "reason": None}
        if not all(map(math.isfinite, (value for tokens in by_token for value in tokens))):
            kept = {
                "by_id": None,
                "reason": "the KL is not finite: the tuned model rules out what the base says",
            }
    (folder / KL_FILE).write_text(json.dumps(kept), encoding="utf-8")


def _read(file: Path) -> TokenKl:
    found = json.loads(file.read_text(encoding="utf-8"))
    return TokenKl(found["by_id"], found["reason"])


def _guarded(measure: Callable[[], T]) -> T | Failed:
    """Return what was measured, or why it was not."""
    try:
        return measure()
    except (Exception, pytest.fail.Exception) as error:
        first = (str(error).splitlines() or [""])[0]
        named = first if isinstance(error, pytest.fail.Exception) else f"{type(error).__name__}: {first}"
        return Failed(named[:300])
