"""Rules about how an answer came: how long it is, whether the model stopped, how many seconds it took."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_finetune.rules.making import as_rule, broken, wrong

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response


def length(
    *,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    max_chars: int | None = None,
    min_chars: int | None = None,
    **thresholds: object,
) -> Callable[..., None]:
    """Make a rule: the answer is as long as is asked for; tokens are those that were generated."""
    limits = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "max_chars": max_chars,
        "min_chars": min_chars,
    }
    if all(limit is None for limit in limits.values()):
        raise ValueError("length(): name a limit, as in length(max_tokens=60)")
    for name, limit in limits.items():
        if limit is not None and not (type(limit) is int and limit >= 0):
            raise wrong(name, limit, "a whole number that is not negative")

    def length(response: Response) -> None:
        for unit, size, most, least in (
            ("tokens", response.tokens, max_tokens, min_tokens),
            ("characters", len(response.text), max_chars, min_chars),
        ):
            if most is not None and size > most:
                raise AssertionError(f"{size} {unit}, at most {most} are asked for")
            if least is not None and size < least:
                raise AssertionError(f"{size} {unit}, at least {least} are asked for")

    return as_rule(length, thresholds)


def stops_by_itself(**thresholds: object) -> Callable[..., None]:
    """Make a rule: the model ended the answer with its stop token, before the token limit cut it."""

    def stops_by_itself(response: Response) -> None:
        if not response.stopped:
            raise AssertionError(f"cut at the token limit after {response.tokens} tokens")

    return as_rule(stops_by_itself, thresholds)


def latency(max_seconds: float, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer took at most `max_seconds`.

    With `min_rate=0.95` that is a bound on the 95th percentile. The seconds are an answer's share of its batch,
    measured when it was generated: a stored answer keeps them, whatever machine reads it, and a batch hides what
    a single request waits. An answer without a measurement is an error of the rule, not a fast answer.
    """
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or max_seconds <= 0:
        raise wrong("max_seconds", max_seconds, "seconds above 0")

    def latency(response: Response) -> None:
        if response.seconds <= 0:
            raise broken(
                "an answer carries no measured seconds, as answers of another tool do: latency needs them"
            )
        if response.seconds > max_seconds:
            raise AssertionError(f"{response.seconds:.3g} s, at most {max_seconds:g} s are asked for")

    return as_rule(latency, thresholds)
