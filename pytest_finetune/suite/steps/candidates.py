"""Hand-written prompts: each is tried on rows that do not judge, and the best by the primary rule competes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.prompts import arm_prompts

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.rows import Row
    from pytest_finetune.experiment import Prompt
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.answering import Stored


def best_prompt(
    context: Context,
    rows: Sequence[Row],
    ask: Callable[[Sequence[Prompted]], Stored],
    rule: str,
    scores: Callable[[Sequence[Row], Mapping[str, Answer]], Sequence[float | None]],
) -> str:
    """Return the template with the best mean score on a sample of the rows; the first of equals.

    `ask` lets the base answer; `scores` is what the primary rule, of the name `rule`, gives its answers.
    """
    prompt = context.experiment.prompt
    rows = sample(rows, prompt.candidate_rows, context.experiment.training.seed)
    tried: list[dict[str, Any]] = []
    for template in prompt.candidates:
        stored = ask(arm_prompts(rows, with_template(prompt, template)))
        given = [score for score in scores(rows, stored.answers) if score is not None]
        tried.append(
            {
                "template": template,
                "passed": sum(given),
                "total": len(given),
                "rate": sum(given) / len(given) if given else 0.0,
                "outputs_key": stored.key,
            }
        )
    best = max(range(len(tried)), key=lambda at: (tried[at]["rate"], -at))
    facts = {"rows": [row.place for row in rows], "rule": rule}
    context.record(("prompt_candidates",), {**facts, "tried": tried, "best": best})
    return str(tried[best]["template"])


def with_template(prompt: Prompt, template: str) -> Prompt:
    """Return the prompt settings with another template."""
    return dataclasses.replace(prompt, template=template)


def sample(rows: Sequence[Row], count: int, seed: int) -> tuple[Row, ...]:
    """Draw different rows by seed; the draw depends on their content, not on their order."""
    different = {row.digest: row for row in reversed(rows)}
    drawn = [different[digest] for digest in sorted(different)]
    random.Random(seed).shuffle(drawn)
    return tuple(drawn[:count])
