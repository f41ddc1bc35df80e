"""What the arguments of `eval_rule` may be, each mistake with what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_finetune.data.perturbed import WAYS
from pytest_finetune.yamlfile import unknown_key

KNOWN: Final = (
    "primary",
    "min_rate",
    "min_rate_bound",
    "min_gain",
    "max_loss",
    "confidence",
    "suite",
    "cluster",
    "slice",
    "protected",
    "corpus",
    "invariant_to",
    "direction",
    "name",
)
_SHARES: Final = ("min_rate", "min_rate_bound", "min_gain", "max_loss", "confidence")
_NAMES: Final = ("suite", "cluster", "slice", "name")
_FLAGS: Final = ("primary", "corpus")
_PAIRED: Final = ("primary", "min_rate_bound", "min_gain", "max_loss", "confidence", "cluster", "slice")


def mistakes(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a marker's keyword arguments, one sentence each; nothing when all can be meant."""
    for key, value in given.items():
        if key not in KNOWN:
            yield f"eval_rule({key}=...): {unknown_key(key, KNOWN)}"
        elif value is not None:
            yield from _value_mistakes(key, value)
    yield from _contradictions(given)


def _value_mistakes(key: str, value: object) -> Iterator[str]:
    if key in _SHARES and not _is_share(value):
        yield f"eval_rule({key}={value!r}): write a share between 0 and 1, as in {key}=0.95"
    elif key == "confidence" and not 0.5 < value < 1:  # type: ignore[operator]
        yield f"eval_rule(confidence={value!r}): write a share between 0.5 and 1, as in confidence=0.95"
    if key in _FLAGS and not isinstance(value, bool):
        yield f"eval_rule({key}={value!r}): write True or False"
    if key in _NAMES and not _is_name(value):
        yield f"eval_rule({key}={value!r}): write a name"
    if key == "cluster" and value != "group":
        yield f"eval_rule(cluster={value!r}): rows are clustered by 'group' only"
    if key == "protected" and not (isinstance(value, (list, tuple)) and value and all(map(_is_name, value))):
        yield f"eval_rule(protected={value!r}): write a list of slices, as in protected=['negative']"


def _contradictions(given: Mapping[str, Any]) -> Iterator[str]:
    if given.get("primary") and given.get("suite") is not None:
        yield "eval_rule(primary=True, suite=...): the primary rule is judged on eval_file; suites hold guards"
    paired = [key for key in _PAIRED if given.get(key)] if given.get("corpus") else []
    if paired:
        yield (
            f"eval_rule(corpus=True, {paired[0]}=...): a corpus rule has one value for each arm and no rows to pair: "
            "assert in it, or grade it with score(x) and write min_rate"
        )
    yield from _invariance_mistakes(given)
    if given.get("protected") and given.get("slice") is None:
        yield "eval_rule(protected=...): say by what rows are sliced, as in slice='tags'"
    if given.get("slice") == "group" and given.get("cluster") == "group":
        yield (
            "eval_rule(slice='group', cluster='group'): every slice would be a single cluster, which shows "
            "nothing: slice by tags, or leave cluster out"
        )


def _invariance_mistakes(given: Mapping[str, Any]) -> Iterator[str]:
    ways, direction = given.get("invariant_to"), given.get("direction")
    if direction is not None and ways is None:
        yield "eval_rule(direction=...): say to what the rule is invariant, as in invariant_to=['typo']"
    if direction is not None and direction not in ("same", "not lower"):
        yield f"eval_rule(direction={direction!r}): write 'same' or 'not lower'"
    if ways is None:
        return
    if not (isinstance(ways, (list, tuple)) and ways and all(way in WAYS for way in ways)):
        yield f"eval_rule(invariant_to={ways!r}): write a list of {', '.join(WAYS)}"
        return
    if given.get("min_rate") is None and given.get("min_rate_bound") is None:
        yield "eval_rule(invariant_to=...): say how many outcomes must stay, as in min_rate=0.9"
    strays = [
        key for key in ("primary", "corpus", "min_gain", "max_loss", "slice", "cluster") if given.get(key)
    ]
    if strays:
        yield (
            f"eval_rule(invariant_to=..., {strays[0]}=...): an invariance rule counts outcomes that stay, which no arm "
            "gains by answering better: ask for min_rate or min_rate_bound"
        )


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)
