"""One next change, from planted evidence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Training
from pytest_finetune.judging.diagnosis import (
    DIAGNOSES,
    Agreement,
    DiagnosisEvidence,
    NextChange,
    collapsed_label,
    diagnose,
)
from pytest_finetune.judging.scores import Scores

ROWS = tuple(f"r{i}" for i in range(60))
LABELS = ("critical", "high", "medium", "low")
EXPECTED = tuple(LABELS[i % 4] for i in range(60))
FALLING = ({"step": 8.0, "loss": 2.41}, {"step": 60.0, "loss": 1.10}, {"step": 120.0, "loss": 0.95})


def scored(base: int, tuned: int, prompted: int | None = None) -> Scores:
    """Return scores of a primary rule that the first rows pass."""
    arms = {"baseline": base, "tuned": tuned, **({} if prompted is None else {"prompted": prompted})}
    return Scores(
        "priority",
        ROWS,
        arms={arm: tuple(float(i < passed) for i in range(60)) for arm, passed in arms.items()},
    )


def evidence(**changes: object) -> DiagnosisEvidence:
    """Return a healthy run that gained a little, changed in some places."""
    healthy = DiagnosisEvidence(
        primary="priority",
        rows=ROWS,
        scores={"priority": scored(20, 30)},
        stopped=(True,) * 60,
        max_new_tokens=80,
        longest_expected_tokens=30,
        log=FALLING,
        steps=120,
        training=Training(),
        training_rows=480,
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]


def diagnosed(**changes: object) -> NextChange:
    change = diagnose(evidence(**changes))
    assert change is not None
    return change


def test_a_healthy_run_gets_no_diagnosis() -> None:
    assert diagnose(evidence()) is None


def test_no_evidence_gets_no_diagnosis() -> None:
    assert diagnose(DiagnosisEvidence()) is None


def test_a_kept_adapter_needs_no_change() -> None:
    assert diagnose(evidence(verdict="keep", truncated=tuple(f"train.jsonl:{i}" for i in range(99)))) is None


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_lowers_the_learning_rate(broken: float) -> None:
    change = diagnosed(log=(FALLING[0], {"step": 12.0, "loss": broken}, {"step": 16.0, "loss": broken}))
    assert change == NextChange(
        "lower training.learning_rate from 0.0002 to 5e-05",
        f"the training loss is {broken} at step 12, after 2.41 at step 8",
    )


def test_a_loss_that_never_was_finite_says_so() -> None:
    change = diagnosed(log=({"step": 1.0, "loss": float("nan")},))
    assert change.because == "the training loss is nan at step 1"


def test_truncated_rows_raise_the_sequence_length() -> None:
    change = diagnosed(truncated=tuple(f"train.jsonl:{i}" for i in range(1, 41)), longest_tokens=590)
    assert change.change == "raise training.max_seq_length from 512 to 640"
    assert change.because == "40 of 480 rows for training are cut: their stop tokens are not learned"
    assert change.rows == tuple(f"train.jsonl:{i}" for i in range(1, 11))


def test_one_truncated_row_in_many_is_not_the_reason() -> None:
    assert diagnose(evidence(truncated=("train.jsonl:7",), longest_tokens=590)) is None


def test_runtimes_that_disagree_come_before_anything_about_the_data() -> None:
    change = diagnosed(
        runtime_match=(
            Agreement("transformers", "merged", 60, 60),
            Agreement("transformers", "openai", 41, 60, ("r3", "r9")),
        )
    )
    assert change == NextChange(
        "make openai answer like transformers",
        "transformers and openai agree on 41 of 60 rows only",
        ("r3", "r9"),
    )


def test_runtimes_that_agree_are_no_reason() -> None:
    assert diagnose(evidence(runtime_match=(Agreement("transformers", "merged", 59, 60),))) is None


def test_a_base_that_is_already_good_leaves_nothing_to_train() -> None:
    change = diagnosed(scores={"priority": scored(58, 59)})
    assert change.change == "serve the base model as it is and train nothing: prompting is enough"
    assert change.because == (
        "the base model already scores 96.7% on priority: at most 3.3 points can be gained, 5 points "
        "are asked for"
    )
    assert change.rows == ("r58", "r59")


def test_a_prompt_that_is_already_good_is_enough() -> None:
    change = diagnosed(scores={"priority": scored(20, 58, prompted=58)})
    assert change.change == "serve the base model with the prompt and train nothing: prompting is enough"
    assert change.because.startswith("the prompt alone already scores 96.7% on priority")


def test_two_steps_are_not_a_training() -> None:
    started = ({"step": 1.0, "loss": 3.21}, {"step": 2.0, "loss": 3.15})
    change = diagnosed(
        training=Training(max_steps=2), steps=2, log=started, scores={"priority": scored(0, 1)}
    )
    assert change == NextChange(
        "remove training.max_steps and train for 2 full epochs",
        "2 steps saw 16 of 480 rows for training; the loss went from 3.21 to 3.15",
    )


def test_two_steps_without_a_log_are_still_not_a_training() -> None:
    change = diagnosed(training=Training(max_steps=2), steps=2, log=())
    assert change.because == "2 steps saw 16 of 480 rows for training"


def test_a_fraction_of_an_epoch_asks_for_whole_ones() -> None:
    change = diagnosed(training=Training(num_train_epochs=0.1), steps=6)
    assert change.change == "raise training.num_train_epochs and train for 1 full epochs"


def test_a_loss_that_has_hardly_moved_asks_for_more_epochs() -> None:
    change = diagnosed(log=({"step": 8.0, "loss": 2.41}, {"step": 120.0, "loss": 2.39}))
    assert change == NextChange(
        "raise training.num_train_epochs from 2 to 4",
        "the loss has hardly moved in 120 steps, from 2.41 to 2.39",
    )


def test_a_format_that_is_not_learnt_yet_wants_a_longer_training_before_other_rows() -> None:
    log = ({"step": 1, "loss": 2.94}, {"step": 4, "loss": 2.17})
    at_chance = {"formats": {"baseline": 0.0, "tuned": 0.1}, "scores": {"priority": scored(0, 0)}}
    change = diagnosed(log=log, steps=4, training_rows=9, **at_chance)
    assert change.change == "raise training.num_train_epochs from 2 to 4"
    assert change.because == (
        "the tuned model speaks the format on 10.0% of the rows after 4 steps, in which the loss went from 2.94 to 2.17"
    )
    learnt = ({"step": 1, "loss": 2.94}, {"step": 4, "loss": 0.17})
    assert diagnose(evidence(log=learnt, **at_chance)) != change


def test_answers_that_run_to_the_limit_never_learned_to_stop() -> None:
    change = diagnosed(stopped=(False,) * 45 + (True,) * 15)
    assert change == NextChange(
        "teach the stop token: let every training output end with it, uncut",
        "45 of 60 answers run to the limit of 80 tokens without a stop token",
        ROWS[:10],
    )


def test_a_limit_below_the_expected_answer_is_raised_instead() -> None:
    change = diagnosed(stopped=(False,) * 45 + (True,) * 15, longest_expected_tokens=95)
    assert change.change == "raise generation.max_new_tokens from 80 to 96"
    assert change.because == (
        "45 of 60 answers run to the limit of 80 tokens, and the longest expected answer has 95"
    )


def test_a_few_endless_answers_are_not_the_reason() -> None:
    assert diagnose(evidence(stopped=(False,) * 5 + (True,) * 55)) is None


def test_one_label_everywhere_asks_for_contrast_rows() -> None:
    given = {"tuned": ("critical",) * 57 + ("low",) * 3, "baseline": (None,) * 60}
    change = diagnosed(labels=given, expected_labels=EXPECTED)
    assert change.change == "add contrast rows: inputs close to those of 'critical' with another right label"
    assert change.because == "57 of 60 answers say 'critical', which is right for 15 of them"
    assert change.rows[:3] == ("r1", "r2", "r3")


def test_one_label_everywhere_is_fine_where_it_is_expected() -> None:
    given = {"tuned": ("critical",) * 60}
    assert collapsed_label(evidence(labels=given, expected_labels=("critical",) * 58 + ("low",) * 2)) is None


def test_a_few_answers_do_not_make_a_collapse() -> None:
    assert collapsed_label(evidence(labels={"tuned": ("low",) * 7}, expected_labels=EXPECTED[:7])) is None


def test_a_collapse_is_seen_on_a_kept_adapter_too() -> None:
    collapse = collapsed_label(
        evidence(verdict="keep", labels={"tuned": ("high",) * 60}, expected_labels=EXPECTED)
    )
    assert collapse is not None
    assert collapse.label == "high"
    assert collapse.sentence == "60 of 60 answers say 'high', which is right for 15 of them"


def test_training_text_in_wrong_answers_is_overfitting() -> None:
    learned = '{"priority": "high", "reason": "All users are locked out."}'
    change = diagnosed(
        texts={"tuned": ("fine",) * 30 + (learned + "\n",) * 20 + ("own words",) * 10},
        training_outputs=(learned, "short"),
    )
    assert change == NextChange(
        "train less: lower training.num_train_epochs from 2 to 1",
        "20 of 30 wrong answers repeat a training output word for word",
        ROWS[30:40],
    )


def test_training_text_in_right_answers_is_what_was_asked_for() -> None:
    learned = '{"priority": "high", "reason": "All users are locked out."}'
    assert (
        diagnose(evidence(texts={"tuned": (learned,) * 30 + ("x",) * 30}, training_outputs=(learned,)))
        is None
    )


def test_short_training_outputs_are_no_text_to_repeat() -> None:
    assert diagnose(evidence(texts={"tuned": ("high",) * 60}, training_outputs=("high",))) is None


MEMORISED = ({"step": 8.0, "loss": 2.41}, {"step": 120.0, "loss": 0.04})


def test_a_falling_loss_and_flat_held_out_rows_are_memorising() -> None:
    change = diagnosed(log=MEMORISED, scores={"priority": scored(30, 31)})
    assert change == NextChange(
        "broaden the training data: more different inputs, not more epochs",
        "the training loss fell from 2.41 to 0.04 while priority went from 50.0% to 51.7% on held-out rows",
        ROWS[31:41],
    )


def test_a_falling_loss_with_a_gain_is_learning() -> None:
    assert diagnose(evidence(log=MEMORISED, scores={"priority": scored(20, 40)})) is None


def confused(times: int) -> tuple[str, ...]:
    """Return labels with 'high' instead of 'medium', and some 'low' instead of 'critical'."""
    given, left = list(EXPECTED), times
    for i, wanted in enumerate(EXPECTED):
        if wanted == "medium" and left:
            given[i], left = "high", left - 1
    for i in (0, 4, 8):
        given[i] = "low"
    return tuple(given)


def test_readable_answers_with_wrong_labels_point_to_the_rubric() -> None:
    labels = {"tuned": confused(14), "baseline": (None,) * 40 + EXPECTED[40:]}
    change = diagnosed(
        log=MEMORISED, scores={"priority": scored(43, 43)}, labels=labels, expected_labels=EXPECTED
    )
    assert (
        change.change
        == "sharpen the rubric between 'medium' and 'high' and relabel by it, or try a larger base"
    )
    assert change.because == (
        "60 of 60 answers carry a label (20 with the base model), but 17 the wrong one (0 with the base "
        "model), 14 times 'high' for 'medium'"
    )
    assert change.rows[:2] == ("r2", "r6")


def test_unreadable_answers_are_not_blamed_on_the_rubric() -> None:
    labels = {"tuned": confused(14)[:40] + (None,) * 20, "baseline": (None,) * 60}
    assert diagnose(evidence(labels=labels, expected_labels=EXPECTED)) is None


def test_a_plugin_is_asked_after_the_built_in_diagnoses() -> None:
    def ours(given: DiagnosisEvidence) -> NextChange | None:
        if given.final_loss is not None and given.final_loss > 0.9:
            return NextChange("use the house tokenizer", f"the loss ends at {given.final_loss}")
        return None

    assert diagnose(evidence(), [ours]) == NextChange("use the house tokenizer", "the loss ends at 0.95")
    cut = evidence(truncated=tuple("abcdefghijklmnopqrstuvwxyz"))
    assert "max_seq_length" in str(diagnose(cut, [ours]))
    assert diagnose(evidence(verdict="keep"), [ours]) is None


def test_the_first_cause_speaks_before_its_symptoms() -> None:
    everything = evidence(
        log=({"step": 1.0, "loss": float("nan")},),
        truncated=ROWS,
        stopped=(False,) * 60,
        labels={"tuned": ("low",) * 60},
        expected_labels=EXPECTED,
    )
    asked = [diagnosis.__name__ for diagnosis in DIAGNOSES if diagnosis(everything) is not None]
    assert asked == ["loss_not_finite", "rows_truncated", "never_stops", "one_label", "labels_wrong"]
    change = diagnose(everything)
    assert change is not None
    assert change.change.startswith("lower training.learning_rate")


PAGE = (Path(__file__).parents[2] / "docs" / "decision.md").read_text(encoding="utf-8")


def test_the_page_lists_every_diagnosis_in_the_order_of_asking() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [one.__name__ for one in DIAGNOSES]


def test_the_diagnosis_of_the_page_says_what_it_is_written_for() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    ours = names["pytest_finetune_diagnose"]
    assert ours(evidence()) is None
    stuck = evidence(log=({"step": 8.0, "loss": 3.4},))
    assert ours(stuck) == NextChange("use our house tokenizer", "the loss ends at 3.4", ROWS[30:40])


def test_every_diagnosis_is_a_documented_function() -> None:
    assert all(diagnosis.__doc__ for diagnosis in DIAGNOSES)
    assert NextChange("a", "b", ("r1",)).as_json() == {"change": "a", "because": "b", "rows": ["r1"]}
