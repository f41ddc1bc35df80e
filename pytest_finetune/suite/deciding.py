"""The decision of a session: computed from facts alone, the same in a worker and where the record is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_finetune.record.case import case_of, rule_specs

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.evaluation.decision import Decision
    from pytest_finetune.session import FinetuneSession
    from pytest_finetune.store import Look


def decided(state: FinetuneSession, tree: Mapping[str, Any]) -> Decision:
    """Judge, and name the one next change that the evidence points to."""
    from pytest_finetune.evaluation.decision import decide

    return decide(case_of(tree))


def look_of(tree: Mapping[str, Any], rows: Iterable[Row]) -> Look:
    """Return this look at the held-out rows: which adapter, which answers, which rules, which rows."""
    from pytest_finetune.evaluation.rules import rules_sha256
    from pytest_finetune.fingerprint import digest
    from pytest_finetune.store import Look

    answers = {arm: facts["answers_sha256"] for arm, facts in tree["arms"].items() if not facts.get("suite")}
    return Look(
        adapter=tree["training"]["adapter_sha256"],
        answers=digest(answers),
        rules_sha256=rules_sha256(rule_specs(tree)),
        rows=frozenset(row.digest for row in rows),
    )
