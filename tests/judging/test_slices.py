"""A rule on parts of the rows: what each slice shows, and slices on which nothing may be lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_finetune.data.rows import Row, members
from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, tabulate
from pytest_finetune.judging.slices import sliced
from pytest_finetune.judging.statistics.levels import Levels

RULE = Rule("label", primary=True, min_gain=0.1, slice="tags", protected=("hard",))


def row(number: int, tags: tuple[str, ...] = (), group: str | None = None, **more: Any) -> Row:
    return Row("eval.jsonl", number, 0, "s", "i", "q", "a", None, tags, group, more, f"r{number}")


def scored(easy: tuple[int, int, int], hard: tuple[int, int, int]) -> Scores:
    """Return scores of an easy and a hard slice, each as rows fixed, broken and right in both arms."""
    base: list[float] = []
    tuned: list[float] = []
    slices: dict[str, tuple[str, ...]] = {}
    for name, (fixed, broken, same) in (("easy", easy), ("hard", hard)):
        first = len(base)
        base += [0.0] * fixed + [1.0] * (broken + same)
        tuned += [1.0] * fixed + [0.0] * broken + [1.0] * same
        slices[name] = tuple(f"r{i}" for i in range(first, len(base)))
    rows = tuple(f"r{i}" for i in range(len(base)))
    return Scores("label", rows, arms={"baseline": tuple(base), "tuned": tuple(tuned)}, slices=slices)


def judged(rule: Rule, scores: Scores) -> Decision:
    return decide(
        Case((rule,), {rule.name: scores}, DecisionDefaults(), answers_differ=True, delta_nonzero=True)
    )


def test_a_loss_on_a_protected_slice_forbids_the_keep_of_a_great_gain() -> None:
    scores = scored(easy=(60, 0, 20), hard=(0, 8, 12))
    assert judged(replace(RULE, protected=()), scores).verdict == "keep"
    decision = judged(RULE, scores)
    assert decision.verdict == "iterate"
    assert decision.reasons[0] == (
        "rule label fails: slice 'hard': demonstrably worse than the base model on its 20 rows "
        "(0 fixed, 8 broken, p = 0.0039 for a loss)"
    )


def test_a_slice_that_is_not_lost_prints_the_loss_that_it_cannot_exclude() -> None:
    decision = judged(RULE, scored(easy=(60, 0, 20), hard=(4, 2, 14)))
    assert decision.verdict == "keep"
    (said,) = [reason for reason in decision.rules[0].reasons if "slice" in reason]
    assert said == (
        "slice 'hard': not demonstrably worse than the base model on its 20 rows (4 fixed, 2 broken, p = 0.89 "
        "for a loss); a loss of up to 19.6 points is not excluded"
    )
    assert decision.risks == (f"label, {said}",)


def test_a_slice_of_few_rows_says_that_it_shows_nothing() -> None:
    decision = judged(RULE, scored(easy=(60, 0, 20), hard=(0, 5, 0)))
    said = "slice 'hard': 5 rows are too few to show any loss (0 fixed, 5 broken); protect it with more"
    assert said in decision.rules[0].reasons
    assert decision.risks == (f"label, {said}",)


def test_a_lost_slice_without_a_gain_is_a_discard_with_a_change() -> None:
    decision = judged(RULE, scored(easy=(20, 6, 20), hard=(0, 10, 2)))
    assert decision.verdict == "discard"
    assert decision.reasons[0].startswith("a guard is lost and label did not gain; label, slice 'hard'")
    assert decision.next_change is not None
    assert decision.next_change.change == "add training rows that show what label on 'hard' checks"
    assert len(decision.next_change.rows) == 10


def test_a_protected_slice_that_no_row_is_in_leaves_all_undecided() -> None:
    decision = judged(replace(RULE, protected=("hrad",)), scored((60, 0, 20), (0, 0, 20)))
    assert decision.undecided
    assert decision.reasons == (
        "rule 'label' protects the slice 'hrad', which no counted row is in; slices: easy, hard",
    )


def test_a_field_that_no_row_has_leaves_all_undecided() -> None:
    decision = judged(
        replace(RULE, slice="language", protected=()), replace(scored((60, 0, 20), (0, 0, 20)), slices={})
    )
    assert decision.reasons == ("rule 'label' is sliced by 'language', which no counted row has",)


def test_skipped_rows_are_in_no_slice() -> None:
    scores = scored((60, 0, 20), (0, 0, 20))
    hidden = {
        arm: tuple(
            None if row in scores.slices["hard"] else score
            for row, score in zip(scores.rows, given, strict=True)
        )
        for arm, given in scores.arms.items()
    }
    decision = judged(RULE, replace(scores, arms=hidden))
    assert decision.undecided
    assert "protects the slice 'hard', which no counted row is in; slices: easy" in decision.reasons[0]


def test_the_record_holds_each_slice_for_each_arm() -> None:
    parts = sliced(tabulate(RULE, scored((10, 2, 8), (0, 8, 12))), Levels())
    assert [(part.name, part.protected) for part in parts] == [("hard", True), ("easy", False)]
    base, tuned = (parts[0].facts(arm) for arm in ("baseline", "tuned"))
    assert (base["total"], base["passed"], base["rate"]) == (20, 20, 1.0)
    assert "gain" not in base
    assert (tuned["passed"], tuned["gain"], tuned["verdict"]) == (12, -0.4, "worse")
    low, high = tuned["interval"]
    assert low < 0.6 < high
    assert tuned["gain_interval"][1] < 0
    assert parts[1].facts("tuned")["verdict"] == "beats"


def test_groups_count_as_clusters_inside_a_slice_too() -> None:
    scores = replace(scored((60, 0, 20), (0, 8, 12)), groups=("one",) * 100)
    (part, _) = sliced(tabulate(replace(RULE, cluster="group"), scores), Levels())
    assert not part.seen
    assert part.facts("tuned")["verdict"] == "too few rows"


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("tags", {"hard": ["r1", "r2"], "long": ["r1"]}),
        ("group", {"g": ["r3"]}),
        ("language", {"de": ["r1"], "en": ["r3"]}),
        ("urgent", {"true": ["r2"]}),
        ("areas", {"billing": ["r2"], "login": ["r2"]}),
        ("missing", {}),
    ],
)
def test_rows_are_sliced_by_tags_group_or_any_field(by: str, found: dict[str, list[str]]) -> None:
    rows = [
        row(1, ("hard", "long", "hard"), language="de"),
        row(2, ("hard",), urgent=True, areas=["billing", "login"], language=None),
        row(3, group="g", language="en"),
    ]
    assert members(rows, by) == found
