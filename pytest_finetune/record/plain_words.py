"""How the tuned model fared under the primary rule, in words for somebody who reads one sentence."""

from __future__ import annotations

from typing import Final

from pytest_finetune.answering.arm_plans import TRIVIAL
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import Comparison, Score
from pytest_finetune.wording import arm, counted, margin, one_line, rough, rough_percent

_SHORT: Final = 24


def plain_sentence(experiment: RecordedExperiment) -> str:
    """Word rates, gain and what was asked for; empty where the primary rule was not judged.

    The exact sentence, with p-value and interval, is the first reason of the decision.
    """
    rule = experiment.primary
    met = [
        one for one in experiment.comparisons if one.rule == rule.name and experiment.is_opponent(one.against)
    ]
    met.sort(key=lambda one: one.against in TRIVIAL)
    tuned = experiment.arms["tuned"].rules[rule.name]
    over = _decisive(experiment, met)
    if over is None or tuned.rate is None or over.gain is None:
        return ""
    lead = "Right" if _binary(tuned) else "Scores"
    scored = (
        f"{lead} {_rate(tuned)} of {counted(tuned.total, 'row')} ({rule.name}); {_rates(experiment, met)}."
    )
    return one_line(
        f"{scored} {_gain(experiment, over, alone=len(met) == 1)} {_tail(experiment, over)}".strip()
    )


def _decisive(experiment: RecordedExperiment, met: list[Comparison]) -> Comparison | None:
    """Choose the opponent whose gain is told: the one of the first reason, else the first that was not beaten."""
    said = [one for one in met if one.sentence in experiment.decision.reasons[:1]]
    lost = [one for one in met if one.verdict != "beats"]
    return next(iter(said or lost or met), None)


def _rates(experiment: RecordedExperiment, met: list[Comparison]) -> str:
    """Word the rates of the opponents in order; of many, the base model's, the best one's, and that of chance."""
    scores = {one.against: experiment.arms[one.against].rules[one.rule] for one in met}
    words = {name: f"{_opponent(experiment, name)} {_rate(score)}" for name, score in scores.items()}
    others = [name for name in list(scores)[1:] if name not in TRIVIAL]
    if len(others) >= 3:
        best = max(others, key=lambda name: scores[name].rate or 0.0)
        words[best] += f" (the best of {len(others)} others)"
        words = {name: said for name, said in words.items() if name == best or name not in others}
    return ", ".join(words.values())


def _opponent(experiment: RecordedExperiment, name: str) -> str:
    """Name an opponent by what it does; one that always says the same, by what it says."""
    if name != "majority":
        return arm(name)
    says = experiment.arms[name].says
    return f"always answering {says!r}" if 0 < len(says) <= _SHORT else "always answering the commonest label"


def _rate(score: Score) -> str:
    if score.rate is None:
        return "without a rate"
    return f"on {rough_percent(score.rate)}" if _binary(score) else f"{score.rate:.2f} on average"


def _binary(score: Score) -> bool:
    return score.passed is None or float(score.passed).is_integer()


def _asked(experiment: RecordedExperiment, against: str) -> float:
    """Return the gain that a keep needs over an opponent."""
    settings = experiment.config.decision
    over_base = settings.min_gain if experiment.primary.min_gain is None else experiment.primary.min_gain
    over_others = over_base if settings.prompt_gain is None else settings.prompt_gain
    own = experiment.planned_arms[against].min_gain
    return (over_base if against == "baseline" else over_others if own is None else own) or 0.0


def _gain(experiment: RecordedExperiment, over: Comparison, *, alone: bool) -> str:
    asked = _asked(experiment, over.against)
    low, high = over.interval or (over.gain or 0.0, over.gain or 0.0)
    whom = "" if alone else f" over {arm(over.against)}"
    wanted = f", {margin(asked).split()[0]} were asked" if asked else ""
    points = rough(over.gain or 0.0, asked)
    return f"Gain{whom} {points} points ({rough(low, asked)} to {rough(high, asked)}){wanted}."


def _tail(experiment: RecordedExperiment, over: Comparison) -> str:
    """Say what keeps the adapter from being kept, or what the comparison came to."""
    reason = next(iter(experiment.decision.reasons), "")
    if over.verdict == "beats" or reason not in (over.sentence, ""):
        return "" if experiment.decision.keep or not reason else f"But: {_clause(reason)}."
    asked, alpha = _asked(experiment, over.against), experiment.decision.alpha
    if over.verdict == "worse":
        return f"It is worse than {arm(over.against)}."
    if over.verdict == "excluded":
        return f"A gain of {margin(asked)} is ruled out."
    proven = over.p_value is not None and alpha is not None and over.p_value <= alpha
    if proven if over.proven is None else over.proven:
        return "A gain is proven, but a smaller one than was asked."
    if (over.gain or 0.0) >= asked:
        return "These rows do not prove it."
    return "These rows neither prove such a gain nor rule it out."


def _clause(reason: str) -> str:
    """Return what stands before the first details of a reason."""
    return reason.partition(":")[0].partition(";")[0].removesuffix(".")
