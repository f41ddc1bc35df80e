"""An invariance rule: the same rule on a row and on the row asked in other words, and how often its outcome stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED, asking_order
from pytest_finetune.data.perturbed import perturbed_rows
from pytest_finetune.judging.rule import NOT_LOWER, Rule, RuleBroken
from pytest_finetune.suite.arm_view import as_response
from pytest_finetune.suite.rules.calling import (
    MESSAGE_CHARS,
    MESSAGES_KEPT,
    AnsweredRun,
    ArmScores,
    Confusion,
    Outcomes,
    caller,
    outcome,
    refuse_broken,
)

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row, Rows

CANDIDATES_KEPT: Final = 300


def outcomes(run: AnsweredRun, item: pytest.Function, rule: Rule, rows: Rows) -> Outcomes:
    """Ask the tuned and the base model the perturbed rows too, and return how each answer stood up to it."""
    ways = "+".join(rule.invariant_to)
    suite = f"{rule.suite or 'eval'}~{ways}"
    changed = perturbed_rows(rows, rule.invariant_to)
    if not len(changed):
        raise RuleBroken(f"{rows.path} holds no row that {', '.join(rule.invariant_to)} could change")
    found: dict[str, ArmScores] = {}
    for arm in asking_order((BASELINE, TUNED)):
        found[arm] = _one_arm(run, item, rule, rows, changed, arm, suite)
    refuse_broken(found)
    candidates = [_candidate(row) for row in changed if row.id in found[TUNED].messages]
    return Outcomes(
        [row.id for row in changed],
        {arm: found[arm] for arm in (BASELINE, TUNED)},
        [row.group or _origin(row) for row in changed],
        {"candidates": candidates[:CANDIDATES_KEPT]},
    )


def _one_arm(
    run: AnsweredRun, item: pytest.Function, rule: Rule, rows: Rows, changed: Rows, arm: str, suite: str
) -> ArmScores:
    call = caller(item, Confusion())
    before = {
        row.id: outcome(partial(call, as_response(answer), row))
        for row, answer in ((row, run.answers(arm, rule.suite)[row.id]) for row in rows)
    }
    answers, found = run.answers(arm, suite, changed), ArmScores()
    for row in changed:
        first = before[_origin(row)]
        value, message, cause = outcome(partial(call, as_response(answers[row.id]), row))
        found.causes.append(cause)
        if first[0] is None or value is None:
            found.scores.append(None)
            continue
        held = value >= first[0] if rule.direction == NOT_LOWER else value == first[0]
        found.scores.append(1.0 if held else 0.0)
        if not held and len(found.messages) < MESSAGES_KEPT:
            said = f"{_way(row)}: {first[0]:g}, then {value:g}: {message or first[1] or 'graded'}"
            found.messages[row.id] = said[:MESSAGE_CHARS]
    return found


def _origin(row: Row) -> str:
    return row.id.rpartition("~")[0]


def _way(row: Row) -> str:
    return row.id.rpartition("~")[2]


def _candidate(row: Row) -> dict[str, object]:
    """Return a row that could be held out next, with its history in its tags."""
    asked = {"input": row.input} if row.messages is None else {"messages": [*map(dict, row.messages)]}
    return {
        "id": row.id,
        "instruction": row.instruction,
        **asked,
        "expected": row.expected,
        "tags": [*row.tags, f"perturbed: {_way(row)}"],
        "group": row.group or _origin(row),
    }


def write_candidates(folder: Path, rules: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write the rows on which an invariance rule failed to ``invariance/<rule>.jsonl``; return the files."""
    written = []
    for name, rule in rules.items():
        if rule.get("invariant_to"):
            safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)
            file = folder / "invariance" / f"{safe}.jsonl"
            file.unlink(missing_ok=True)  # what an earlier run left says nothing of this one
            if rows := rule.get("candidates"):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                written.append(file)
    return written
