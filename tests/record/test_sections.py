"""The parts of the page that only some records have: slices, labels, held-out loss, changes, remote code."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

from pytest_finetune.record import changes
from pytest_finetune.record.page import summary_html
from pytest_finetune.record.sections.gains import gains


def words(sample: Any) -> str:
    source = re.sub(r"<(style|script)>.*?</\1>", "", summary_html(sample.record, sample.answers))
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", source)).split())


def test_a_sliced_rule_shows_each_slice_with_its_gain_and_finding(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    ids = run["rules"]["priority"]["rows"]
    run["rules"]["priority"] |= {"slice": "tags", "slice_rows": {"plain": ids[5:], "negative": ids[:5]}}
    score = {"total": 5, "passed": 1, "rate": 0.2, "interval": [0.005, 0.716], "protected": True}
    for arm in run["arms"].values():
        arm["rules"]["priority"]["slices"] = {"negative": score, "plain": score | {"protected": False}}
    run["arms"]["tuned"]["rules"]["priority"]["slices"]["negative"] = score | {
        "gain": -0.6, "gain_interval": [-0.95, -0.1], "verdict": "worse",
    }  # fmt: skip
    said = words(sample)
    assert "priority by tags slice base prompt tuned gain over base finding rows negative protected" in said
    assert "20.0% [0.5, 71.6] -60.0 points [-95.0, -10.0] ✕ worse 1 2 3 4 5" in said
    assert said.index("negative protected") < said.index("plain 20.0%")
    assert "Slices are small" not in said


def test_without_slices_the_primary_rule_is_shown_by_tag(make: Callable[[str], Any]) -> None:
    said = words(make("keep"))
    assert "priority by tag tag base prompt tuned rows borderline" in said
    assert "Slices are small: read them as hints" in said


def test_labels_are_counted_for_each_arm_and_no_label_has_a_column(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    rule = sample.record["experiments"][0]["rules"]["priority"]
    rule["confusion"] = {"tuned": {"high": {"high": 30, "low": 3}, "low": {"": 2, "low": 7, "urgent<b>": 1}}}
    said = words(sample)
    assert (
        "priority: labels of tuned tuned: expected high low urgent<b> (no label) high 30 3 0 0 low 0 7 1 2"
        in said
    )
    assert "labels of base" not in said
    source = summary_html(*sample)
    assert '<span class="ft-share-5 ft-right">30</span>' in source
    assert '<span class="ft-share-0">0</span>' in source


def test_a_rule_without_labels_has_no_confusion(make: Callable[[str], Any]) -> None:
    assert "Label confusion" not in words(make("keep"))


def test_the_held_out_loss_is_a_second_curve_with_its_numbers(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    training = sample.record["experiments"][0]["training"]
    training["held_out_loss"] = [
        {"step": 60, "epoch": 1, "loss": 0.9},
        {"step": 120, "epoch": 2, "loss": 0.4},
    ]
    said = words(sample)
    assert (
        "Training loss 3.412 at step 8, 0.081 at step 128; held-out loss 0.9 at step 60, 0.4 at step 120."
        in said
    )
    assert "step training loss held-out loss" in said
    assert 'class="ft-curve ft-curve-1"' in summary_html(*sample)


def test_differences_from_the_last_run_stand_before_the_whole_configuration(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["changes"] = {
        "created": "2026-11-19T08:00:00+00:00",
        "fields": {"decision.min_gain": [0.05, 0.1], "packages.torch": ["2.12.0", "2.13.0"]},
    }
    said = words(sample)
    assert (
        "Changed since the last run (2026-11-19 08:00:00+00:00) key before now in the adapter's key" in said
    )
    assert "decision.min_gain 0.05 0.1 packages.torch" in said
    run["changes"]["fields"], run["key_changed"] = {}, {}
    assert "Nothing changed since the last run (2026-11-19 08:00:00+00:00)." in words(sample)
    run["changes"] = None
    assert "No earlier run is known." in words(sample)


def test_remote_code_is_said_in_words_and_in_red(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    assert "trust_remote_code is on" not in words(sample)
    sample.record["experiments"][0]["config"]["trust_remote_code"] = True
    assert "✕ trust_remote_code is on: Python code that came with the base model ran" in words(sample)
    assert 'class="ft-alert ft-alert-bad"' in summary_html(*sample)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": [1, 2]}),
        ({"a": 1}, {"b": 1}, {"a": [1, None], "b": [None, 1]}),
    ],
)
def test_only_differences_are_listed(before: Any, now: Any, found: Any) -> None:
    assert changes.between(before, now) == found


def test_runs_are_compared_by_settings_digests_and_packages(make: Callable[[str], Any]) -> None:
    names = changes.outline(make("keep").record["experiments"][0])
    for name in ("training.learning_rate", "checksums.train.sha256", "packages.torch"):
        assert name in names
    assert "checksums.train.path" not in names


def test_the_dashed_line_over_an_arm_is_what_was_asked_over_that_arm(make: Callable[[str], Any]) -> None:
    run = make("keep").record["experiments"][0]

    def lines(**plan: Any) -> int:
        run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": None, **plan}}
        return gains(run).count("ft-threshold")

    asked = lines()
    assert lines(opponent=False) == asked - 1, "an arm that is only shown has no gain to reach"
    run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": 0.31}}
    own = str(gains(run))
    run["planned_arms"] = {"prompted": {"opponent": True, "min_gain": None}}
    run["config"]["decision"]["prompt_gain"] = 0.31
    assert own == str(gains(run)), "an arm's own margin is drawn where the prompt's would be"


def test_drift_shows_its_numbers_and_the_changed_answers_furthest_first(make: Callable[[str], Any]) -> None:
    said = words(make("keep"))
    assert "Drift on neutral prompts answers changed 5 of 6, 83.3% [35.9, 99.6]" in said
    assert "answers in the task's format 1 tuned, 0 base (told by the contract)" in said
    assert "0.625 nats on average over 18 tokens, at most 1.25 over one answer" in said
    assert "5 changed answers, furthest from the base first" in said
    assert said.index("question-5 1.25") < said.index("question-4 1 ") < said.index("question-1 0.25")
    assert "Lisbon (an empty answer)" in said
    assert "question-0" not in said


def test_drift_without_probabilities_says_why(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    drift = sample.record["experiments"][0]["drift"]
    drift |= {
        "mean_kl": None,
        "max_kl": None,
        "tokens": None,
        "kl_reason": "the runtime 'prod' gives texts only",
    }
    assert "token KL from the base not measured: the runtime 'prod' gives texts only" in words(sample)


def test_drift_that_was_not_measured_says_why_and_switched_off_it_is_left_out(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["drift"] |= {"outcome": "error", "reason": "the server is gone", "rows": []}
    assert "Drift was not measured: the server is gone." in words(sample)
    run["drift"] = None
    assert "neutral prompts" not in words(sample)


def test_an_answer_to_a_neutral_prompt_is_text_and_never_markup(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.record["experiments"][0]["drift"]["rows"][1]["tuned"] = "<script>alert(1)</script>"
    source = summary_html(*sample)
    assert "<script>alert(1)" not in source
    assert "&lt;script&gt;alert(1)" in source
