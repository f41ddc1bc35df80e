"""What follows from a decision: how many rows would settle it, and the next change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.comparison import BASE, TUNED, Contest, Contests
from pytest_finetune.judging.evidence import TRIVIAL, NextChange
from pytest_finetune.judging.slices import lost_guards
from pytest_finetune.judging.statistics.growing import MOST_MORE
from pytest_finetune.judging.statistics.power import (
    MOST_ROWS,
    TOO_CLOSE,
    discordance_after,
    rows_to_settle,
)
from pytest_finetune.judging.thresholds import RuleVerdict

_ROWS_SHOWN = 10
_PROMPTS = ("prompted", "best_prompt")
_OWN = (BASE, *_PROMPTS, "constrained", *TRIVIAL, TUNED)


class Needed(NamedTuple):
    """The size of a fresh held-out file that would settle the primary rule; a sentence per opponent, largest first.

    Where rows may be added, `more` of them are needed and no fresh file.
    """

    rows: int | None
    sentences: tuple[str, ...]
    more: bool = False


def rows_needed(primary: Contests, power: float) -> Needed:
    """Plan a fresh file, or rows to add, from the observed gains; the largest need counts, None: no size helps."""
    sizes = [(_settling_rows(one, power), one) for one in primary.values() if not one.beats]
    sizes.sort(key=lambda need: -(MOST_ROWS + 1 if need[0] is None else need[0]))
    sentences = tuple(_size_sentence(contest, rows, power) for rows, contest in sizes)
    return Needed(sizes[0][0] if sizes else None, sentences, bool(sizes) and _lacks_evidence(sizes[0][1]))


def _lacks_evidence(contest: Contest) -> bool:
    return contest.evidence is not None and not contest.evidence.shown


def _settling_rows(contest: Contest, power: float) -> int | None:
    if contest.evidence is not None and not contest.evidence.shown:
        return contest.evidence.more
    sample = contest.gain.claim
    rows = rows_to_settle(sample.mean, discordance_after(sample), contest.margin, contest.levels.brake, power)
    if rows is None:
        return None
    inflated = ceil(rows * sample.n / sample.effective)  # rows that share groups are worth less
    return inflated if inflated <= MOST_ROWS else None


def _size_sentence(contest: Contest, rows: int | None, power: float) -> str:
    against, asked = wording.arm(contest.against), wording.margin(contest.margin)
    if contest.evidence is not None and not contest.evidence.shown:
        more = (
            f"no number up to {MOST_MORE:,} of further rows is enough if the rate stays"
            if rows is None
            else f"about {wording.counted(rows, 'more row')} {'is' if rows == 1 else 'are'} needed if the rate stays"
        )
        return f"against {against} {contest.evidence.words} (alpha {contest.gains_at.claim:.2g}): {more}"
    if rows is not None:
        return (
            f"about {rows:,} fresh held-out rows would settle it against {against} with {power:.0%} power, "
            "if the observed gain is the true one"
        )
    if abs(contest.gain.gain - contest.margin) < TOO_CLOSE:
        return (
            f"no number of rows settles it against {against}: the observed gain, "
            f"{wording.points(contest.gain.gain)}, is within 2 of the {asked} that are asked for"
        )
    return f"more than {MOST_ROWS:,} held-out rows would be needed to settle it against {against}"


def served_instead(primary: Contests) -> Contest | None:
    """Return the best of the arms from outside that the adapter lost to; None where the base does as well as that."""
    lost = [one for name, one in primary.items() if name not in _OWN and one.many and one.excluded]
    best = max(lost, key=_rate_of, default=None)
    return best if best is not None and _rate_of(best) > _rate_of(primary[BASE]) else None


def _rate_of(contest: Contest) -> float:
    return contest.table.tally(contest.against).mean


def after_discard(primary: Contests, contests: Mapping[str, Contests]) -> NextChange:
    """Say what to serve instead, and what to look at."""
    base, chance = primary[BASE], _chance(primary)
    better = [one for name, one in primary.items() if name != BASE and one.many and one.excluded]
    instead = served_instead(primary)
    if instead is not None:
        return _serve(instead)
    useless = [
        one for one in (base, *better) if one.many and one.excluded and not _knows(primary, one.against)
    ]
    if chance is not None and useless:
        return _knows_nothing(chance)
    if base.many and base.worse:
        change = "serve the base model, and look at what the training rows taught before training again"
        return NextChange(change, base.comparison.sentence, base.comparison.broken[:_ROWS_SHOWN])
    if base.many and base.excluded:
        change = "serve the base model: fine-tuning on these rows cannot bring the gain that was asked for"
        if base.table.tally(BASE).reaches(1 - base.margin):
            change = "serve the base model: it is already good at this, prompting is enough"
        return NextChange(change, base.comparison.sentence, base.table.failing(TUNED)[:_ROWS_SHOWN])
    if better:
        return _serve(better[0])
    guard = min(lost_guards(contests), key=lambda one: one.contest.p_worse)
    change = f"add training rows that show what {guard.name} checks"
    return NextChange(change, guard.sentence, guard.contest.comparison.broken[:_ROWS_SHOWN])


def after_bias(sentence: str) -> NextChange:
    """Say what to do where the judge's own bias may be the whole gain."""
    change = (
        "let people label more answers, or correct what the judge is asked; its bias may be the whole gain"
    )
    return NextChange(change, sentence)


def _chance(primary: Contests) -> Contest | None:
    """Return the contest with what reads no question, where the adapter neither beats it nor leads by what is asked."""
    met = (primary[name] for name in TRIVIAL if name in primary)
    return next((one for one in met if not one.beats and one.gain.gain < primary[BASE].margin), None)


def _knows(primary: Contests, arm: str) -> bool:
    """Tell whether an arm demonstrably knows more than what reads no question."""
    return arm not in TRIVIAL and all(
        Contest(one.table, one.against, 0.0, one.levels, ours=arm).demonstrated
        for name, one in primary.items()
        if name in TRIVIAL
    )


def _knows_nothing(chance: Contest) -> NextChange:
    change = (
        "the adapter knows nothing of the question: add training rows whose answers follow from their questions, "
        "or sharpen the rubric"
    )
    return NextChange(change, chance.comparison.sentence, chance.table.failing(TUNED)[:_ROWS_SHOWN])


def _serve(contest: Contest) -> NextChange:
    """Say to serve an opponent that is as good as the adapter."""
    lost = contest.comparison
    return NextChange(_instead_of_training(lost.against), lost.sentence, lost.broken[:_ROWS_SHOWN])


def _instead_of_training(against: str) -> str:
    if against in _PROMPTS:
        return f"serve the base model with the prompt of arm {against!r}: prompting is enough"
    if against == "constrained":
        return "serve the base model with constrained decoding (generation.constrain): it is enough"
    return f"serve {wording.arm(against)}: it is as good as the adapter on these rows, or better"


def after_iterate(
    changed: bool,
    primary: Contests,
    verdicts: Sequence[RuleVerdict],
    contests: Mapping[str, Contests],
    needed: Needed,
) -> NextChange:
    """Name a change that follows from the numbers alone; a diagnosis from more evidence goes before it."""
    if not changed:
        change = "check that the adapter is trained, saved and loaded"
        return NextChange(change, "the tuned model is the base model: no answer or no weight differs")
    chance = _chance(primary)
    if chance is not None:
        return _knows_nothing(chance)
    if needed.rows is not None and needed.more:
        change = (
            f"add about {wording.counted(needed.rows, 'row')} to the held-out file, behind those that it has"
        )
        return NextChange(change, needed.sentences[0], primary[BASE].comparison.broken)
    if needed.rows is not None:
        change = f"judge on a fresh held-out file of about {needed.rows:,} rows"
        return NextChange(change, needed.sentences[0], primary[BASE].comparison.broken)
    undecided = [contest for contest in primary.values() if not contest.beats]
    if undecided:
        change = "raise the gain with better training rows; more held-out rows alone do not settle it"
        return NextChange(change, needed.sentences[0], undecided[0].table.failing(TUNED)[:_ROWS_SHOWN])
    verdict = next(verdict for verdict in verdicts if not verdict.passed)
    table = contests[verdict.name][BASE].table
    rows = () if table.rule.corpus else table.failing(TUNED)[:_ROWS_SHOWN]
    return NextChange(
        f"make rule {verdict.name} hold: add training rows like those that fail it", verdict.reasons[0], rows
    )
