"""Drift from the base: both models answer prompts that are not of the task, while they are loaded anyway.

Nobody has to ask for it, so nothing that goes wrong here fails a run: it is put down with its reason, and fails a
test that asks for `drift`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.answering.runtimes.protocol import ComparingRuntime
from pytest_finetune.data.neutral import asks_as_written, neutral_rows
from pytest_finetune.data.task_format import task_format
from pytest_finetune.fingerprint import Key, digest
from pytest_finetune.judging.drift import ERROR, NOT_POSSIBLE, Drift, DriftRow
from pytest_finetune.suite.steps.answering import answered

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.suite.run import ExperimentRun
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


def check(run: ExperimentRun) -> None:
    """Read the prompts before anything is trained: a mistake in a file of the user's own is told now."""
    if run.experiment.drift.measure:
        _ = run.neutral_prompts


def prompts_of(run: ExperimentRun) -> Rows:
    """Return the neutral prompts: the experiment's own, or those that ship."""
    return neutral_rows(run.experiment.root, run.experiment.drift.prompts)


def ask_along(run: ExperimentRun, arm: str) -> None:
    """Let an arm that has just answered the held-out rows answer the neutral prompts too, before it is let go."""
    if arm in {BASELINE, TUNED} and run.experiment.drift.measure and _possible(run):
        _answers(run, arm)


def drift_of(run: ExperimentRun) -> Drift:
    """Return the drift, and put it down once."""
    drift = _measured(run) if _possible(run) else Drift(outcome=NOT_POSSIBLE, reason=NO_INSTRUCTION)
    asked = {"file": run.experiment.drift.prompts, "sha256": run.neutral_prompts.sha256}
    run.note(("drift",), {**drift.facts(), **asked, "runtime": run.arms[TUNED].runtime})
    return drift


def asked_for(run: ExperimentRun) -> Drift:
    """Return the drift to a test that asks for it; fails with the reason where there is none."""
    if not run.experiment.drift.measure:
        pytest.fail(
            f"{run.experiment.file} says drift: false, so none is measured: remove that line", pytrace=False
        )
    for arm in (TUNED, BASELINE):  # what stops them stops this test in its own words
        run.answers(arm)
    drift = run.drift
    if not drift.measured:
        pytest.fail(drift.explain()[0], pytrace=False)
    return drift


def _possible(run: ExperimentRun) -> bool:
    return run.experiment.drift.prompts is not None or asks_as_written(run.experiment.prompt.template)


def _measured(run: ExperimentRun) -> Drift:
    confidence = run.experiment.decision.confidence
    tuned, base = _answers(run, TUNED), _answers(run, BASELINE)
    for answers in (tuned, base):
        if isinstance(answers, Failed):
            return Drift(outcome=ERROR, reason=answers.reason, confidence=confidence)
    assert not isinstance(tuned, Failed)
    assert not isinstance(base, Failed)
    found = _guarded(lambda: _token_kl(run, base, tuned))
    kl = TokenKl(None, found.reason) if isinstance(found, Failed) else found
    shape = task_format(run.contract, (row.output for row in run.train_rows))
    rows = []
    for id_, said in base.answers.items():
        ours = tuned.answers[id_].response
        tokens = (kl.by_id or {}).get(id_, ())
        mean = sum(tokens) / len(tokens) if tokens else None
        like = (shape.fits(said.response), shape.fits(ours))
        rows.append(DriftRow(id_, said.prompt, said.response, ours, len(tokens), mean, *like))
    return Drift(tuple(rows), kl_reason=kl.reason, told_by=shape.told_by, confidence=confidence)


def _answers(run: ExperimentRun, arm: str) -> Stored | Failed:
    return run.once(f"neutral answers of {arm}", lambda: _guarded(lambda: _ask(run, arm)))


def _ask(run: ExperimentRun, arm: str) -> Stored:
    plan = run.arms[arm]
    greedy = dataclasses.replace(plan.generation, do_sample=False)
    return answered(run, dataclasses.replace(plan, generation=greedy), _prompted(run), "neutral prompts")


def _prompted(run: ExperimentRun) -> tuple[Prompted, ...]:
    return arm_prompts(run.neutral_prompts, run.experiment.prompt)


def _token_kl(run: ExperimentRun, base: Stored, tuned: Stored) -> TokenKl:
    """Return the divergence along the base's answers, from the store or from the runtime."""
    said = digest([[answer.id, answer.response] for answer in base.answers.values()])
    key = Key.of(
        {"schema": SCHEMA, "measure": "token KL", "base": base.key, "tuned": tuned.key, "answers": said}
    )
    store = run.session.store
    with store.lock("outputs", key, lambda _: None):
        entry = store.read("outputs", key)
        if entry is None:
            about = {"measure": "token KL", "task": run.experiment.task}
            entry = store.commit("outputs", key, lambda to: _write(run, base, to / KL_FILE), about)
    found = json.loads((entry.path / KL_FILE).read_text(encoding="utf-8"))
    return TokenKl(found["by_id"], found["reason"])


def _write(run: ExperimentRun, base: Stored, file: Path) -> None:
    """Measure; that a runtime gives no probabilities is kept as well, so that nothing asks it again."""
    name = run.arms[BASELINE].runtime
    runtime = run.runtime_named(name)
    kept: dict[str, Any] = {"by_id": None, "reason": f"the runtime {name!r} gives texts and no probabilities"}
    if isinstance(runtime, ComparingRuntime):
        prompts, answers = _prompted(run), base.answers
        spoken = [answers[asked.id] for asked in prompts]
        by_token = runtime.token_kl(prompts, spoken, run.adapter.path)
        by_id = {asked.id: list(tokens) for asked, tokens in zip(prompts, by_token, strict=True)}
        kept = {"by_id": by_id, "reason": None}
        if not all(map(math.isfinite, (value for tokens in by_token for value in tokens))):
            kept = {
                "by_id": None,
                "reason": "the KL is not finite: the tuned model rules out what the base says",
            }
    file.write_text(json.dumps(kept), encoding="utf-8")


def _guarded(measure: Callable[[], T]) -> T | Failed:
    """Return what was measured, or why it was not."""
    try:
        return measure()
    except (Exception, pytest.fail.Exception) as error:
        first = (str(error).splitlines() or [""])[0]
        named = first if isinstance(error, pytest.fail.Exception) else f"{type(error).__name__}: {first}"
        return Failed(named[:300])
