"""One next change, named from evidence: each diagnosis is a small function, the first that applies speaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import ceil, isfinite
from typing import NamedTuple, TypeAlias

from pytest_finetune import wording
from pytest_finetune.judging.evidence import Agreement, DiagnosisEvidence, NextChange

__all__ = [
    "DIAGNOSES",
    "Agreement",
    "Diagnosis",
    "DiagnosisEvidence",
    "NextChange",
    "collapsed_label",
    "diagnose",
]

_ROWS_SHOWN = 10
_FEW_ANSWERS = 8

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
    return NextChange(change, because, evidence.truncated[:_ROWS_SHOWN])


def runtimes_disagree(evidence: DiagnosisEvidence) -> NextChange | None:
    """The adapter that was judged is not the one that will be served."""
    apart = [match for match in evidence.runtime_match if match.same < 0.95 * match.total]
    if not apart:
        return None
    worst = min(apart, key=lambda match: match.same / match.total)
    because = f"{worst.first} and {worst.second} agree on {worst.same} of {wording.counted(worst.total, 'row')} only"
    return NextChange(f"make {worst.second} answer like {worst.first}", because, worst.rows[:_ROWS_SHOWN])


def prompting_is_enough(evidence: DiagnosisEvidence) -> NextChange | None:
    """An arm without training leaves no room for the gain that is asked for."""
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
            return NextChange(change, because, evidence.failing(arm, _ROWS_SHOWN))
    return None


def hardly_started(evidence: DiagnosisEvidence) -> NextChange | None:
    """Too few steps to have seen the data, or a loss that has hardly moved."""
    training, losses, steps = evidence.training, evidence.losses, evidence.steps
    if training is None or steps is None or evidence.training_rows is None:
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
        epochs = training.num_train_epochs
        change = f"raise training.num_train_epochs from {epochs:g} to {2 * epochs:g}"
        return NextChange(
            change, f"the loss has hardly moved in {steps} steps, from {losses[0]:.2f} to {losses[-1]:.2f}"
        )
    return None


def never_stops(evidence: DiagnosisEvidence) -> NextChange | None:
    """Answers that run to the token limit: the stop token was never learned, or the limit is too short."""
    endless = [row for row, stopped in zip(evidence.rows, evidence.stopped, strict=False) if not stopped]
    if not endless or len(endless) < 0.2 * len(evidence.stopped):
        return None
    limit, longest = evidence.max_new_tokens, evidence.longest_expected_tokens
    because = f"{len(endless)} of {len(evidence.stopped)} answers run to the limit"
    because += "" if limit is None else f" of {limit} tokens"
    rows = tuple(endless[:_ROWS_SHOWN])
    if limit is not None and longest is not None and longest >= limit:
        change = f"raise generation.max_new_tokens from {limit} to {32 * ceil((longest + 1) / 32)}"
        return NextChange(change, f"{because}, and the longest expected answer has {longest}", rows)
    return NextChange(
        "teach the stop token: let every training output end with it, uncut",
        f"{because} without a stop token",
        rows,
    )


def one_label(evidence: DiagnosisEvidence) -> NextChange | None:
    """Nearly every answer carries one label: the data lack contrast."""
    collapse = collapsed_label(evidence)
    if collapse is None:
        return None
    wrong = [
        row
        for row, given, wanted in _labelled(evidence, "tuned")
        if given == collapse.label and wanted != collapse.label
    ]
    change = f"add contrast rows: inputs close to those of {collapse.label!r} with another right label"
    return NextChange(change, collapse.sentence, tuple(wrong[:_ROWS_SHOWN]))


def training_text_repeated(evidence: DiagnosisEvidence) -> NextChange | None:
    """Wrong answers that are training outputs word for word: overfitted."""
    known = {_squeezed(text) for text in evidence.training_outputs if len(text.split()) >= 4}
    scores = evidence.scores.get(evidence.primary)
    texts = evidence.texts.get("tuned", ())
    if scores is None or "tuned" not in scores.arms or not known:
        return None
    of = dict(zip(evidence.rows, texts, strict=False))
    wrong = [
        row
        for row, score in zip(scores.rows, scores.arms["tuned"], strict=True)
        if score is not None and score < 1
    ]
    copied = [row for row in wrong if _squeezed(of.get(row, "")) in known]
    if len(copied) < 5 or len(copied) < 0.5 * len(wrong):
        return None
    training = evidence.training
    epochs = (
        ""
        if training is None
        else f" from {training.num_train_epochs:g} to {training.num_train_epochs / 2:g}"
    )
    because = f"{len(copied)} of {len(wrong)} wrong answers repeat a training output word for word"
    return NextChange(
        f"train less: lower training.num_train_epochs{epochs}", because, tuple(copied[:_ROWS_SHOWN])
    )


def memorised(evidence: DiagnosisEvidence) -> NextChange | None:
    """The training loss fell and the held-out rows gained nothing, in what is said as in how it is said."""
    losses, base, tuned = evidence.losses, evidence.mean("baseline"), evidence.mean("tuned")
    if len(losses) < 2 or base is None or tuned is None or losses[-1] > 0.3 * losses[0]:
        return None
    before, after = evidence.readable("baseline"), evidence.readable("tuned")
    learned_format = before is not None and after is not None and after - before > 0.1
    if learned_format or tuned - base >= evidence.min_gain:
        return None
    because = (
        f"the training loss fell from {losses[0]:.2f} to {losses[-1]:.2f} while {evidence.primary} went from "
        f"{wording.percent(base)} to {wording.percent(tuned)} on held-out rows"
    )
    change = "broaden the training data: more different inputs, not more epochs"
    return NextChange(change, because, evidence.failing("tuned", _ROWS_SHOWN))


def labels_wrong(evidence: DiagnosisEvidence) -> NextChange | None:
    """The format is right and the labels are wrong: the rubric is unclear, or beyond the base model."""
    answers = list(_labelled(evidence, "tuned"))
    wrong = [(row, given, wanted) for row, given, wanted in answers if given is not None and given != wanted]
    readable = evidence.readable("tuned")
    if readable is None or readable < 0.9 or len(answers) < _FEW_ANSWERS or len(wrong) < 0.2 * len(answers):
        return None
    (given, wanted), times = Counter((given, wanted) for _, given, wanted in wrong).most_common(1)[0]
    before = list(_labelled(evidence, "baseline"))
    because = (
        f"{_count(answers)} of {len(answers)} answers carry a label ({_count(before)} with the base model), "
        f"but {len(wrong)} the wrong one ({_wrong(before)} with the base model), "
        f"{times} times {given!r} for {wanted!r}"
    )
    rows = tuple(row for row, one, other in wrong if (one, other) == (given, wanted))
    change = f"sharpen the rubric between {wanted!r} and {given!r} and relabel by it, or try a larger base"
    return NextChange(change, because, rows[:_ROWS_SHOWN])


DIAGNOSES: tuple[Diagnosis, ...] = (
    loss_not_finite,
    rows_truncated,
    runtimes_disagree,
    prompting_is_enough,
    hardly_started,
    never_stops,
    one_label,
    training_text_repeated,
    memorised,
    labels_wrong,
)
"""From the first cause to the last symptom: what comes earlier would also bring about what comes later."""


class Collapse(NamedTuple):
    """The label that nearly every answer carries, and the sentence that counts it."""

    label: str
    sentence: str


def collapsed_label(evidence: DiagnosisEvidence) -> Collapse | None:
    """Tell whether nearly all tuned answers carry one label although the expected ones differ.

    A decision to keep carries this as a risk.
    """
    answers = [(given, wanted) for _, given, wanted in _labelled(evidence, "tuned") if given is not None]
    if len(answers) < _FEW_ANSWERS:
        return None
    label, times = Counter(given for given, _ in answers).most_common(1)[0]
    expected = sum(wanted == label for _, wanted in answers)
    if times < 0.9 * len(answers) or expected > times - 0.2 * len(answers):
        return None
    sentence = f"{times} of {len(answers)} answers say {label!r}, which is right for {expected} of them"
    return Collapse(label, sentence)


def _labelled(evidence: DiagnosisEvidence, arm: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield row, label given and label expected, where a label is expected."""
    columns = (evidence.rows, evidence.labels.get(arm, ()), evidence.expected_labels)
    for row, given, wanted in zip(*columns, strict=False):
        if wanted is not None:
            yield row, given, wanted


def _count(answers: Sequence[tuple[str, str | None, str]]) -> int:
    return sum(given is not None for _, given, _ in answers)


def _wrong(answers: Sequence[tuple[str, str | None, str]]) -> int:
    return sum(given is not None and given != wanted for _, given, wanted in answers)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
