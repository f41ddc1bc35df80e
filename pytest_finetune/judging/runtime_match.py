"""How far one arm agrees with itself between two runtimes: per row, on the raw text and under each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_finetune import wording
from pytest_finetune.judging.evidence import Agreement
from pytest_finetune.judging.statistics.paired import PairedGain

ALIKE: Final = 0.95
"""Below this share of rows two runtimes are said to disagree."""


_ONE_SIDE: Final = 0.025


@dataclass(frozen=True, slots=True)
class Moved:
    """How the scores under a rule move from the first runtime to the second, paired over the same rows.

    `worse` and `better` are the ids of the rows, `gain` is the mean change and `interval` its 95% interval.
    """

    worse: tuple[str, ...]
    better: tuple[str, ...]
    total: int
    gain: float
    interval: tuple[float, float]

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {
            "worse": list(self.worse),
            "better": list(self.better),
            "total": self.total,
            "gain": self.gain,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class RuntimeMatch:
    """The tuned arm in the first runtime, where the decision is made, and in a further one.

    `text` counts equal raw answers; ``match["rule"]`` counts the rows on which a rule gave both the same score. Both
    have `same`, `total`, `rate` and `rows`, the ids of the rows that differ. `cause` names what to look at first where
    fewer than 95% of the texts are alike and the second runtime makes other prompts or may have decoded otherwise.
    `moved` says by a rule's name which rows became worse and better from the first runtime to the second.
    """

    first: str
    second: str
    text: Agreement
    rules: Mapping[str, Agreement] = field(default_factory=dict)
    cause: str | None = None
    moved: Mapping[str, Moved] = field(default_factory=dict)

    def __getitem__(self, rule: str) -> Agreement:
        """Return the agreement under a rule; KeyError names the rules that ran."""
        if rule not in self.rules:
            known = ", ".join(self.rules) or "none"
            raise KeyError(f"there is no rule {rule!r} that ran in {self.second}; known: {known}")
        return self.rules[rule]

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        rules = {name: _counts(found) for name, found in self.rules.items()}
        found: dict[str, object] = {
            "first": self.first,
            "second": self.second,
            "text": _counts(self.text),
            "rules": rules,
        }
        if self.moved:
            found["moved"] = {name: one.as_json() for name, one in self.moved.items()}
        return found if self.cause is None else {**found, "cause": self.cause}


def _counts(found: Agreement) -> dict[str, object]:
    return {"same": found.same, "total": found.total, "rows": list(found.rows)}


def agreement(
    first: str, second: str, rows: Sequence[str], ours: Sequence[object], theirs: Sequence[object]
) -> Agreement:
    """Count the rows with equal values; rows that were skipped in both (None) are not counted.

    >>> agreement("transformers", "merged", ["a", "b"], [1.0, None], [0.0, None])
    Agreement(first='transformers', second='merged', same=0, total=1, rows=('a',))
    """
    pairs = [
        (row, a, b) for row, a, b in zip(rows, ours, theirs, strict=True) if a is not None or b is not None
    ]
    apart = tuple(row for row, a, b in pairs if a != b)
    return Agreement(first, second, len(pairs) - len(apart), len(pairs), apart)


def moved(
    rows: Sequence[str],
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    groups: Sequence[str | None] = (),
) -> Moved | None:
    """Pair the scores of two runtimes; rows without a score in either are not counted, None where none is left.

    >>> moved(["a", "b"], [1.0, 1.0], [0.0, 1.0]).worse
    ('a',)
    """
    grouped = groups or [None] * len(rows)
    pairs = [
        (row, a, b, group)
        for row, a, b, group in zip(rows, ours, theirs, grouped, strict=True)
        if a is not None and b is not None
    ]
    if not pairs:
        return None
    gain = PairedGain.of(
        [after for _, _, after, _ in pairs],
        [before for _, before, _, _ in pairs],
        [group for *_, group in pairs],
    )
    return Moved(
        tuple(row for row, before, after, _ in pairs if after < before),
        tuple(row for row, before, after, _ in pairs if after > before),
        len(pairs),
        gain.gain,
        gain.interval(_ONE_SIDE),
    )


def cause_of(runtime: str, arm: Mapping[str, Any]) -> str | None:
    """Say why a runtime may answer otherwise: the prompts that it makes, then how it may have decoded.

    `arm` holds what was recorded of its answers.
    """
    prompts = [f"{found['says']}: {found['do']}" for found in arm.get("rendering", {}).get("differences", ())]
    return "; ".join(prompts) or _decoding_cause(runtime, arm.get("decoding") or {})


def grammar_of(first: str, second: str, arms: Sequence[Mapping[str, Any]]) -> str | None:
    """Say where one of two runtimes holds the calls of tools to a grammar, and the other does not.

    `arms` holds what was recorded of both.
    """
    held = [(arm.get("decoding") or {}).get("calls_held") for arm in arms]
    if bool(held[0]) == bool(held[1]):
        return None
    runtime, other = (first, second) if held[0] else (second, first)
    return (
        f"{runtime} holds a call to the schemas of its tools by a grammar as soon as an answer begins one "
        f"({wording.counted(held[0] or held[1] or 0, 'row')} with tools), where {other} decodes freely: calls that "
        "would break their schema, or stand in another form, come out otherwise; decide on the runtime that is shipped"
    )


def end_of(
    first: str, second: str, arms: Sequence[Mapping[str, Any]], texts: Sequence[Sequence[str]]
) -> str | None:
    """Say where one of two runtimes ends answers that the other goes on with, because it knows another end.

    `arms` holds what was recorded of both, `texts` the answers of both to the same rows.
    """
    for at, runtime in enumerate((first, second)):
        ends = arms[at].get("rendering", {}).get("ends")
        rows = list(zip(texts[at], texts[1 - at], strict=True))
        cut = sum(ours != theirs and theirs.startswith(ours.rstrip()) for ours, theirs in rows)
        if ends and cut:
            other = (second, first)[at]
            return (
                f"{runtime} also ends an answer at {wording.listed([repr(end) for end in ends])}, where {other} goes "
                f"on, and {cut} of {wording.counted(len(rows), 'answer')} may be cut there: name it in eos_token_id of "
                "the base's generation_config.json, so that it ends an answer everywhere"
            )
    return None


def _decoding_cause(runtime: str, decoding: Mapping[str, Any]) -> str | None:
    """Say where a runtime may have decoded otherwise: what the base's folder sets, and what it was not asked for."""
    sets, refused = decoding.get("base_sets"), decoding.get("refused", ())
    if not sets:
        return None
    told = wording.listed([f"{name} {value}" for name, value in sets.items()])
    lost = [name for name in sets if name in refused]
    heard = (
        f"{runtime} takes no {wording.listed(lost)} with a question"
        if lost
        else f"{runtime} was asked to decode without, and may not have heeded it"
    )
    return (
        f"generation_config.json of the base sets {told}, without which the decision was made; {heard}: "
        f"start {runtime} without these settings (vLLM: --generation-config vllm)"
    )


def warnings_of(matches: Sequence[RuntimeMatch], primary: str) -> tuple[list[str], list[str]]:
    """Say what a verdict carries of further runtimes: where they disagree, and what was not compared there."""
    apart = [
        f"{match.first} and {match.second} agree on {found.same} of {wording.counted(found.total, 'row')} only "
        f"under {primary}: what was judged is not what {match.second} serves"
        + (f"; look first at this: {match.cause}" if match.cause else "")
        for match in matches
        if (found := match.rules.get(primary)) is not None and found.rate < ALIKE
    ]
    if not matches:
        return apart, []
    others = wording.listed([match.second for match in matches])
    untried = (
        f"decided on the answers in {matches[0].first}; in {others} the tuned model alone answered, "
        "so no gain was compared there"
    )
    return apart, [untried]
