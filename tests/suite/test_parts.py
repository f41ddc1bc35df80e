"""Parts are made once; a failure is told in full once, then in one line."""

from __future__ import annotations

import pytest

from pytest_finetune.errors import FinetuneError
from pytest_finetune.suite.parts import Parts, Unmade, part, unmade


class Whole:
    """Something with parts, which counts how often each is made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    @part
    def good_part(self) -> int:
        """A part."""
        self.made.append("good")
        return 7

    @part
    def bad_part(self) -> int:
        """A part that the user can mend."""
        self.made.append("bad")
        raise FinetuneError("there is no such file\n  write one")

    @part
    def broken_part(self) -> int:
        """A part that only we can mend."""
        raise ZeroDivisionError("division by zero")


def test_a_part_is_made_once_and_only_when_it_is_asked_for() -> None:
    whole = Whole()
    assert not Whole.good_part.made(whole)
    assert (whole.good_part, whole.good_part) == (7, 7)
    assert Whole.good_part.made(whole)
    assert whole.made == ["good"]


def test_what_a_user_can_mend_is_told_in_full_once_and_then_in_one_line() -> None:
    whole = Whole()
    with pytest.raises(pytest.fail.Exception) as first:
        _ = whole.bad_part
    assert str(first.value) == "there is no such file\n  write one"
    assert not first.value.pytrace
    with pytest.raises(pytest.fail.Exception) as second:
        _ = whole.bad_part
    assert str(second.value) == "not run: bad part failed before: there is no such file"
    assert whole.made == ["bad"]


def test_a_fault_of_ours_keeps_its_traceback_the_first_time() -> None:
    whole = Whole()
    with pytest.raises(ZeroDivisionError):
        _ = whole.broken_part
    with pytest.raises(pytest.fail.Exception, match="not run: broken part failed before: division by zero"):
        _ = whole.broken_part


def test_parts_by_key_fail_apart() -> None:
    parts: Parts[int, str] = Parts(lambda key: f"part {key}")

    def fail() -> str:
        raise FinetuneError("no")

    with pytest.raises(pytest.fail.Exception):
        parts.once(1, fail)
    assert parts.once(2, lambda: "two") == "two"
    assert dict(parts) == {2: "two"}
    with pytest.raises(pytest.fail.Exception, match="not run: part 1 failed before: no"):
        parts.once(1, lambda: "one")


class Outer:
    """A part that rests on another."""

    def __init__(self) -> None:
        self.inner = Whole()

    @part
    def answers(self) -> int:
        """A part that asks for one that cannot be made."""
        return self.inner.bad_part

    @part
    def more_answers(self) -> int:
        """A part that asks for one with a fault of ours."""
        return self.inner.broken_part

    @part
    def refused(self) -> int:
        """A part that fails the test by itself."""
        pytest.fail("the rows break the contract\n  line 3")


def test_an_exception_tells_the_innermost_part_that_could_not_be_made() -> None:
    outer = Outer()
    for name, said in {
        "answers": Unmade("bad part", "there is no such file"),
        "more_answers": Unmade("broken part", "division by zero"),
        "refused": Unmade("refused", "the rows break the contract"),
    }.items():
        for _ in "once", "and again":
            with pytest.raises((Exception, pytest.fail.Exception)) as stop:
                getattr(outer, name)
            assert unmade(stop.value) == said
    assert unmade(ValueError("of a rule")) is None
