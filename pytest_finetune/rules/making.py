"""How a ready rule becomes a test: the marker on it, its place where the user wrote it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import pytest

from pytest_finetune.judging.rule import RuleBroken

Rule = TypeVar("Rule", bound=Callable[..., None])

SHOWN = 60


def as_rule(function: Rule, arguments: dict[str, object], *, corpus: bool = False) -> Rule:
    """Put the `eval_rule` marker on a rule's function; pytest shows it at the line that calls the factory."""
    if corpus:
        arguments = {"corpus": True, **arguments}
    _place(function)
    return pytest.mark.eval_rule(**arguments)(function)  # type: ignore[no-any-return]


def _place(function: Callable[..., None]) -> None:
    """Let pytest report the test where the user wrote it, not inside this package."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("pytest_finetune.rules"):
        frame = frame.f_back
    if frame is None:
        return

    def here() -> None:
        """Stand for a line of the user's file."""

    here.__code__ = here.__code__.replace(co_filename=frame.f_code.co_filename, co_firstlineno=frame.f_lineno)
    function.place_as = here  # type: ignore[attr-defined]


def broken(message: str) -> Exception:
    """Return what a rule raises that cannot judge anything: an error of the rule, never a failed row."""
    return RuleBroken(message)


def wrong(name: str, value: object, allowed: str) -> ValueError:
    """Return the error for a parameter that cannot be meant; it is raised where the rule is written."""
    return ValueError(f"{name}={value!r}: write {allowed}")


def quoted(text: object) -> str:
    """Quote what an answer says, shortened."""
    said = text if isinstance(text, str) else repr(text)
    return repr(said if len(said) <= SHOWN else said[: SHOWN - 3] + "...")
