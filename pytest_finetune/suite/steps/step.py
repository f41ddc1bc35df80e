"""Parts of a run that are made once, on demand; a failure is told in full once, then named in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

import pytest

from pytest_finetune.errors import FinetuneError

T = TypeVar("T")
P = TypeVar("P")


class Parts:
    """What was made, and what failed, by name."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._failed: dict[str, str] = {}

    def once(self, name: str, make: Callable[[], P]) -> P:
        """Make a part once. What a user can mend fails the asking test with its message and no traceback."""
        if name in self._failed:
            pytest.fail(f"not run: {name} failed before: {self._failed[name]}", pytrace=False)
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as error:
                self._give_up(name, error)
        return self._made[name]  # type: ignore[no-any-return]

    def get(self, name: str) -> Any:
        """Return a part that is there already, else None."""
        return self._made.get(name)

    def __contains__(self, name: str) -> bool:
        """Tell whether a part is there already."""
        return name in self._made

    def _give_up(self, name: str, error: Exception) -> NoReturn:
        text = str(error) or type(error).__name__
        self._failed[name] = text.splitlines()[0][:300]
        if isinstance(error, FinetuneError | FileNotFoundError):
            raise pytest.fail.Exception(text, pytrace=False) from None
        raise error


class HasParts(Protocol):
    """What the parts belong to."""

    def once(self, name: str, make: Callable[[], P]) -> P:
        """Make a part once."""
        ...


R = TypeVar("R", bound=HasParts)


class step(Generic[R, T]):  # noqa: N801 (reads as `cached_property`)
    """A part of a run, under the name of its method."""

    def __init__(self, make: Callable[[R], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, run: None, owner: type) -> step[R, T]: ...
    @overload
    def __get__(self, run: R, owner: type) -> T: ...
    def __get__(self, run: R | None, owner: type) -> step[R, T] | T:
        if run is None:
            return self
        return run.once(self._name.replace("_", " "), lambda: self._make(run))
