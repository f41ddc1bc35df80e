"""What a promotion wants to see."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.bundle.requirements import unmet

KEPT: dict[str, Any] = {
    "name": "small",
    "decision": {"keep": True, "verdict": "keep"},
    "rules": {"label": {"outcome": "passed"}},
}


def ran(*further: dict[str, str]) -> list[dict[str, str]]:
    passed = [
        {"nodeid": f"test_it.py::test_{stage}", "stage": stage, "outcome": "passed", "experiment": "small"}
        for stage in ("data", "fit", "decision")
    ]
    return [*passed, *further]


def test_a_kept_adapter_whose_every_test_passed_lacks_nothing() -> None:
    assert list(unmet(KEPT, ran())) == []


@pytest.mark.parametrize("outcome", ["skipped", "xfailed"])
def test_a_comparison_that_was_not_judged_is_named(outcome: str) -> None:
    beaten = {
        "nodeid": "test_it.py::test_beats",
        "stage": "comparison",
        "outcome": outcome,
        "experiment": "small",
    }
    assert list(unmet(KEPT, ran(beaten))) == [
        f"small: test_it.py::test_beats was {outcome}, so what it asks for was not judged: let it run"
    ]


def test_a_failed_rule_and_another_verdict_are_named() -> None:
    lost = {
        **KEPT,
        "decision": {"keep": False, "verdict": "iterate"},
        "rules": {"label": {"outcome": "failed"}},
    }
    found = list(unmet(lost, ran()))
    assert found == [
        "small: the decision is iterate, not keep",
        "small: rule 'label' did not pass (failed)",
    ]
