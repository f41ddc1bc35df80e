"""Hand-written prompts: each is tried on training rows, and the best by the primary rule competes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.arm_plans import BASELINE
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.suite.rules.rule_items import scores_on
from pytest_finetune.suite.rules.rule_marks import rules_of
from pytest_finetune.suite.steps.answering import answered

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.data.rows import Row
    from pytest_finetune.suite.run import ExperimentRun


def best_prompt_of(run: ExperimentRun) -> str:
    """Return the template with the best mean score on the sample; the first of equals."""
    rows = sample(run.train_rows, run.experiment.prompt.candidate_rows, run.experiment.training.seed)
    item = _primary(run)
    tried = [_tried(run, item, template, rows) for template in run.experiment.prompt.candidates]
    best = max(range(len(tried)), key=lambda at: (tried[at]["rate"], -at))
    facts = {"rows": [row.place for row in rows], "rule": item.name.removeprefix("test_")}
    run.note(("prompt_candidates",), {**facts, "tried": tried, "best": best})
    return str(tried[best]["template"])


def sample(rows: Sequence[Row], count: int, seed: int) -> tuple[Row, ...]:
    """Draw different training rows by seed; the draw hangs on their content, not on their order."""
    different = {row.digest: row for row in reversed(rows)}
    drawn = [different[digest] for digest in sorted(different)]
    random.Random(seed).shuffle(drawn)
    return tuple(drawn[:count])


def _primary(run: ExperimentRun) -> pytest.Function:
    rules = rules_of(run.session.rules_of(run.ref))
    found = [item for rule, item in rules.values() if rule.primary and not rule.corpus and rule.suite is None]
    if len(found) != 1:
        raise AnsweringError(
            f"prompt.candidates: they are ranked by the primary rule, and there are {len(found)} that judge row by "
            "row\n  mark exactly one rule with eval_rule(primary=True), or leave the candidates out"
        )
    return found[0]  # type: ignore[return-value]


def _tried(run: ExperimentRun, item: pytest.Function, template: str, rows: Sequence[Row]) -> dict[str, Any]:
    prompts = arm_prompts(rows, dataclasses.replace(run.experiment.prompt, template=template))
    stored = answered(run, run.arms[BASELINE], prompts)
    given = [score for score in scores_on(item, rows, stored.answers) if score is not None]
    total = sum(given)
    return {
        "template": template,
        "passed": total,
        "total": len(given),
        "rate": total / len(given) if given else 0.0,
        "outputs_key": stored.key,
    }
