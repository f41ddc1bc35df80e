"""Every advice, planted: the evidence, and the one sentence that is true of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from pytest_finetune.experiment import DecisionDefaults, Training
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.diagnosis import DIAGNOSES, diagnose
from pytest_finetune.judging.evidence import DiagnosisEvidence
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, SelfTest, Tally

ROWS = tuple(f"r{i}" for i in range(60))
GOLD = tuple(("high", "low", "medium")[i % 3] for i in range(60))
LOST = ("medium",) * 60  # what is wrong everywhere but where it is expected
UNREAD: tuple[str | None, ...] = (None,) * 60
BEATEN = {"baseline": "beats", "majority": "beats"}


def passing(count: int) -> tuple[float | None, ...]:
    return tuple(float(i < count) for i in range(60))


def scored(**passed: int) -> Scores:
    return Scores("label", ROWS, arms={arm: passing(count) for arm, count in passed.items()})


def evidence(**changes: object) -> DiagnosisEvidence:
    """Return a run in which nothing went wrong but a gain that is too small, changed in some places."""
    healthy = DiagnosisEvidence(
        primary="label",
        rows=ROWS,
        scores={"label": scored(baseline=20, majority=20, tuned=30)},
        expected_labels=GOLD,
        expected=GOLD,
        labels={"baseline": GOLD, "tuned": GOLD, "majority": ("high",) * 60},
        met={"baseline": "not demonstrated", "majority": "not demonstrated"},
        stopped=(True,) * 60,
        max_new_tokens=80,
        longest_expected_tokens=30,
        log=({"step": 8.0, "loss": 2.41}, {"step": 120.0, "loss": 0.95}),
        steps=120,
        training=Training(),
        training_rows=480,
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]


def chance(**changes: object) -> DiagnosisEvidence:
    """Return a run whose adapter is right as often as the commonest label is."""
    return evidence(scores={"label": scored(baseline=20, majority=20, tuned=21)}, **changes)


ENDLESS = {"stopped": (False,) * 45 + (True,) * 15}
RIGHT_BUT_FAILED = {"texts": {"tuned": GOLD}, "scores": {"label": scored(baseline=0, majority=0, tuned=0)}}
BLIND = replace(scored(baseline=20, majority=20, tuned=30), self_test=SelfTest(Tally(60, 60), Tally(60, 60)))
NOISY = replace(scored(baseline=20, majority=20, tuned=30), noise=(passing(30),))
JUDGED = replace(scored(baseline=20, majority=20, tuned=30), contradicted=frozenset(ROWS[:9]))


@pytest.mark.parametrize(
    ("given", "by", "change", "because"),
    [
        (
            evidence(log=({"step": 1.0, "loss": float("nan")},)),
            "loss_not_finite",
            "lower training.learning_rate from 0.0002 to 5e-05",
            "the training loss is nan at step 1",
        ),
        (
            evidence(truncated=ROWS, longest_tokens=590),
            "rows_truncated",
            "raise training.max_seq_length from 512 to 640",
            "60 of 480 rows for training are cut",
        ),
        (
            evidence(**RIGHT_BUT_FAILED),
            "rule_broken",
            "mend rule 'label'",
            "it fails 60 of 60 answers that are exactly what their rows expect",
        ),
        (
            evidence(scores={"label": BLIND}),
            "rule_broken",
            "mend rule 'label'",
            "it passes on the answers of other questions as often as on the right ones",
        ),
        (
            evidence(scores={"label": scored(baseline=58, majority=20, tuned=59)}),
            "prompting_is_enough",
            "serve the base model as it is and train nothing: prompting is enough",
            "the base model already scores 96.7%",
        ),
        (
            evidence(scores={"label": scored(baseline=58, majority=58, prompted=58, tuned=58)}),
            "prompting_is_enough",
            "write held-out rows with other answers: on these nothing can be shown",
            "always answering 'high' is right on 96.7% of the held-out rows",
        ),
        (
            evidence(scores={"label": JUDGED}),
            "judge_noisy",
            "sharpen what rule 'label' asks its judge, until it says the same twice",
            "9 of 60 rows score otherwise when they are judged again",
        ),
        (
            evidence(scores={"label": NOISY}, temperature=0.7),
            "judge_noisy",
            "lower generation.temperature from 0.7 to 0",
            "10 of 60 rows score otherwise",
        ),
        (
            evidence(scores={"label": NOISY}),
            "judge_noisy",
            "ask the base until its answers repeat",
            "10 of 60 rows score otherwise",
        ),
        (
            evidence(training=Training(max_steps=2), steps=2),
            "hardly_started",
            "remove training.max_steps and train for 2 full epochs",
            "2 steps saw 16 of 480 rows",
        ),
        (
            evidence(**ENDLESS, longest_expected_tokens=95),
            "never_stops",
            "raise generation.max_new_tokens from 80 to 96",
            "the longest expected answer has 95",
        ),
        (
            evidence(**ENDLESS, stops_taught=True),
            "never_stops",
            "train longer: raise training.num_train_epochs from 2 to 4",
            "though every training row ends in a stop token and the longest expected answer has 30",
        ),
        (
            evidence(**ENDLESS, stops_taught=False),
            "never_stops",
            "let the base model's chat template end an answer with its stop token",
            "no training row shows a stop token after the answer",
        ),
        (
            evidence(**ENDLESS),
            "never_stops",
            "teach the stop token: let every training output end with it, uncut",
            "45 of 60 answers run to the limit of 80 tokens without a stop token",
        ),
        (
            chance(labels={"tuned": ("low",) * 60}),
            "one_label",
            "add contrast rows: inputs close to those of 'low' with another right label",
            "60 of 60 answers say 'low', which is right for 20 of them",
        ),
        (
            chance(labels={"baseline": UNREAD, "tuned": GOLD, "majority": ("high",) * 60}),
            "format_only",
            "it learnt the format and not the labels: add rows where the label follows from the text, or sharpen",
            "100.0% of its answers can be read (0.0% of the base model's), and it scores 35.0% on label, "
            "always answering 'high' 33.3%",
        ),
        (
            chance(),
            "chance_level",
            "right no more often than always answering 'high': add rows where the label follows from the text",
            "it scores 35.0% on label, always answering 'high' 33.3%",
        ),
        (
            evidence(
                scores={"label": scored(baseline=0, copy=30, tuned=30)}, labels={}, expected_labels=UNREAD
            ),
            "chance_level",
            "right no more often than giving the question back: ",
            "it scores 50.0% on label, giving the question back 50.0%",
        ),
        (
            evidence(
                texts={"tuned": ("a b c d e",) * 60},
                training_outputs=("a b c d e",),
            ),
            "training_text_repeated",
            "train less: lower training.num_train_epochs from 2 to 1",
            "30 of 30 wrong answers repeat a training output",
        ),
        (
            evidence(
                scores={"label": scored(baseline=30, majority=20, tuned=31)},
                log=({"step": 8.0, "loss": 2.41}, {"step": 120.0, "loss": 0.04}),
            ),
            "memorised",
            "broaden the training data: more different inputs, not more epochs",
            "the training loss fell from 2.41 to 0.04",
        ),
        (
            evidence(met=BEATEN, forgets="40 of 40 neutral prompts are answered in the task's format"),
            "forgetting",
            "replay the base's own answers: training.replay: {prompts: neutral, share: 0.1}",
            "40 of 40 neutral prompts",
        ),
        (
            evidence(met=BEATEN, labels={"baseline": GOLD, "tuned": LOST[:30] + GOLD[30:]}),
            "labels_wrong",
            "sharpen the rubric between 'high' and 'medium' and relabel by it, or try a larger base",
            "60 of 60 answers carry a label",
        ),
        (
            evidence(
                met={"baseline": "beats", "prompted": "beats", "majority": "not demonstrated"},
                scores={"label": scored(baseline=0, prompted=5, majority=20, tuned=30)},
                labels={"baseline": UNREAD, "prompted": GOLD[:20] + UNREAD[20:], "tuned": GOLD},
            ),
            "opponent_weak",
            "ask the base under constrained decoding too: pip install 'pytest-finetune[constrain]'",
            "the prompt alone speaks the format on 33.3% of the rows",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_the_evidence_says_the_sentence(given: DiagnosisEvidence, by: str, change: str, because: str) -> None:
    said = diagnose(given)
    assert said is not None
    first = next(one for one in DIAGNOSES if one(given) is not None)
    assert (first.__name__, said.change.startswith(change)) == (by, True), said.change
    assert because in said.because


@pytest.mark.parametrize(
    "given",
    [
        evidence(scores={"label": replace(NOISY, noise=(passing(21),))}),  # one noisy row in sixty
        evidence(met=BEATEN, scores={"label": scored(baseline=20, majority=28, tuned=30)}),
        evidence(scores={"label": scored(baseline=40, majority=20, tuned=20)}),  # the training took it away
        evidence(forgets="40 of 40"),  # a gain that is not demonstrated comes first
        evidence(
            met={"baseline": "beats", "constrained": "not demonstrated"},
            labels={"baseline": UNREAD, "tuned": GOLD},
        ),
        evidence(
            texts={"tuned": GOLD}, scores={"label": scored(baseline=20, majority=20, tuned=40)}
        ),  # it may ask for more than the text
    ],
    ids=[
        "one row",
        "demonstrated",
        "base knew",
        "no gain",
        "constrained was asked",
        "most pass",
    ],
)
def test_a_sentence_is_not_said_where_it_is_not_true(given: DiagnosisEvidence) -> None:
    assert diagnose(given) is None


def judged(arms: Mapping[str, Sequence[float]]) -> Decision:
    rows = tuple(f"r{i}" for i in range(len(arms["tuned"])))
    scores = Scores("label", rows, arms={arm: tuple(given) for arm, given in arms.items()})
    return decide(
        Case(
            (Rule("label", primary=True),),
            {"label": scores},
            DecisionDefaults(),
            arms=tuple(arms),
            margins={"majority": 0.0, "copy": 0.0},
            answers_differ=True,
            delta_nonzero=True,
        )
    )


def first(**passed: int) -> dict[str, tuple[float, ...]]:
    """Return arms that pass on the first of 100 rows."""
    return {arm: (1.0,) * count + (0.0,) * (100 - count) for arm, count in passed.items()}


@pytest.mark.parametrize("trivial", ["majority", "copy"])
@pytest.mark.parametrize(
    "passed",
    [
        {"baseline": 0, "tuned": 50},  # as often as chance
        {"baseline": 0, "tuned": 30},  # demonstrably less often
        {"baseline": 50, "prompted": 50, "tuned": 50},  # nobody knows anything
        {"baseline": 0, "prompted": 50, "tuned": 48},
    ],
)
def test_an_adapter_at_chance_hears_that_it_knows_nothing_and_never_to_serve_chance(
    trivial: str, passed: dict[str, int]
) -> None:
    decision = judged(first(**{trivial: 50}, **passed))
    assert not decision.keep
    change = decision.next_change
    assert change is not None
    assert change.change.startswith("the adapter knows nothing of the question: ")
    assert "serve" not in change.change
    assert "enough" not in change.change
    assert change.because.startswith("label: ")
    assert change.rows


def test_a_prompt_that_knows_more_than_chance_is_still_served() -> None:
    decision = judged(first(baseline=0, majority=30, prompted=95, tuned=70))
    assert decision.verdict == "discard"
    assert decision.next_change is not None
    assert (
        decision.next_change.change
        == "serve the base model with the prompt of arm 'prompted': prompting is enough"
    )


def test_an_adapter_that_leads_over_chance_by_enough_is_told_how_many_rows_it_needs() -> None:
    majority, tuned = (1.0,) * 8 + (0.0,) * 12, (0.0,) * 8 + (1.0,) * 12
    decision = judged({"baseline": (0.0,) * 20, "majority": majority, "tuned": tuned})
    assert decision.next_change is not None
    assert decision.next_change.change.startswith("judge on a fresh held-out file of about ")
