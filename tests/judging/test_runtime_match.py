"""What moves between two runtimes, and bundles that were kept before that was told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.answering.answers import Answer, answer_json
from pytest_finetune.bundle.verify.contents import _runtimes
from pytest_finetune.judging.runtime_match import moved
from pytest_finetune.record.runtime_match import runtime_matches

ROWS = [f"r{at}" for at in range(12)]
OURS = [1.0] * 10 + [0.0, None]
THEIRS = [0.0] * 3 + [1.0] * 8 + [1.0]


def test_rows_that_became_worse_and_better_are_paired_with_an_interval_in_both_directions() -> None:
    there, back = moved(ROWS, OURS, THEIRS), moved(ROWS, THEIRS, OURS)
    assert there is not None
    assert back is not None
    assert (there.worse, there.better, there.total) == (("r0", "r1", "r2"), ("r10",), 11)
    assert (back.worse, back.better, back.total) == (there.better, there.worse, there.total)
    assert there.gain == pytest.approx(-2 / 11)
    assert there.interval[0] < there.gain < there.interval[1]
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert moved(["r0"], [None], [1.0]) is None


def test_a_bundle_of_before_runtimes_were_paired_still_verifies_and_a_changed_pair_does_not() -> None:
    arms = {"tuned": OURS, "tuned@merged": THEIRS}
    answers = [
        answer_json(Answer(row, at, "asked", "said", 1, 1.0, stopped=True)) for at, row in enumerate(ROWS)
    ]
    experiment: dict[str, Any] = {
        "planned_arms": {"tuned": {"runtime": "transformers"}, "tuned@merged": {"runtime": "merged"}},
        "arms": {arm: {} for arm in arms},
        "rules": {"label": {"outcome": "passed", "rows": ROWS, "reasons": [], "scores": arms}},
    }
    bundle: Any = SimpleNamespace(experiment=experiment, answers=lambda tree, arm: answers)
    texts = {answer["id"]: Answer(**answer) for answer in answers}
    (match,) = (found.as_json() for found in runtime_matches(experiment, lambda arm: texts))
    assert match["moved"]["label"]["worse"] == ["r0", "r1", "r2"]  # type: ignore[index]

    before = {name: told for name, told in match.items() if name != "moved"}
    changed = {**match, "moved": {"label": {**match["moved"]["label"], "worse": []}}}  # type: ignore[index]
    for recorded, problems in ((match, 0), (before, 0), (changed, 1)):
        experiment["runtime_match"] = [recorded]
        assert len(list(_runtimes(bundle))) == problems
