"""What the answers and scores show: diagnoses of what was learnt, where nothing went wrong before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.evidence import DiagnosisEvidence, NextChange

ROWS_SHOWN = 10
_FEW_ANSWERS = 8
_MOST_REPLAYED = 0.5


_ROWS_TO_ADD = "add rows where the label follows from the text, or sharpen the rubric"


def format_only(evidence: DiagnosisEvidence) -> NextChange | None:
    """The adapter speaks the format, which the base does not, and is right no more often than chance."""
    before, after, because = evidence.readable("baseline"), evidence.readable("tuned"), _at_chance(evidence)
    if because is None or before is None or after is None or before >= 0.5 or after < 0.9:
        return None
    read = (
        f"{wording.percent(after)} of its answers can be read ({wording.percent(before)} of the base model's)"
    )
    change = f"it learnt the format and not the labels: {_ROWS_TO_ADD}"
    return NextChange(change, f"{read}, and {because}", evidence.failing("tuned", ROWS_SHOWN))


def chance_level(evidence: DiagnosisEvidence) -> NextChange | None:
    """The adapter is right no more often than an answer that reads no question."""
    because = _at_chance(evidence)
    if because is None or evidence.chance is None:
        return None
    change = f"right no more often than {evidence.always(evidence.chance)}: {_ROWS_TO_ADD}"
    return NextChange(change, because, evidence.failing("tuned", ROWS_SHOWN))


def _at_chance(evidence: DiagnosisEvidence) -> str | None:
    """Set the adapter's rate beside that of chance; None where it is demonstrably, or by far, better."""
    if evidence.chance is None:
        return None
    ours, theirs = (wording.percent(evidence.mean(arm)) for arm in ("tuned", evidence.chance))
    return f"it scores {ours} on {evidence.primary}, {evidence.always(evidence.chance)} {theirs}"


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
    return NextChange(change, collapse.sentence, tuple(wrong[:ROWS_SHOWN]))


def training_text_repeated(evidence: DiagnosisEvidence) -> NextChange | None:
    """Wrong answers that are training outputs word for word: overfitted."""
    known = {squeezed(text) for text in evidence.training_outputs if len(text.split()) >= 4}
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
    copied = [row for row in wrong if squeezed(of.get(row, "")) in known]
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
        f"train less: lower training.num_train_epochs{epochs}", because, tuple(copied[:ROWS_SHOWN])
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
    return NextChange(change, because, evidence.failing("tuned", ROWS_SHOWN))


def forgetting(evidence: DiagnosisEvidence) -> NextChange | None:
    """The task is learnt, every opponent is beaten, and other questions are answered in the task's format."""
    if evidence.forgets is None or not evidence.met or set(evidence.met.values()) != {"beats"}:
        return None
    replay = evidence.training.replay if evidence.training else None
    if replay is None:
        change = "replay the base's own answers: training.replay: {prompts: neutral, share: 0.1}"
    elif replay.share < _MOST_REPLAYED:
        share = min(_MOST_REPLAYED, 2 * replay.share)
        change = f"raise training.replay.share from {replay.share:g} to {share:g}"
    else:
        change = "mix rows with other instructions into the training file, or train less"
    return NextChange(change, evidence.forgets)


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
    return NextChange(change, because, rows[:ROWS_SHOWN])


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


def squeezed(text: str) -> str:
    """Put white space together, so that texts can be told alike."""
    return " ".join(text.split())
