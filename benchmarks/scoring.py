"""Score and decide 10,000 answers under 10 rules and two arms; prints the processor seconds.

    python -P benchmarks/scoring.py [--rows N] [--limit SECONDS]

Answers are made up in memory; rules, rows and decision are the real ones, without pytest around them. No torch is
imported. Exits with 1 when scoring and deciding take longer than the limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_finetune import rules
from pytest_finetune.answering.response import Response
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.contract_rules import LabelRules
from pytest_finetune.data.rows import Row
from pytest_finetune.judging.decision import decide
from pytest_finetune.record.case import case_of
from pytest_finetune.suite.rules.calling import ArmScores, Confusion, outcome

LABELS = ("critical", "high", "medium", "low")
CONTRACT = Contract(None, None, output_format="json", labels=LabelRules("label", LABELS))
RULES: dict[str, Callable[..., None]] = {
    "strict_json": rules.strict_json(keys=["label"]),
    "label": rules.label_agreement(),
    "schema": rules.output_schema({"type": "object", "properties": {"label": {"enum": list(LABELS)}}}),
    "allowed": rules.allowed_label(),
    "no_prose": rules.no_prose_around_json(),
    "pattern": rules.matches_pattern(r"\{.*\}"),
    "exact": rules.exact_match(),
    "field": rules.field_equals("label"),
    "length": rules.length(max_tokens=20),
    "stops": rules.stops_by_itself(),
}


def scored(rows: int) -> dict[str, Any]:
    """Run ten rules on every answer of two arms; return the facts that a session puts down."""
    held_out = [
        Row(
            "eval.jsonl",
            i + 1,
            0,
            "s",
            "label it",
            f"case {i}",
            f'{{"label": "{LABELS[i % 4]}"}}',
            None,
            (),
            None,
            {},
            f"e{i}",
        )
        for i in range(rows)
    ]
    answers = {
        "baseline": [
            Response(f'{{"label": "{LABELS[i % 3]}"}}' if i % 2 else "prose", 5, 0.1) for i in range(rows)
        ],
        "tuned": [Response(f'{{"label": "{LABELS[(i + (i % 10 == 0)) % 4]}"}}', 5, 0.1) for i in range(rows)],
    }
    facts = {name: _facts(name, rule, held_out, answers) for name, rule in RULES.items()}
    decision = {"confidence": 0.95, "min_gain": 0.05}
    arms = {arm: {"answers_sha256": arm} for arm in answers}
    planned = {arm: {"model": "base", "opponent": arm == "baseline", "min_gain": None} for arm in answers}
    return {
        "rules": facts,
        "config": {"decision": decision},
        "arms": arms,
        "planned_arms": planned,
        "training": {"delta_nonzero": True},
    }


def _facts(name: str, rule: Any, rows: list[Row], answers: dict[str, list[Response]]) -> dict[str, Any]:
    code = rule.__code__
    names = code.co_varnames[: code.co_argcount]
    scores: dict[str, list[float | None]] = {}
    for arm, responses in answers.items():
        own: dict[str, Any] = {"contract": CONTRACT, "confusion": Confusion()}
        found = ArmScores()
        for row, response in zip(rows, responses, strict=True):
            own |= {"response": response, "example": row}

            def call() -> float:
                rule(**{key: own[key] for key in names})  # noqa: B023 (called at once)
                return 1.0

            found.scores.append(outcome(call)[0])
        scores[arm] = found.scores
    empty = dict.fromkeys(("min_rate", "min_rate_bound", "min_gain", "max_loss", "confidence", "suite"))
    return {
        **empty,
        "primary": name == "label",
        "sha256": name,
        "outcome": "passed",
        "rows": [row.id for row in rows],
        "scores": scores,
    }


def main() -> int:
    """Print the processor seconds of scoring and of deciding."""
    parser = argparse.ArgumentParser(description="Score and decide stored answers.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=5.0)
    chosen = parser.parse_args()
    began = time.process_time()
    tree = scored(chosen.rows)
    scoring = time.process_time() - began
    decision = decide(case_of(tree))
    deciding = time.process_time() - began - scoring
    print(f"{chosen.rows:,} rows, {len(RULES)} rules, 2 arms: {decision.verdict}")
    print(
        f"scoring {scoring:.2f} s, deciding {deciding:.2f} s, together {scoring + deciding:.2f} s of processor time"
    )
    return 0 if scoring + deciding <= chosen.limit else 1


if __name__ == "__main__":
    sys.exit(main())
