"""The parts of the page that only some records have: slices, labels, held-out loss, changes, remote code."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

from pytest_finetune.record import changes
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.summary import RunLine, summary
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.page.sections.gains import gains
from pytest_finetune.record.views.terminal.summary import summary_lines


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


def test_the_page_tells_where_the_time_went_from_one_second_on(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["timings"] = {"training": 90.0, "rules": 10.0}
    said = words(sample)
    assert "where the time went: 100 s" in said
    assert "part time share training 90 s 90% rules 10 s 10%" in said
    run["timings"] = {"training": 0.5, "rules": 0.4}
    assert "where the time went" not in words(sample)


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
        "priority, answered by tuned expected high low urgent<b> (no label) high 30 3 0 0 low 0 7 1 2" in said
    )
    assert "answered by base" not in said
    source = summary_html(*sample)
    assert '<span class="ft-share-5 ft-right">30</span>' in source
    assert '<span class="ft-share-0">0</span>' in source


def test_an_arm_that_thought_and_was_cut_is_counted_on_the_page_and_marked_at_its_rows(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["arms"]["baseline"]["thinking"] = {"answers": 30, "cut": 1, "tokens": 900, "off": None}
    answer = sample.answers[run["name"]]["baseline"][0]
    answer |= {"response": "", "stopped": False, "thinking": "first I look"}
    said = words(sample)
    assert "Base thought 900 tokens before 30 of " in said
    assert "; 1 cut before the answer." in said
    assert "cut while thinking" in said
    assert "base thought 900 tokens before 30 of " in decision_note(sample.record)


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
    names = changes.outline(RecordedExperiment.of(make("keep").record["experiments"][0]))
    for name in ("training.learning_rate", "checksums.train.sha256", "packages.torch"):
        assert name in names
    assert "checksums.train.path" not in names


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


def test_drift_shows_its_numbers_and_the_changed_answers_furthest_first(make: Callable[[str], Any]) -> None:
    said = words(make("keep"))
    assert "Drift on neutral prompts answers changed 5 of 6, 83.3% [35.9, 99.6]" in said
    assert "answers in the task's format 1 tuned, 0 base (told by the contract)" in said
    assert "more than the base's, one-sided p = 0.5 token KL" in said
    assert "0.625 nats on average over 18 tokens, at most 1.25 over one answer" in said
    assert "5 changed answers, furthest from the base first" in said
    assert said.index("question-5 1.25") < said.index("question-4 1 ") < said.index("question-1 0.25")
    assert "Lisbon (an empty answer)" in said
    assert "question-0" not in said


def test_replay_stands_apart_from_the_rows_and_drift_beside_what_it_was_without(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["training"]["replay"] = {
        "prompts": "neutral", "rows": 18, "left_out": 2, "share": 0.0909, "outputs_key": "e" * 64, "without_key": "f" * 64,
    }  # fmt: skip
    run["drift"] |= {
        "null_changed": 2,
        "without_replay": {
            "run": "a" * 64, "prompts": 6, "answers_changed": 6, "mean_kl": 2.0, "like_task": {"base": 0, "tuned": 5, "p_value": 0.1},
        },
    }  # fmt: skip
    said, replayed = (
        words(sample),
        "18 answers of the base to the prompts that ship, 9.1% of what is trained on",
    )
    assert f"replayed {replayed}; 2 left out: cut, empty or too long" in said
    assert "a random adapter of the same size changes 2 of 6 answers" in said
    assert "without replay 6 of 6 answers changed, 5 in the task's format" in said
    note = decision_note(sample.record)
    assert "(a random adapter of the same size changes 2)" in note
    assert "without replay 6 of 6 answers changed, 5 in the task's format" in note
    terminal = "\n".join(line.text for line in summary_lines(sample.record, "record", 160))
    assert f"replayed  {replayed}" in terminal


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
    assert 'href="#ft-1-drift"' in summary_html(sample.record, sample.answers)
    run["drift"] = None
    assert "neutral prompts" not in words(sample)
    assert "ft-1-drift" not in summary_html(sample.record, sample.answers)


def test_an_answer_to_a_neutral_prompt_is_text_and_never_markup(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.record["experiments"][0]["drift"]["rows"][1]["tuned"] = "<script>alert(1)</script>"
    source = summary_html(*sample)
    assert "<script>alert(1)" not in source
    assert "&lt;script&gt;alert(1)" in source


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
    assert "prompt over base +25.0 points [+10.0, +40.0] 44 4 p = 0.002" in said
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


def test_the_hand_written_prompts_stand_with_their_scores_and_the_one_that_competed(
    make: Callable[[str], Any],
) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    assert "Hand-written prompts" not in words(sample)
    run["prompt_candidates"] = {
        "rows": ["train.jsonl:3", "train.jsonl:9"],
        "rule": "priority",
        "best": 1,
        "tried": [
            {"template": "Say <b>{input}</b>", "passed": 1, "total": 4, "rate": 0.25},
            {"template": "JSON: {input}", "passed": 3, "total": 4, "rate": 0.75},
        ],
    }
    said = words(sample)
    assert "1 Say <b>{input}</b> 25.0% 1 of 4 2 ✓ competed JSON: {input} 75.0% 3 of 4" in said
    assert "Tried on 2 training rows by priority; held-out rows chose none." in said
    assert "The training rows that they were tried on train.jsonl:3, train.jsonl:9" in said


def test_an_adapter_from_another_environment_says_so_and_what_differs(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    training = sample.record["experiments"][0]["training"]
    assert "another environment" not in words(sample)
    training |= {"reuse": "semantic", "reused": True, "reused_from": {"versions.torch": ["2.12.0", "2.13.0"]}}
    said = words(sample)
    assert "! The adapter comes from another environment (--finetune-reuse=semantic)." in said
    assert "It is promoted only when every answer was produced in this one." in said
    assert 'key there here versions.torch "2.12.0" "2.13.0"' in said
    assert "training reused 120 steps from another environment" in said


def test_a_retraining_is_compared_with_what_it_replaced(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    training = sample.record["experiments"][0]["training"]
    assert "Against the stored adapter" not in words(sample)
    found = {"before_sha256": "c3" * 32, "same_weights": False, "largest_difference": 0.00031}
    training["retrained"] = {**found, "answers_changed": 3, "answers": 160}
    said = words(sample)
    assert (
        "weights ! not equal largest difference of a weight 0.00031 at most answers changed 3 of 160" in said
    )
    training["retrained"] |= {"answers_changed": None, "largest_difference": None}
    said = words(sample)
    assert "tensors have other names or shapes" in said
    assert "not known, the old ones are not stored" in said
    training["retrained"] |= {"same_weights": True, "largest_difference": 0.0, "answers_changed": 0}
    said = words(sample)
    assert "weights ✓ equal, byte for byte answers changed 0 of 160" in said


def test_a_rule_that_changed_after_a_look_wears_a_mark(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    assert "changed after a look" not in words(sample)
    sample.record["experiments"][0]["rules"]["strict_json"]["changed_after_look"] = True
    said = words(sample)
    assert "strict_json ✓ passed ! changed after a look tuned at least 95%" in said
    assert "rules changed after a look strict_json" in said


def test_the_rows_on_which_runtimes_differ_are_links(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    ids = run["rules"]["priority"]["rows"]
    same = {"same": 159, "total": 160, "rows": [ids[6]]}
    run["runtime_match"] = [
        {
            "first": "transformers", "second": "merged", "text": same, "rules": {"priority": same},
            "moved": {"priority": {
                "worse": [ids[6]], "better": [], "total": 160, "gain": -1 / 160, "interval": [-0.03, 0.0],
            }},
        }
    ]  # fmt: skip
    said = words(sample)
    assert "From transformers to merged, paired by row rule change worse better" in said
    assert "score, priority -0.6 points [-3.0, +0.0], 95% 7 none" in said
    assert "The tuned model in merged, against transformers what alike rows that differ" in said
    assert "raw text 159 of 160 7 score, priority 159 of 160 7" in said
    assert "scores in merged 159 of 160 like in transformers" in said
    assert '<a href="#ft-1-row-7">7</a>' in summary_html(*sample)


def test_the_tuned_model_in_another_runtime_is_no_opponent_and_has_a_section_of_its_own(
    make: Callable[[str], Any],
) -> None:
    sample = make("rich")
    pairs = sample.record["experiments"][0]["comparisons"]
    assert any(pair["against"] == "tuned@merged" for pair in pairs)
    page, one = summary_html(*sample), RecordedExperiment.of(sample.record["experiments"][0])
    assert "over tuned@merged" not in words(sample)
    assert "tuned@merged" not in str(gains(one))
    assert re.search('<a href="#ft-1-runtimes">Runtimes</a>.*id="ft-1-runtimes"', page)
    assert "#ft-1-runtimes" not in summary_html(*make("keep"))


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


def test_at_80_columns_a_move_keeps_its_interval_and_one_gguf_file_is_told_once(
    make: Callable[[str], Any],
) -> None:
    record = make("rich").record
    run = record["experiments"][0]
    for arm in ("baseline", "prompted"):
        says = "q4_k_m of 1.8 MiB; conversion proved; 28 tensors Q5_0"
        run["arms"][arm]["gguf"] = {"sha256": "ab" * 32, "says": says}
    lines = [line.text for line in summary_lines(record, "r", 80)]
    assert "  runtimes  in merged: 2 rows worse, 0 better, -8.3 points [-26.0, +4.0]" in lines
    told = [line for line in lines if line.startswith("  gguf ")]
    assert told == ["  gguf      base, prompt: q4_k_m of 1.8 MiB; conversion proved; 28 tensors Q5_0"]


def test_arms_that_were_asked_alike_share_one_prompt(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    assert "What each arm was asked, on the first row base, prompt, tuned Instruction:" in words(sample)
    sample.answers["finetune"]["prompted"][0]["prompt"] = "Four solved tickets first."
    said = words(sample)
    assert "base, tuned Instruction:" in said
    assert "prompt Four solved tickets first." in said


def test_of_several_experiments_each_verdict_carries_its_name(make: Callable[[str], Any]) -> None:
    said = words(make("several"))
    assert "KEEP small: support_ticket_priority_json" in said
    assert "ITERATE wide: support_ticket_priority_json" in said
    assert "finetune: support" not in words(make("keep"))


def test_a_run_that_was_stopped_shows_its_data_before_its_training(make: Callable[[str], Any]) -> None:
    titles = re.findall(r"<h3[^>]*>([^<]*)</h3>", summary_html(*make("gate_closed")))
    assert titles[:4] == ["What stopped the run", "Data", "Training", "Memory"]


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
