"""Ten rules on a thousand answers, decided, take a second of processor time at most."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

from pytest_finetune.evaluation.decision import decide
from pytest_finetune.record.case import case_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scoring.py"


def test_a_thousand_answers_under_ten_rules_are_decided_within_a_second() -> None:
    scored = runpy.run_path(str(SCRIPT))["scored"]
    began = time.process_time()
    decision = decide(case_of(scored(1000)))
    assert time.process_time() - began < 1
    assert decision.keep
    assert len(decision.rules) == 10
