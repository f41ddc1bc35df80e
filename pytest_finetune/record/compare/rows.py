"""Which held-out rows two runs share, whose answers changed, and which outcomes of the tuned arm with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.record import reading
from pytest_finetune.record.case import judged_answers
from pytest_finetune.record.compare.matching import Matching, contents, matched
from pytest_finetune.record.reading import Json

if TYPE_CHECKING:
    from pytest_finetune.record.compare.stored_run import StoredRun

TUNED: Final = "tuned"
DERIVED: Final = "~"
"""Stands in the id of a row that was made from another one, before the way in which it was changed."""


def held_out(one: Json, other: Json) -> dict[str, dict[str, Any]]:
    """Return, for each suite, how many rows both runs held out, and the ids of those that only one did."""
    found = {}
    for suite in _suites(one, other):
        rows = matched(contents(one, suite), contents(other, suite))
        found[suite or ""] = {"both": len(rows.pairs), **_strays(rows)}
    return found


def changed_answers(a: StoredRun, b: StoredRun) -> dict[str, dict[str, Any]]:
    """Return, for each arm of both runs, which rows are answered otherwise, with both texts.

    `changed` is None where that is not known: then `lost` names the runs whose answers are gone.
    """
    found = {}
    arms = reading.part(b.experiment, "arms")
    for arm in (name for name in reading.arms(a.experiment) if name in arms):
        facts = [reading.part(run.experiment, "arms", arm) for run in (a, b)]
        answers = [run.answers(arm) for run in (a, b)]
        lost = [run for run, given in zip("ab", answers, strict=True) if given is None]
        same = facts[0].get("answers_sha256") == facts[1].get("answers_sha256")
        found[arm] = {"same": same, "lost": lost, "both": None, "changed": None}
        if not lost:
            found[arm] |= _texts(a.experiment, b.experiment, facts[0].get("suite"), answers)
    return found


def _texts(one: Json, other: Json, suite: str | None, answers: Sequence[Any]) -> dict[str, Any]:
    mine, theirs = ({answer.id: answer.response for answer in given} for given in answers)
    rows = matched(_known(one, suite, mine), _known(other, suite, theirs))
    changed = [(a, b) for a, b in rows.pairs if mine[a] != theirs[b]]
    return {
        "both": len(rows.pairs),
        "changed": [{"a": a, "b": b, "answers": [mine[a], theirs[b]]} for a, b in changed],
    }


def changed_outcomes(one: Json, other: Json) -> Iterator[dict[str, Any]]:
    """Yield, for each rule that both runs scored row by row, what B's tuned model fixed and broke against A's."""
    rules = reading.part(other, "rules")
    for name in (name for name in reading.rules(one) if name in rules):
        mine, theirs = (reading.part(run, "rules", name) for run in (one, other))
        if mine.get("corpus") or theirs.get("corpus") or mine.get("suite") != theirs.get("suite"):
            continue
        scores = [_scores(facts) for facts in (mine, theirs)]
        if not all(scores):
            continue
        suite = mine.get("suite")
        rows = matched(_known(one, suite, scores[0]), _known(other, suite, scores[1]))
        outcomes = _outcomes(other, name, rows, *scores)
        yield {
            "rule": name,
            "arm": judged_answers(theirs, TUNED)[0],
            **outcomes,
            **_strays(rows),
            "by_id": rows.by_id,
        }


def _outcomes(
    experiment: Json,
    rule: str,
    rows: Matching,
    mine: Mapping[str, float | None],
    theirs: Mapping[str, float | None],
) -> dict[str, Any]:
    judged = [
        (a, b, before, now)
        for a, b in rows.pairs
        if (before := mine[a]) is not None and (now := theirs[b]) is not None
    ]
    return {
        "both": len(judged),
        "fixed": [[a, b] for a, b, before, now in judged if now > before],
        "broken": [[a, b] for a, b, before, now in judged if now < before],
        **(_gain(experiment, rule, judged) if judged else {"gain": None, "interval": None}),
    }


def _gain(experiment: Json, rule: str, judged: Sequence[tuple[str, str, float, float]]) -> dict[str, Any]:
    """Return the observed gain of B over A with its interval, in clusters where the rule has them."""
    facts = reading.part(experiment, "rules", rule)
    groups = None
    if facts.get("cluster") and facts.get("groups"):
        by_row = dict(zip(facts["rows"], facts["groups"], strict=True))
        groups = [by_row[b] for _, b, _, _ in judged]
    gain = PairedGain.of([now for *_, now in judged], [before for *_, before, _ in judged], groups)
    brake = Levels(reading.confidence(experiment, facts) or 0.95).brake
    return {"gain": gain.gain, "interval": list(gain.interval(brake))}


def _scores(facts: Json) -> dict[str, float | None]:
    """Return the tuned arm's score of each row; empty where the rule did not run."""
    rows, given = reading.listed(facts, "rows"), reading.listed(reading.part(facts, "scores"), TUNED)
    return dict(zip(rows, given, strict=True)) if len(rows) == len(given) else {}


def _known(experiment: Json, suite: str | None, rows: Mapping[str, object]) -> dict[str, str | None]:
    """Return the content of rows by id; a row that was made from another one has that one's content."""
    origin = (suite or "").partition(DERIVED)[0] if suite and DERIVED in suite else suite
    known = contents(experiment, None if origin == "eval" else origin)
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


def _suites(one: Json, other: Json) -> list[str | None]:
    named = [reading.part(run, "config", "paths", "suites") for run in (one, other)]
    return [
        suite
        for suite in (None, *dict.fromkeys([*named[0], *named[1]]))
        if contents(one, suite) or contents(other, suite)
    ]
