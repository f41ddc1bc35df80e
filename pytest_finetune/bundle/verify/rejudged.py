"""What rules gave when they were run again over a bundle's answers, held against what its record says they gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune.bundle.reading import Problem
from pytest_finetune.bundle.verify.recompute import same
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import GrowthFacts
from pytest_finetune.record.recipes import sentences
from pytest_finetune.wording import counted, listed, one_line
from pytest_finetune.yamlfile import Json

_ROWS_SHOWN: Final = 5
_NOISE: Final = "the noise runs of the base"


@dataclass(frozen=True, slots=True)
class Rejudged:
    """The finding: `problems` are outcomes that do not follow, `notes` are told beside them.

    `unchecked` maps what could not be checked to why; `outcomes` were compared under `rules`, and those in `reworded`
    have another text than the rule of the run.
    """

    problems: Sequence[Problem]
    rules: Sequence[str]
    outcomes: int
    reworded: Sequence[str]
    unchecked: Mapping[str, str]
    notes: Sequence[str]


def rejudged(experiment: Json, found: Json, where: str) -> Rejudged:
    """Compare the outcomes of rules that lie in `where` with the recorded ones, row by row and arm by arm."""
    recorded, given = experiment["rules"], found["rules"]
    problems, rules, unchecked = [], [], {}
    for name in sorted(recorded):
        told = given.get(name)
        if told is None:
            problems.append(Problem(f"rule {name}", f"is not among the rules in {where}"))
        elif "unchecked" in told:
            unchecked[name] = told["unchecked"]
        elif "error" in told:
            problems.append(Problem(f"rule {name}", f"cannot be run again: {one_line(told['error'], 400)}"))
        else:
            rules.append(name)
            problems += _differences(name, recorded[name], told)
    for broken in found["errors"]:
        problems.append(
            Problem(one_line(broken["nodeid"]), f"cannot be collected: {one_line(broken['error'], 400)}")
        )
    if recorded and not rules and not problems:
        why = next(iter(unchecked.values()))
        problems.append(Problem(f"the rules in {where}", f"could not be run again, not one of them: {why}"))
    if any(facts.get("noise") for facts in recorded.values()):
        unchecked[_NOISE] = "a bundle does not hold their answers"
    reworded = [name for name in rules if given[name]["sha256"] != recorded[name]["sha256"]]
    outcomes = sum(len(scores) for name in rules for scores in given[name]["scores"].values())
    one = RecordedExperiment.of(experiment)
    notes = [*_notes(recorded, given, reworded, where), *grown(one.decision.growth), *sentences(one)[:1]]
    return Rejudged(problems, rules, outcomes, reworded, unchecked, notes)


def _differences(name: str, recorded: Json, told: Json) -> Iterator[Problem]:
    if list(recorded.get("rows") or ()) != list(told["rows"]):
        yield Problem(f"rule {name}", "judges other rows than the record says")
        return
    for part, words in (("groups", "groups"), ("slice_rows", "slices")):
        if not same(recorded.get(part), told[part]):
            yield Problem(f"rule {name}", f"its {words} are not those of the rows")
    before, now = recorded.get("scores") or {}, told["scores"]
    for arm in sorted(before.keys() | now.keys()):
        if arm not in before or arm not in now:
            only = "recorded for" if arm in before else "given to"
            yield Problem(f"rule {name}", f"its outcomes are {only} {arm} only")
            continue
        pairs = list(zip(told["rows"], before[arm], now[arm], strict=True))
        wrong = [(row, old, new) for row, old, new in pairs if not same(old, new)]
        if wrong:
            shown = [f"{one_line(row, 40)} ({_score(old)}, now {_score(new)})" for row, old, new in wrong]
            said = (
                f"{len(wrong):,} of {counted(len(pairs), 'outcome')} of {arm} do not follow from the answers"
            )
            yield Problem(f"rule {name}", f"{said}: {listed(shown, _ROWS_SHOWN)}")


def _notes(recorded: Json, given: Json, reworded: Sequence[str], where: str) -> Iterator[str]:
    if reworded:
        yield f"{where} has another text of {listed(reworded)} than the run judged by (or another Python digested it)"
    new = sorted(given.keys() - recorded.keys())
    if new:
        yield f"{where} holds {counted(len(new), 'rule')} that the run did not judge by: {listed(new)}"


def grown(growth: GrowthFacts) -> Iterator[str]:
    """Yield how the rows came to be so many, where they were added for this adapter."""
    if growth.ends:
        sizes = f"{counted(growth.ends[0], 'row')} at first"
        yield f"{growth.words}, {sizes}: the claim is made by e-values, which hold however often rows are added"


def _score(value: float | None) -> str:
    return "skipped" if value is None else f"{value:g}"
