"""Which held-out rows two runs share, whose answers changed, and which outcomes of the tuned arm with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.record.case import judged_answers
from pytest_finetune.record.compare.matching import Matching, contents, matched
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import RuleFacts

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.record.compare.stored_run import StoredRun

TUNED: Final = "tuned"
DERIVED: Final = "~"
"""Stands in the id of a row that was made from another one, before the way in which it was changed."""


def held_out(one: RecordedExperiment, other: RecordedExperiment) -> dict[str, dict[str, object]]:
    """Return, for each suite, how many rows both runs held out, and the ids of those that only one did."""
    found = {}
    for suite in dict.fromkeys(["", *one.config.paths.suites, *other.config.paths.suites]):
        mine, theirs = contents(one, suite), contents(other, suite)
        if mine or theirs:
            rows = matched(mine, theirs)
            found[suite] = {"both": len(rows.pairs), **_strays(rows)}
    return found


def changed_answers(a: StoredRun, b: StoredRun) -> dict[str, dict[str, Any]]:
    """Return, for each arm of both runs, which rows are answered otherwise, with both texts.

    `changed` is None where that is not known: then `lost` names the runs whose answers are gone.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in (name for name in a.experiment.arms if name in b.experiment.arms):
        one, other = (run.experiment.arms[arm] for run in (a, b))
        mine, theirs = a.answers(arm), b.answers(arm)
        lost = [run for run, given in (("a", mine), ("b", theirs)) if given is None]
        same = one.answers_sha256 == other.answers_sha256
        found[arm] = {"same": same, "lost": lost, "both": None, "changed": None}
        if mine is not None and theirs is not None:
            found[arm] |= _texts(a.experiment, b.experiment, one.suite, mine, theirs)
    return found


def _texts(
    one: RecordedExperiment, other: RecordedExperiment, suite: str, a: Sequence[Answer], b: Sequence[Answer]
) -> dict[str, Any]:
    mine, theirs = ({answer.id: answer.response for answer in given} for given in (a, b))
    rows = matched(known_rows(one, suite, mine), known_rows(other, suite, theirs))
    changed = [(a, b) for a, b in rows.pairs if mine[a] != theirs[b]]
    return {
        "both": len(rows.pairs),
        "changed": [{"a": a, "b": b, "answers": [mine[a], theirs[b]]} for a, b in changed],
    }


def changed_outcomes(one: RecordedExperiment, other: RecordedExperiment) -> Iterator[dict[str, object]]:
    """Yield, for each rule that both runs scored row by row, what B's tuned model fixed and broke against A's."""
    for mine, theirs in ((rule, other.rules[rule.name]) for rule in one.rules.values()):
        scores, now = _scores(mine), _scores(theirs)
        if mine.corpus or theirs.corpus or mine.suite != theirs.suite or not scores or not now:
            continue
        rows = matched(known_rows(one, mine.suite, scores), known_rows(other, mine.suite, now))
        yield {
            "rule": theirs.name,
            "arm": judged_answers(theirs.raw, TUNED)[0],
            **_outcomes(theirs, other.confidence(theirs), rows, scores, now),
            **_strays(rows),
            "by_id": rows.by_id,
        }


def _outcomes(
    rule: RuleFacts,
    confidence: float | None,
    rows: Matching,
    mine: Mapping[str, float | None],
    theirs: Mapping[str, float | None],
) -> dict[str, object]:
    judged = [
        (a, b, before, now)
        for a, b in rows.pairs
        if (before := mine[a]) is not None and (now := theirs[b]) is not None
    ]
    return {
        "both": len(judged),
        "fixed": [[a, b] for a, b, before, now in judged if now > before],
        "broken": [[a, b] for a, b, before, now in judged if now < before],
        **(_gain(rule, confidence, judged) if judged else {"gain": None, "interval": None}),
    }


def _gain(
    rule: RuleFacts, confidence: float | None, judged: Sequence[tuple[str, str, float, float]]
) -> dict[str, object]:
    """Return the observed gain of B over A with its interval, in clusters where the rule has them."""
    groups = None
    if rule.cluster and rule.groups:
        by_row = dict(zip(rule.rows, rule.groups, strict=True))
        groups = [by_row[b] for _, b, _, _ in judged]
    gain = PairedGain.of([now for *_, now in judged], [before for *_, before, _ in judged], groups)
    return {"gain": gain.gain, "interval": list(gain.interval(Levels(confidence or 0.95).brake))}


def _scores(rule: RuleFacts) -> dict[str, float | None]:
    """Return the tuned arm's score of each row; empty where the rule did not run."""
    given = rule.scores.get(TUNED, ())
    return dict(zip(rule.rows, given, strict=True)) if len(rule.rows) == len(given) else {}


def known_rows(
    experiment: RecordedExperiment, suite: str, rows: Mapping[str, object]
) -> dict[str, str | None]:
    """Return the content of rows by id; a row that was made from another one has that one's content."""
    origin = suite.partition(DERIVED)[0]
    known = contents(experiment, "" if origin == "eval" else origin)
    found: dict[str, str | None] = {}
    for id_ in rows:
        row, mark, way = id_.rpartition(DERIVED)
        if id_ in known or not mark:
            found[id_] = known.get(id_)
        else:
            found[id_] = f"{known[row]}{mark}{way}" if row in known else None
    return found


def _strays(rows: Matching) -> dict[str, list[str]]:
    return {"only_a": list(rows.only_a), "only_b": list(rows.only_b), "reworded": list(rows.reworded)}
