"""The parts of the page on which a verdict rests: opponents, gains, risks, noise, judges, guards and power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.summary import RunLine, summary
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.page.sections.gains import gains
from pytest_finetune.record.views.terminal.summary import summary_lines

from .conftest import words


def test_the_dashed_line_over_an_arm_is_what_was_asked_over_that_arm(make: Callable[[str], Any]) -> None:
    run = make("keep").record["experiments"][0]

    def lines(**plan: Any) -> int:
        run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": None, **plan}}
        return gains(RecordedExperiment.of(run)).count("ft-threshold")

    asked = lines()
    assert lines(opponent=False) == asked - 1, "an arm that is only shown has no gain to reach"
    run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": 0.31}}
    own = str(gains(RecordedExperiment.of(run)))
    run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": None}}
    run["config"]["decision"]["prompt_gain"] = 0.31
    assert own == str(gains(RecordedExperiment.of(run))), (
        "an arm's own margin is drawn where the prompt's would be"
    )


def test_where_rows_may_be_added_the_evidence_stands_in_place_of_the_p_value(
    make: Callable[[str], Any],
) -> None:
    sample = make("iterate")
    run = sample.record["experiments"][0]
    for one in run["comparisons"]:
        if one["rule"] == "priority":
            one["evidence"] = {"e": 34.2, "highest": 34.2, "needed": 40.0, "rows": 160, "more": 18}
    run["decision"] |= {"growth": {"k": 1, "ends": [120, 140], "why": ""}, "examples_needed": 178, "looks": 3}
    said, note = words(sample), decision_note(sample.record)
    assert "rows added rows added 2 times at look 1" in said
    assert "about 178 rows, those that are here included" in said
    assert "e = 34.2 of 40" in said
    assert "e = 34.2 of 40" in note
    assert (
        "About 178 held-out rows, those that are here included, would settle it. Rows added 2 times at look 1."
        in note
    )
    line = RunLine.of(summary(sample.record, RecordedExperiment.of(run)))
    assert (line.looked, line.grown) == ("3, rows added 2 times", 2)


def with_opponents(sample: Any, *names: str) -> Any:
    """Give the only experiment further opponents that answer like the prompt."""
    run = sample.record["experiments"][0]
    plan = {"baseline": True, "prompted": True, "tuned": False, **dict.fromkeys(names, True)}
    run["planned_arms"] = {
        arm: {"model": "base", "opponent": opponent, "min_gain": None} for arm, opponent in plan.items()
    }
    for name in names:
        run["arms"][name] = run["arms"]["prompted"]
        sample.answers["finetune"][name] = sample.answers["finetune"]["prompted"]
        run["comparisons"] += [
            dict(pair, against=name) for pair in run["comparisons"] if pair["against"] == "prompted"
        ]
        for rule in run["rules"].values():
            rule["scores"][name] = rule["scores"]["prompted"]
    return sample


def test_of_many_opponents_the_first_view_has_the_base_and_the_smallest_gain(
    make: Callable[[str], Any],
) -> None:
    sample = with_opponents(make("keep"), "best_prompt", "champion")
    for pair in sample.record["experiments"][0]["comparisons"]:
        if (pair["rule"], pair["against"]) == ("priority", "champion"):
            pair |= {"gain": 0.011, "interval": [-0.02, 0.05]}
    said = words(sample)
    first = said[: said.index("Arms side by side")]
    assert "gain over base +94.4 points [" in first
    assert "smallest of 3 further gains +1.1 points [-2.0, +5.0] over champion" in first
    assert "gain over best prompt" not in first
    two = words(make("keep"))
    assert "gain over prompt +36.9 points" in two[: two.index("Arms side by side")]


def test_an_arm_that_is_only_shown_has_no_tile(make: Callable[[str], Any]) -> None:
    sample = with_opponents(make("keep"), "zoo")
    sample.record["experiments"][0]["planned_arms"]["zoo"]["opponent"] = False
    said = words(sample)
    assert "zoo" not in said[: said.index("Arms side by side")]
    assert "zoo" in said


def test_a_keep_folds_its_many_reasons_and_other_verdicts_do_not(make: Callable[[str], Any]) -> None:
    reasons = [f"reason {place}" for place in range(5)]
    for name in ("keep", "iterate"):
        sample = make(name)
        sample.record["experiments"][0]["decision"]["reasons"] = reasons
        source = summary_html(*sample)
        assert ("<summary>and 4 further reasons</summary>" in source) is (name == "keep")
        assert "<li>reason 4</li>" in source


def test_what_is_kept_shows_its_risks_beside_the_verdict(make: Callable[[str], Any]) -> None:
    for name in ("keep", "discard"):
        sample = make(name)
        sample.record["experiments"][0]["decision"]["risks"] = ["the rows wear out"]
        assert words(sample).count("the rows wear out") == (2 if name == "keep" else 1)
        assert ("Risk: the rows wear out" in words(sample)) is (name == "keep")


def test_gains_that_nobody_asked_for_are_folded(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    source = summary_html(*sample)
    assert (
        "<summary>On 2 further rules, of which no gain was asked: strict_json, short_reason</summary>"
        in source
    )
    sample.record["experiments"][0]["rules"]["strict_json"]["outcome"] = "failed"
    source = summary_html(*sample)
    assert "<summary>On 1 further rule, of which no gain was asked: short_reason</summary>" in source


def test_every_other_pair_of_arms_stands_in_one_line(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    assert "The other arms against each other" not in words(sample)
    pair = {"gain": 0.25, "interval": [0.1, 0.4], "p_value": 0.002, "fixed": 44, "broken": 4}
    run["pairs"] = [
        {"rule": rule, "arm": arm, "against": against, **pair}
        for rule in ("strict_json", "priority")
        for arm, against in (("prompted", "best_prompt"), ("prompted", "baseline"), ("a<b>", "baseline"))
    ]
    said = words(sample)
    assert "The other arms against each other priority: other pairs of arms" in said
    assert "prompt over base +25.0 points [+10.0, +40.0] 44 / 4 p = 0.002" in said
    assert (
        said.index("prompt over base") < said.index("a<b> over base") < said.index("prompt over best prompt")
    )
    assert "Under 1 further rule: strict_json" in said
    assert said.count("prompt over base +25.0") == 2


def test_the_noise_of_the_base_names_texts_and_scores_that_differ(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    assert "Noise of the base" not in words(sample)
    ids = run["rules"]["priority"]["rows"]
    first = run["rules"]["priority"]["scores"]["baseline"]
    run["noise"] = {"2": {"run": 2, "changed": []}, "10": {"run": 10, "changed": [ids[0], ids[4]]}}
    run["rules"]["priority"]["noise"] = [first, [1 - first[0], *first[1:]]]
    said = words(sample)
    assert "The base, asked 3 times: rows that differ between its runs" in said
    assert "text, run 2 0 none text, run 10 2 1 5 score, priority 1 1 " in said
    assert "A row whose score differs is never counted as fixed" in said
    run["noise"]["10"]["changed"] = []
    run["rules"]["priority"]["noise"] = [first, first]
    assert "The base was asked 3 times: every text and every score stayed the same." in words(sample)


def test_a_judge_stands_with_the_rows_on_which_it_wavers_and_what_people_say_of_it(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    assert "Judges" not in words(sample)
    checked = {
        "labels": 40,
        "agreement": 0.925,
        "interval": [0.796, 0.984],
        "bias": 0.1,
        "bias_interval": [-0.05, 0.3],
    }
    run["rules"]["priority"]["verdicts"] = {
        "judge": "<a judge>",
        "passes": 2,
        "contradicted": run["rules"]["priority"]["rows"][:2],
        "sha256": "5f" * 32,
        "agreement": {"baseline": {"labels": 0}, "tuned": checked},
    }
    said = words(sample)
    assert "Judges, asked twice rule judge contradicts itself on priority <a judge>" in said
    assert "priority, base 0 not checked unknown" in said
    assert "priority, tuned 40 92.5% [79.6, 98.4] +10.0 points [-5.0, +30.0]" in said
    assert (
        "judges: priority contradicts itself on 2 rows, nobody checked it on base, agrees with people on 92.5% of 40 "
        "answers of tuned (bias +10.0 points)"
    ) in decision_note(sample.record).replace("\\", "")


def test_a_rule_that_changed_after_a_look_wears_a_mark(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    assert "changed after a look" not in words(sample)
    sample.record["experiments"][0]["rules"]["strict_json"]["changed_after_look"] = True
    said = words(sample)
    assert "strict_json ✓ passed ! changed after a look tuned at least 95%" in said
    assert "rules changed after a look strict_json" in said


def test_the_power_that_was_planned_and_that_of_the_rows_as_they_differed_are_told_apart(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["power"] = {"line": "160 held-out rows can prove a gain of 15 points or more"}
    run["decision"]["plan_line"] = "160 held-out rows can prove a gain of 18 points or more"
    said = words(sample)
    assert "power, as planned before the answers 160 held-out rows can prove a gain of 15 points" in said
    assert "power, from the rows that differed 160 held-out rows can prove a gain of 18 points" in said


def test_of_several_experiments_each_verdict_carries_its_name(make: Callable[[str], Any]) -> None:
    said = words(make("several"))
    assert "KEEP small: support_ticket_priority_json" in said
    assert "ITERATE wide: support_ticket_priority_json" in said
    assert "finetune: support" not in words(make("keep"))


@pytest.mark.parametrize(
    ("asked", "badge", "wanted"),
    [
        ({"max_loss": 0.02}, "guard", "a loss of more than 2 points excluded"),
        ({}, "guard", "not demonstrably worse than the base"),
        ({"corpus": True}, None, "it holds on all answers together"),
        ({"min_rate": 0.5, "guard": True}, None, "tuned at least 50%"),
        ({"primary": True}, "primary", "a demonstrated gain over the base"),
    ],
)
def test_a_rule_has_the_badge_of_a_guard_where_the_decision_takes_it_for_one(
    make: Callable[[str], Any], asked: dict[str, Any], badge: str | None, wanted: str
) -> None:
    sample = make("keep")
    rule = sample.record["experiments"][0]["rules"]["short_reason"]
    sample.record["experiments"][0]["rules"]["priority"]["primary"] = False
    rule |= {"guard": False, **asked}
    assert f"short_reason {badge + ' ' if badge else ''}✓ passed {wanted}" in words(sample)


def weighed(make: Callable[[str], Any], risks: list[str], weights: list[str]) -> Any:
    """Return a keep with these risks."""
    sample = make("keep")
    sample.record["experiments"][0]["decision"] |= {"risks": risks, "risk_weights": weights}
    return sample


def test_the_risks_beside_a_keep_are_counted_weighed_and_all_listed(make: Callable[[str], Any]) -> None:
    risks = ["it forgets " + "and forgets " * 20, "the rows wear out", "a guard is small"]
    sample = weighed(make, risks, ["high", "low", "low"])
    lines = [line.text for line in summary_lines(sample.record, "finetune-record", 80)]
    place = lines.index("3 risks: 1 high, 2 low")
    assert lines[place + 1].startswith("  high: it forgets and forgets")
    assert lines[place + 2 : place + 4] == ["  low: the rows wear out", "  low: a guard is small"]
    assert len(lines) <= 24
    page = words(sample)
    head = page[: page.index("Arms side by side")]
    note = decision_note(sample.record)
    for said in (head, note):
        assert "3 risks: 1 high, 2 low" in said
        assert all(
            f"{weight}: {risk[:20]}" in said
            for weight, risk in zip(("high", "low", "low"), risks, strict=True)
        )


def test_many_risks_leave_room_for_the_rates_and_say_how_many_are_elsewhere(
    make: Callable[[str], Any],
) -> None:
    sample = weighed(make, [f"risk {place}" for place in range(9)], ["medium"] * 9)
    lines = [line.text for line in summary_lines(sample.record, "finetune-record", 80)]
    assert "9 risks: 9 medium (the last 3 in the record)" in lines
    assert len(lines) <= 24
    assert any("priority" in line for line in lines[:12])


def test_risks_of_an_older_record_have_no_weights(make: Callable[[str], Any]) -> None:
    sample = weighed(make, ["one", "two"], [])
    lines = [line.text for line in summary_lines(sample.record, "finetune-record", 80)]
    assert "risk, one" in lines
