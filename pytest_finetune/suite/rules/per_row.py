"""What `response`, `example` and `score` are before a rule's loop puts a row's own values in their place."""

from __future__ import annotations

from typing import NoReturn

from pytest_finetune.errors import FinetuneError


class RuleMisuse(FinetuneError):
    """A rule is written in a way that the loop over rows cannot run."""


class PerRow:
    """A stand-in; using it (in a fixture, or through getfixturevalue) is a misuse that says what to do instead."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        raise RuleMisuse(f"{self._name}.{attribute}: {self._advice}")

    def __call__(self, *args: object) -> NoReturn:
        """Refuse ``score(...)`` outside the loop."""
        raise RuleMisuse(f"{self._name}(...): {self._advice}")

    @property
    def _advice(self) -> str:
        return f"take `{self._name}` in the rule's own signature; a fixture is set up once, not for every row"
