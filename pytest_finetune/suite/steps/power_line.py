"""What the held-out file can show, said before a training: a gate that cannot open should not burn a night."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.plan import Plan
from pytest_finetune.store import Look
from pytest_finetune.suite import xdist

if TYPE_CHECKING:
    from pytest_finetune.suite.run import ExperimentRun


def power_facts(run: ExperimentRun, rules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the record's `power`, for the primary rule's own `min_gain`; None where held-out rows cannot be read."""
    try:
        rows = run.eval_rows
    except (pytest.fail.Exception, OSError):  # a data test says it better
        return None
    if not len(rows):
        return None
    decision = run.experiment.decision
    name, rule = next(((name, rule) for name, rule in rules.items() if rule["primary"]), (None, {}))
    asked = decision.min_gain if rule.get("min_gain") is None else rule["min_gain"]
    unseen = Look(adapter="", answers="", rules_sha256="", rows=frozenset(row.digest for row in rows))
    look = run.session.store.looks.earlier(unseen)
    levels = Levels(rule.get("confidence") or decision.confidence, look, decision.spend)
    plan = Plan(len(rows), asked, levels, decision.power)
    return {
        "rows": len(rows),
        "look": look,
        "alpha": levels.claim,
        "rule": name,
        "min_gain": asked,
        "smallest_gain": plan.smallest,
        "opens": plan.opens,
        "line": plan.line,
        "warning": plan.warning,
    }


def warn_before_training(run: ExperimentRun) -> None:
    """Say before the first step that the gate would probably not open, whatever is trained."""
    power = power_facts(run, run.tree().get("rules", {}))
    if power is None or power["warning"] is None:
        return
    text = f"{run.experiment.name}: {power['warning']}"
    config = run.session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if xdist.is_worker(config) or reporter is None:
        os.write(2, f"{text}\n".encode())
        return
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        _write(reporter, text)
        return
    with capture.global_and_fixture_disabled():
        _write(reporter, text)


def _write(reporter: Any, text: str) -> None:
    reporter.ensure_newline()
    reporter.write_line(f"warning: {text}", yellow=True)
