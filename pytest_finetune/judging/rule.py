"""A rule: what `eval_rule` may ask for, what that means, and how the record holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_type_hints

from pytest_finetune import wording
from pytest_finetune.judging.statistics.levels import Levels

if TYPE_CHECKING:
    from pytest_finetune.experiment import DecisionDefaults

# What a rule is called for: each row, all answers of an arm together, each row and what it is in other words.
ROWS: Final = "rows"
CORPUS: Final = "corpus"
INVARIANCE: Final = "invariance"
ALL: Final = (ROWS, CORPUS, INVARIANCE)

WAYS: Final = ("case", "whitespace", "typo", "numbers", "names", "distractor")
"""What `invariant_to` may name; `data.perturbed` knows how each changes a row."""
NOT_LOWER: Final = "not lower"
_DIRECTIONS: Final = ("same", NOT_LOWER)
_THRESHOLDS: Final = ("min_rate", "min_rate_bound", "min_gain", "max_loss")


class RuleBroken(Exception):
    """The rule itself is broken, so it judges nothing."""


class Kind(NamedTuple):
    """Which values an argument takes, what a wrong one is told, and the JSON Schema of its place in the record."""

    takes: Callable[[object], bool]
    allowed: str
    schema: Mapping[str, object]


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_level(value: object) -> bool:
    return isinstance(value, float) and 0.5 < value < 1


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list(takes: Callable[[object], bool], value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(takes, value))


_NUMBER: Final = {"type": ["number", "null"]}
_TEXT: Final = {"type": ["string", "null"]}
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}

FLAG: Final = Kind(lambda value: isinstance(value, bool), "write True or False", {"type": "boolean"})
SHARE: Final = Kind(_is_share, "write a share between 0 and 1, as in {name}=0.95", _NUMBER)
LEVEL: Final = Kind(_is_level, "write a share between 0.5 and 1, as in {name}=0.95", _NUMBER)
NAME: Final = Kind(_is_name, "write a name", _TEXT)
NAMES: Final = Kind(partial(_is_list, _is_name), "write a list of slices, as in {name}=['negative']", _TEXTS)
GROUP: Final = Kind(lambda value: value == "group", "rows are clustered by 'group' only", _TEXT)
WAY: Final = Kind(partial(_is_list, WAYS.__contains__), f"write a list of {', '.join(WAYS)}", _TEXTS)
DIRECTION: Final = Kind(
    _DIRECTIONS.__contains__, "write 'same' or 'not lower'", {"enum": [*_DIRECTIONS, None]}
)


class Argument(NamedTuple):
    """One argument of `eval_rule`: its values, one as it is written, which rules take it, and when they then pass."""

    kind: Kind
    example: str
    fits: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule asks; an annotated field is an argument of its marker, `sha256` the digest of its text."""

    # fmt: off
    name: Annotated[
        str, NAME, '"json"', ALL, "the rule's name; else the function's without `test_`, with `[id]` when parametrised"
    ]
    primary: Annotated[
        bool, FLAG, "True", (ROWS,),
        "the tuned arm beats the base: a gain above zero is demonstrated and at least `min_gain` is observed. "
        "Exactly one rule is primary",
    ] = False
    min_rate: Annotated[
        float | None, SHARE, "0.95", ALL, "the tuned arm's observed rate is at least this"
    ] = None
    min_rate_bound: Annotated[
        float | None, SHARE, "0.9", (ROWS, INVARIANCE),
        "a rate of at least this is demonstrated (lower confidence bound)",
    ] = None
    min_gain: Annotated[
        float | None, SHARE, "0.1", (ROWS,),
        "the observed gain over the base is at least this, and a gain is demonstrated",
    ] = None
    max_loss: Annotated[
        float | None, SHARE, "0.02", (ROWS,),
        "a loss beyond this is excluded (non-inferiority), and none is demonstrated",
    ] = None
    confidence: Annotated[
        float | None, LEVEL, "0.99", (ROWS, INVARIANCE),
        "this rule's own confidence instead of the experiment's",
    ] = None
    suite: Annotated[
        str | None, NAME, '"general"', ALL, "the rule runs on that file of `paths.suites`, for base and tuned"
    ] = None
    cluster: Annotated[
        str | None, GROUP, '"group"', (ROWS,), "rows that share a `group` count together"
    ] = None
    slice: Annotated[
        str | None, NAME, '"tags"', (ROWS,),
        "the record and the terminal show the rule's rate on each slice; see below",
    ] = None
    protected: Annotated[
        tuple[str, ...], NAMES, '["negative"]', (ROWS,),
        "the tuned arm is not demonstrably worse than the base on any of these slices",
    ] = ()
    judge: Annotated[
        bool, FLAG, "True", (ROWS,),
        "the rule asks a judge, who may say otherwise when asked again: verdicts are stored and repeated; see below",
    ] = False
    pairwise: Annotated[
        bool, FLAG, "True", (ROWS,),
        "with `judge`: the judge says which of two answers is better, the tuned model's or the base's; see below",
    ] = False
    labels: Annotated[
        str | None, NAME, '"eval/kind_labels.jsonl"', (ROWS,),
        "with `judge`: people's labels of answers, by which the judge is checked; else `eval/judge_labels.jsonl`",
    ] = None
    corpus: Annotated[
        bool, FLAG, "True", (CORPUS,), "the rule holds on all answers of the tuned arm together; see below"
    ] = False
    invariant_to: Annotated[
        tuple[str, ...], WAY, '["typo"]', (INVARIANCE,),
        "so many outcomes stay when the question is asked in other words; see below",
    ] = ()
    direction: Annotated[
        str | None, DIRECTION, '"not lower"', (INVARIANCE,),
        "with `invariant_to`: an outcome may rise, but not fall",
    ] = None
    sha256: str = ""
    changed_after_look: bool = False
    # fmt: on

    def __post_init__(self) -> None:
        for key in _THRESHOLDS:
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"rule {self.name!r}: {key}={value!r} is not a share between 0 and 1")
        if self.confidence is not None and not 0.5 < self.confidence < 1:
            raise ValueError(
                f"rule {self.name!r}: confidence={self.confidence!r} does not lie between 0.5 and 1"
            )

    @property
    def guard(self) -> bool:
        """Whether the rule also fails where the tuned arm is demonstrably worse than the base."""
        return is_guard(self._recorded)

    @property
    def paired(self) -> bool:
        """Whether what the rule gives on a row tells which arm is better on it."""
        return not (self.corpus or self.invariant_to)

    @property
    def _recorded(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RECORDED}

    def levels(self, defaults: DecisionDefaults, look: int, *, grow: bool = False) -> Levels:
        """Return the error levels of this rule at a look; its own confidence wins."""
        return Levels(self.confidence or defaults.confidence, look, defaults.spend, grow)

    def as_json(self) -> dict[str, object]:
        """Return the record's form, under the rule's name."""
        told = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self._recorded.items()
        }
        more = {"guard": self.guard, "sha256": self.sha256, "changed_after_look": self.changed_after_look}
        return {**told, **more}

    @classmethod
    def of_json(cls, name: str, facts: Mapping[str, object]) -> Rule:
        """Return a rule from its record, or from the arguments of its marker; what is absent or null is not asked.

        A `guard` on record is not read: whether a rule guards follows from what it asks.
        """
        names = (*RECORDED, "sha256", "changed_after_look")
        given: dict[str, Any] = {key: facts[key] for key in names if facts.get(key) is not None}
        given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
        if given.get("invariant_to"):
            given["cluster"] = "group"  # the copies of a row count together
        return cls(name, **given)


def _arguments() -> dict[str, Argument]:
    hints = get_type_hints(Rule, include_extras=True)
    found = {
        name: Argument(*hint.__metadata__) for name, hint in hints.items() if hasattr(hint, "__metadata__")
    }
    found["name"] = found.pop("name")  # the last of a call, though the first of a rule
    return found


ARGUMENTS: Final[Mapping[str, Argument]] = _arguments()
"""The arguments of `eval_rule` by name: help, checks, record, schema and documentation follow this table."""
RECORDED: Final = tuple(name for name in ARGUMENTS if name != "name")


def is_guard(facts: Mapping[str, object]) -> bool:
    """Tell from what a rule asks whether it also fails where the tuned arm is demonstrably worse than the base."""
    if facts.get("primary") or facts.get("corpus"):
        return False
    return facts.get("max_loss") is not None or all(facts.get(key) is None for key in _THRESHOLDS)


def rules_sha256(rules: Sequence[Rule]) -> str:
    """Digest all rules, with their texts and thresholds; their order does not matter."""
    facts = sorted(
        json.dumps(
            [
                *(rule.name, rule.sha256, rule.primary, rule.suite, rule.cluster, rule.confidence),
                *(getattr(rule, key) for key in _THRESHOLDS),
            ]
        )
        for rule in rules
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def signature() -> str:
    """Return the marker with every argument, as ``pytest --markers`` shows it."""
    shown = (f"{name}={False if argument.kind is FLAG else None}" for name, argument in ARGUMENTS.items())
    return f"eval_rule(*, {', '.join(shown)})"


def mistakes(given: Mapping[str, object]) -> Iterator[str]:
    """Yield what is wrong with a marker's keyword arguments, one sentence each, with what is allowed."""
    for name, value in given.items():
        argument = ARGUMENTS.get(name)
        if argument is None:
            yield f"eval_rule({name}=...): {wording.unknown_key(name, list(ARGUMENTS))}"
        elif value is not None and not argument.kind.takes(value):
            yield f"eval_rule({name}={value!r}): {argument.kind.allowed.format(name=name)}"
    yield from _contradictions(given)


_STRAYS: Final = {
    ROWS: "eval_rule({name}=...): say to what the rule is invariant, as in invariant_to=['typo']",
    CORPUS: (
        "eval_rule(corpus=True, {name}=...): a corpus rule has one value for each arm and no rows to pair: "
        "assert in it, or grade it with score(x) and write min_rate"
    ),
    INVARIANCE: (
        "eval_rule(invariant_to=..., {name}=...): an invariance rule counts outcomes that stay, which no arm "
        "gains by answering better: ask for min_rate or min_rate_bound"
    ),
}


def _contradictions(given: Mapping[str, object]) -> Iterator[str]:
    asked = [name for name in ARGUMENTS if given.get(name)]
    if "primary" in asked and "suite" in asked:
        yield "eval_rule(primary=True, suite=...): the primary rule is judged on eval_file; suites hold guards"
    kind = INVARIANCE if "invariant_to" in asked else CORPUS if "corpus" in asked else ROWS
    if kind == INVARIANCE and given.get("min_rate") is None and given.get("min_rate_bound") is None:
        yield "eval_rule(invariant_to=...): say how many outcomes must stay, as in min_rate=0.9"
    for name in asked:
        if kind not in ARGUMENTS[name].fits:
            yield _STRAYS[kind].format(name=name)
    if "protected" in asked and "slice" not in asked:
        yield "eval_rule(protected=...): say by what rows are sliced, as in slice='tags'"
    if "labels" in asked and "judge" not in asked:
        yield "eval_rule(labels=...): they check a judge: mark the rule judge=True"
    if "pairwise" in asked:
        yield from _pairwise(asked)
    if given.get("slice") == given.get("cluster") == "group":
        yield (
            "eval_rule(slice='group', cluster='group'): every slice would be a single cluster, which shows "
            "nothing: slice by tags, or leave cluster out"
        )


def _pairwise(asked: Sequence[str]) -> Iterator[str]:
    if "judge" not in asked:
        yield "eval_rule(pairwise=True): a judge says which answer is better: mark the rule judge=True"
    if "primary" in asked:
        yield (
            "eval_rule(pairwise=True, primary=True): it compares with the base alone, and a decision is about every "
            "opponent: let a rule that judges one answer be primary, and ask this one for min_gain or max_loss"
        )
    for name in ("min_rate", "min_rate_bound"):
        if name in asked:
            yield (
                f"eval_rule(pairwise=True, {name}=...): an answer may win by being shown first, so the rate alone says "
                "nothing: ask for min_gain or max_loss, which count wins in both orders"
            )
    if "labels" in asked:
        yield "eval_rule(pairwise=True, labels=...): labels say which answers pass, not which of two is better"
