"""The parts of the page that only some records have: slices, labels, held-out loss, drift, changes, runtimes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record import changes
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.page.sections.gains import gains
from pytest_finetune.record.views.terminal.summary import summary_lines

from .conftest import words


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
    assert "From transformers to merged, paired by row rule change, 95% interval worse better" in said
    assert "score, priority -0.6 points [-3.0, +0.0] 7 none" in said
    assert "The tuned model in merged, against transformers what alike rows that differ" in said
    assert "raw text 159 of 160 7 score, priority 159 of 160 7" in said
    assert "scores in merged 159 of 160 like in transformers" in said
    assert '<a href="#ft-1-row-7">7</a>' in summary_html(*sample)
    apart = {"same": 150, "total": 160, "rows": ids[:10]}
    run["runtime_match"].append(
        {"first": "transformers", "second": "q4", "text": apart, "rules": {"priority": apart}}
    )
    run["arms"]["tuned@q4"] = {
        **run["arms"]["tuned"],
        "rendering": {"rows": 160, "by": "tokens", "differences": [], "says": "alike"},
    }
    said = words(sample)
    assert "scores in q4 150 of 160 like in transformers, the least alike of 2" in said
    assert "tuned@q4: alike." in said


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


def test_a_run_that_was_stopped_shows_its_data_before_its_training(make: Callable[[str], Any]) -> None:
    titles = re.findall(r"<h3[^>]*>([^<]*)</h3>", summary_html(*make("gate_closed")))
    assert titles[:4] == ["What stopped the run", "Data", "Training", "Memory"]
