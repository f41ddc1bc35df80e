"""Parts of a run that are made once, on demand; a failure is told in full once, then named in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

import pytest

from pytest_finetune.errors import for_user

_UNMADE: Final = "pytest_finetune_unmade"

E = TypeVar("E", bound=BaseException)
K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")


class Parts(dict[K, T]):
    """The parts of one kind that were made so far, by key; `name` says in messages what is made for a key."""

    def __init__(self, name: Callable[[K], str]) -> None:
        super().__init__()
        self._name = name
        self._failed: dict[K, Unmade] = {}

    def once(self, key: K, make: Callable[[], T]) -> T:
        """Make a part once. What a user can mend fails the asking test with its message and no traceback.

        Each exception tells by `unmade` which part could not be made: the innermost, in which it began.
        """
        if key in self._failed:
            failed = self._failed[key]
            said = f"not run: {self._name(key)} failed before: {failed.because}"
            raise _telling(pytest.fail.Exception(said, pytrace=False), failed)
        if key not in self:
            try:
                self[key] = make()
            except pytest.fail.Exception as stop:
                _telling(stop, self._unmade(key, stop, str(stop)))
                raise
            except Exception as error:
                told = error if isinstance(error, FileNotFoundError) else for_user(error)
                text = str(told or error) or type(error).__name__
                failed = self._failed[key] = self._unmade(key, error, text)
                if told is not None:
                    raise _telling(pytest.fail.Exception(text, pytrace=False), failed) from None
                _telling(error, failed)
                raise
        return self[key]

    def _unmade(self, key: K, error: BaseException, text: str) -> Unmade:
        return unmade(error) or Unmade(self._name(key), first_line(text))


class Unmade(NamedTuple):
    """A part of a run that could not be made, and why, in one line."""

    part: str
    because: str


def unmade(error: BaseException) -> Unmade | None:
    """Return which part of a run could not be made when this was raised; None where it came from elsewhere."""
    return getattr(error, _UNMADE, None)


def _telling(error: E, failed: Unmade) -> E:
    setattr(error, _UNMADE, failed)
    return error


def first_line(text: str) -> str:
    """Return the first line of a message, as long as it stays readable."""
    return text.partition("\n")[0][:300]


class part(Generic[R, T]):  # noqa: N801 (reads as `cached_property`)
    """A part of an object that is made once, like a `cached_property`; messages name it as its method is named."""

    def __init__(self, make: Callable[[R], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, whole: None, owner: type) -> part[R, T]: ...
    @overload
    def __get__(self, whole: R, owner: type) -> T: ...
    def __get__(self, whole: R | None, owner: type) -> part[R, T] | T:
        if whole is None:
            return self
        found: T = self._parts(whole).once(self._name, lambda: self._make(whole))
        return found

    def made(self, whole: R) -> bool:
        """Tell whether the part is there already."""
        return self._name in self._parts(whole)

    def _parts(self, whole: R) -> Parts[str, Any]:
        parts: Parts[str, Any] = vars(whole).setdefault("_parts", Parts(lambda name: name.replace("_", " ")))
        return parts
