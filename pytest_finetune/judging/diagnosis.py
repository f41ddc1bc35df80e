"""One next change, named from evidence: each diagnosis is a small function, the first that applies speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, isfinite
from typing import TYPE_CHECKING, TypeAlias

from pytest_finetune import wording
from pytest_finetune.judging.evidence import TRIVIAL, Agreement, DiagnosisEvidence, NextChange
from pytest_finetune.judging.scores import BLIND
from pytest_finetune.judging.symptoms import (
    ROWS_SHOWN,
    chance_level,
    collapsed_label,
    forgetting,
    format_only,
    labels_wrong,
    memorised,
    one_label,
    squeezed,
    training_text_repeated,
)

if TYPE_CHECKING:
    from pytest_finetune.experiment import Training

__all__ = [
    "DIAGNOSES",
    "Agreement",
    "Diagnosis",
    "DiagnosisEvidence",
    "NextChange",
    "collapsed_label",
    "diagnose",
]

_FEW_FAILED = 3
_UNTRAINED = ("baseline", "prompted", "best_prompt")

Diagnosis: TypeAlias = Callable[[DiagnosisEvidence], NextChange | None]


def diagnose(evidence: DiagnosisEvidence, more: Sequence[Diagnosis] = ()) -> NextChange | None:
    """Name the next change, or None: the built-in diagnoses from the first cause to the last symptom,
    then `more`.

    An adapter that is kept needs no change.
    """
    if evidence.verdict == "keep":
        return None
    found = (diagnosis(evidence) for diagnosis in (*DIAGNOSES, *more))
    return next((change for change in found if change is not None), None)


def loss_not_finite(evidence: DiagnosisEvidence) -> NextChange | None:
    """A loss that is nan or infinite: the learning rate is too high."""
    losses = [(entry.get("step", 0), entry["loss"]) for entry in evidence.log if "loss" in entry]
    broken = next(((step, loss) for step, loss in losses if not isfinite(loss)), None)
    if broken is None:
        return None
    before = [f"{loss:.2f} at step {step:g}" for step, loss in losses if step < broken[0]]
    because = f"the training loss is {broken[1]} at step {broken[0]:g}" + (
        f", after {before[-1]}" if before else ""
    )
    rate = None if evidence.training is None else evidence.training.learning_rate
    lower = "" if rate is None else f" from {rate:g} to {rate / 4:g}"
    return NextChange(f"lower training.learning_rate{lower}", because)


def rows_truncated(evidence: DiagnosisEvidence) -> NextChange | None:
    """Training rows cut at the sequence length: their answers and stop tokens are never learned."""
    cut, total = len(evidence.truncated), evidence.training_rows or 0
    if not cut or cut < 0.05 * total:
        return None
    limit = None if evidence.training is None else evidence.training.max_seq_length
    change = "raise training.max_seq_length" + ("" if limit is None else f" from {limit}")
    if evidence.longest_tokens is not None:
        change += f" to {64 * ceil(evidence.longest_tokens / 64)}"
    because = (
        f"{cut} of {wording.counted(total, 'row')} for training are cut: their stop tokens are not learned"
    )
    return NextChange(change, because, evidence.truncated[:ROWS_SHOWN])


def runtimes_disagree(evidence: DiagnosisEvidence) -> NextChange | None:
    """The adapter that was judged is not the one that will be served."""
    apart = [match for match in evidence.runtime_match if match.same < 0.95 * match.total]
    if not apart:
        return None
    worst = min(apart, key=lambda match: match.same / match.total)
    because = f"{worst.first} and {worst.second} agree on {worst.same} of {wording.counted(worst.total, 'row')} only"
    if cause := evidence.runtime_causes.get(worst.second):
        because += f"; {cause}"
    return NextChange(f"make {worst.second} answer like {worst.first}", because, worst.rows[:ROWS_SHOWN])


def cut_while_thinking(evidence: DiagnosisEvidence) -> NextChange | None:
    """An arm thought until the token limit: it gave no answer that could be judged."""
    return next(iter(evidence.cut), None)


def rule_broken(evidence: DiagnosisEvidence) -> NextChange | None:
    """The primary rule fails answers that are, word for word, what their rows expect, or passes wrong ones as often."""
    scores, change = evidence.scores.get(evidence.primary), f"mend rule {evidence.primary!r}"
    if scores is None:
        return None
    if scores.blind:
        return NextChange(change, f"it {BLIND}")
    said = dict(zip(evidence.rows, map(squeezed, evidence.texts.get("tuned", ())), strict=False))
    wanted = zip(evidence.rows, map(squeezed, evidence.expected), strict=False)
    alike = {row for row, answer in wanted if answer and said.get(row) == answer}
    given = zip(scores.rows, scores.arms.get("tuned", ()), strict=False)
    failed = tuple(row for row, score in given if row in alike and score == 0)
    if len(failed) < _FEW_FAILED or len(failed) < 0.5 * len(alike):
        return None
    because = f"it fails {len(failed)} of {len(alike)} answers that are exactly what their rows expect"
    return NextChange(change, because, failed[:ROWS_SHOWN])


def judge_noisy(evidence: DiagnosisEvidence) -> NextChange | None:
    """Many rows score otherwise when the same base is asked, or its answers are judged, once more."""
    scores = evidence.scores.get(evidence.primary)
    if scores is None or evidence.verdict != "iterate":
        return None
    runs = (scores.arms.get("baseline", ()), *scores.noise)
    noisy = [row for row, *given in zip(scores.rows, *runs, strict=False) if len(set(given)) > 1]
    noisy += [row for row in scores.rows if row in scores.contradicted and row not in noisy]
    if len(noisy) < 0.1 * len(scores.rows) or not noisy:
        return None
    change = "ask the base until its answers repeat: the scores of one adapter must not hang on the day"
    if scores.contradicted:
        change = f"sharpen what rule {evidence.primary!r} asks its judge, until it says the same twice"
    elif evidence.temperature:
        change = f"lower generation.temperature from {evidence.temperature:g} to 0"
    because = (
        f"{len(noisy)} of {wording.counted(len(scores.rows), 'row')} score otherwise when they are judged again, "
        "and none of them counts as a gain"
    )
    return NextChange(change, because, tuple(noisy[:ROWS_SHOWN]))


def prompting_is_enough(evidence: DiagnosisEvidence) -> NextChange | None:
    """An arm without training leaves no room for the gain; where chance does, the rows are at fault."""
    for trivial in TRIVIAL:
        chance = evidence.mean(trivial)
        if chance is not None and chance > 1 - evidence.min_gain:
            because = f"{evidence.always(trivial)} is right on {wording.percent(chance)} of the held-out rows"
            return NextChange(
                "write held-out rows with other answers: on these nothing can be shown", because
            )
    for arm, serve in (
        ("baseline", "the base model as it is"),
        ("prompted", "the base model with the prompt"),
    ):
        rate = evidence.mean(arm)
        if rate is not None and rate > 1 - evidence.min_gain:
            because = (
                f"{wording.arm(arm)} already scores {wording.percent(rate)} on {evidence.primary}: at most "
                f"{100 * (1 - rate):.1f} points can be gained, "
                f"{wording.margin(evidence.min_gain)} are asked for"
            )
            change = f"serve {serve} and train nothing: prompting is enough"
            return NextChange(change, because, evidence.failing(arm, ROWS_SHOWN))
    return None


def hardly_started(evidence: DiagnosisEvidence) -> NextChange | None:
    """Too few steps to have seen the data, or a loss that has hardly moved."""
    training, losses, steps = evidence.training, evidence.losses, evidence.steps
    if training is None or not steps or evidence.training_rows is None:  # no step: the adapter was given
        return None
    effective = training.per_device_train_batch_size * training.gradient_accumulation_steps
    seen, epoch = steps * effective, max(1, evidence.training_rows)
    moved = f"; the loss went from {losses[0]:.2f} to {losses[-1]:.2f}" if len(losses) > 1 else ""
    if seen < 0.5 * epoch:
        limit = (
            "remove training.max_steps"
            if training.max_steps is not None
            else "raise training.num_train_epochs"
        )
        change = f"{limit} and train for {max(1.0, training.num_train_epochs):g} full epochs"
        return NextChange(
            change, f"{steps} steps saw {seen:,} of {wording.counted(epoch, 'row')} for training{moved}"
        )
    if len(losses) > 1 and losses[-1] > 0.95 * losses[0]:
        return NextChange(
            _longer(training),
            f"the loss has hardly moved in {steps} steps, from {losses[0]:.2f} to {losses[-1]:.2f}",
        )
    return None


def format_not_learnt(evidence: DiagnosisEvidence) -> NextChange | None:
    """Most answers cannot be read and the loss is still on its way down: the training was too short."""
    training, losses, read = evidence.training, evidence.losses, evidence.readable("tuned")
    if training is None or not evidence.steps or read is None or read >= 0.5 or len(losses) < 2:
        return None
    if losses[-1] <= 0.3 * losses[0]:  # learnt, and asked in another way than it was taught
        return None
    because = (
        f"{wording.arm('tuned')} speaks the format on {wording.percent(read)} of the rows after {evidence.steps} "
        f"steps, in which the loss went from {losses[0]:.2f} to {losses[-1]:.2f}"
    )
    return NextChange(_longer(training), because, evidence.failing("tuned", ROWS_SHOWN))


def _longer(training: Training) -> str:
    """Name the key that says how long the training is, twice as long."""
    if training.max_steps is not None:
        return f"raise training.max_steps from {training.max_steps} to {2 * training.max_steps}"
    epochs = training.num_train_epochs
    return f"raise training.num_train_epochs from {epochs:g} to {2 * epochs:g}"


def unstable_recipe(evidence: DiagnosisEvidence) -> NextChange | None:
    """The seeds lie further apart than they gain: what one of them shows is its own luck.

    Short warm-ups and high rates are what moves seeds apart (Mosbach et al. 2021, arXiv 2006.04884).
    """
    training = evidence.training
    if evidence.unstable is None or training is None:
        return None
    rate = training.learning_rate
    change = f"lower training.learning_rate from {rate:g} to {rate / 2:g}"
    if not training.warmup_steps:
        change = "write training.warmup_steps: 0.1"
    return NextChange(f"{change}, and see whether the same seeds come closer", evidence.unstable)


def never_stops(evidence: DiagnosisEvidence) -> NextChange | None:
    """Answers that run to the token limit: the stop token was never learned, or the limit is too short."""
    endless = [row for row, stopped in zip(evidence.rows, evidence.stopped, strict=False) if not stopped]
    if not endless or len(endless) < 0.2 * len(evidence.stopped):
        return None
    limit, longest = evidence.max_new_tokens, evidence.longest_expected_tokens
    because = f"{len(endless)} of {len(evidence.stopped)} answers run to the limit"
    because += "" if limit is None else f" of {limit} tokens"
    rows = tuple(endless[:ROWS_SHOWN])
    if limit is not None and longest is not None and longest >= limit:
        change = f"raise generation.max_new_tokens from {limit} to {32 * ceil((longest + 1) / 32)}"
        return NextChange(change, f"{because}, and the longest expected answer has {longest}", rows)
    if evidence.stops_taught is None:
        change = "teach the stop token: let every training output end with it, uncut"
    elif not evidence.stops_taught:
        change = "let the base model's chat template end an answer with its stop token"
        because += ", and no training row shows a stop token after the answer"
        return NextChange(change, because, rows)
    else:  # it was written after every answer
        change = "train longer" + ("" if evidence.training is None else f": {_longer(evidence.training)}")
        because += ", though every training row ends in a stop token"
        because += "" if longest is None else f" and the longest expected answer has {longest}"
        return NextChange(change, because, rows)
    return NextChange(change, f"{because} without a stop token", rows)


def opponent_weak(evidence: DiagnosisEvidence) -> NextChange | None:
    """The adapter leads, but over a base and prompts that do not speak the format."""
    ours, rates = evidence.mean("tuned"), {arm: evidence.readable(arm) for arm in _UNTRAINED}
    known = {arm: rate for arm, rate in rates.items() if rate is not None}
    theirs = [rate for arm in evidence.met if (rate := evidence.mean(arm)) is not None]
    leads = ours is not None and theirs and ours - max(theirs) >= evidence.min_gain
    if not known or max(known.values()) >= 0.5 or not leads or "constrained" in evidence.met:
        return None
    best = max(known, key=lambda arm: known[arm])
    change = "ask the base under constrained decoding too: pip install 'pytest-finetune[constrain]'"
    return NextChange(
        change, f"{wording.arm(best)} speaks the format on {wording.percent(known[best])} of the rows"
    )


DIAGNOSES: tuple[Diagnosis, ...] = (
    loss_not_finite,
    rows_truncated,
    cut_while_thinking,
    rule_broken,
    runtimes_disagree,
    prompting_is_enough,
    judge_noisy,
    hardly_started,
    never_stops,
    format_not_learnt,
    unstable_recipe,
    one_label,
    format_only,
    chance_level,
    training_text_repeated,
    memorised,
    forgetting,
    labels_wrong,
    opponent_weak,
)
"""From the first cause to the last symptom: what comes earlier would also bring about what comes later."""
