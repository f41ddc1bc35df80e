"""The JUnit properties of a test: a few plain words and numbers; the record has the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_finetune.suite.markers import MarkerMistake, Stage
from pytest_finetune.suite.rules.rule_marks import rule_of
from pytest_finetune.wording import one_line

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.suite.evidence import Facts

Properties = list[tuple[str, str | float]]


def properties(recorded: Facts, stage: Stage, item: pytest.Item) -> Properties:
    """Return what a rule or a decision found out, for `user_properties`.

    Plain `str` and `float` only: anything else there ends an xdist worker.
    """
    found: Properties = [("finetune_experiment", _plain(recorded.experiment))]
    tree = recorded.tree()
    if item.get_closest_marker("eval_rule") is not None:
        return found + _rule(tree, item)
    if stage is Stage.DECISION:
        return found + _decision(tree, item)
    return found


def _rule(tree: Mapping[str, Any], item: pytest.Item) -> Properties:
    """The rule's name, its outcome, and the rate of each arm."""
    try:
        name = rule_of(item).name
    except MarkerMistake:
        return []
    rule = tree.get("rules", {}).get(name, {})
    rates = {
        arm: facts.get("rules", {}).get(name, {}).get("rate") for arm, facts in tree.get("arms", {}).items()
    }
    return [
        ("finetune_rule", _plain(name)),
        ("finetune_outcome", _plain(rule.get("outcome", "not run"))),
        *((f"finetune_rate_{arm}", float(rate)) for arm, rate in rates.items() if rate is not None),
    ]


def _decision(tree: Mapping[str, Any], item: pytest.Item) -> Properties:
    """The verdict with its first reason, and the adapter that it is about; nothing where none was asked for."""
    decision = getattr(item, "funcargs", {}).get("decision")
    if decision is None or not hasattr(decision, "verdict"):
        return []
    digest = (tree.get("training") or {}).get("adapter_sha256")
    return [
        ("finetune_verdict", _plain(decision.verdict)),
        ("finetune_reason", _plain(next(iter(decision.reasons), ""))),
        *([("finetune_adapter_sha256", str(digest))] if digest else []),
    ]


def _plain(text: object) -> str:
    return one_line(text, 300)
