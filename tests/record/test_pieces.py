"""The small parts of the views: words for numbers, marked differences, axes."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.record.differences import _middle, _most_shared, marked
from pytest_finetune.record.views.page import svg
from pytest_finetune.wording import (
    counted,
    duration,
    figure,
    gain_words,
    margin,
    one_line,
    percent,
    size,
    threshold,
    visible,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.9125), "91.2%"), (percent(None), "no rate"), (percent(math.nan), "not finite"),
        (threshold(0.95), "95%"), (threshold(0.975), "97.5%"), (margin(0.01), "1 point"), (margin(0.07), "7 points"),
        (gain_words(-0.031, (-0.068, 0.005)), "-3.1 points [-6.8, +0.5]"), (gain_words(None, None), "no gain"),
        (size(512), "512 B"), (size(431 * 2**20), "431 MiB"), (size(27.4 * 2**30), "27.4 GiB"), (size(None), "unknown"),
        (duration(0.04), "0.0 s"), (duration(41.3), "41 s"), (duration(200), "3 min 20 s"), (duration(7500), "2 h 05 min"),
        (counted(1, "row"), "1 row"), (counted(1200, "row"), "1,200 rows"), (counted(None, "row"), "an unknown number of rows"),
        (figure(0.081), "0.081"), (figure(math.inf), "not finite"), (figure(None), "unknown"),
        (one_line(" a\n\tb  c "), "a b c"), (one_line("abcdefgh", 6), "abc..."),
    ],
)  # fmt: skip
def test_numbers_are_worded_alike_everywhere(said: str, expected: str) -> None:
    assert said == expected


@given(st.text(st.characters()))
def test_no_text_keeps_a_character_that_a_terminal_obeys(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])))
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


WORDS = st.lists(st.sampled_from(["a", "high", "low", ",", " ", "\n  "]), max_size=12)


@given(ours=WORDS, theirs=WORDS)
def test_an_answer_is_given_up_early_only_where_it_could_never_be_close(
    ours: list[str], theirs: list[str]
) -> None:
    found = _middle(ours, theirs)
    assert sum(len(text) for text, differs in found if not differs) <= _most_shared(ours, theirs)


@given(st.text(alphabet='ab{}": ,\n'), st.text(alphabet='ab{}": ,\n'))
def test_marking_differences_never_changes_the_answer(answer: str, expected: str) -> None:
    assert "".join(piece.text for piece in marked(answer, expected)) == answer


@given(st.text(alphabet='ab{}": ,'))
def test_an_equal_answer_is_not_marked(text: str) -> None:
    assert not any(piece.differs for piece in marked(f" {text}", text))


def test_only_the_word_that_differs_is_marked() -> None:
    pieces = marked(' {"priority": "low", "reason": "slow"}', '{"priority": "high", "reason": "slow"}')
    assert [piece.text for piece in pieces if piece.differs] == ["low"]


def test_an_answer_with_little_in_common_is_left_unmarked() -> None:
    assert [piece.differs for piece in marked("I would say that it is urgent.", '{"priority": "high"}')] == [
        False
    ]


def test_long_answers_are_compared_quickly_by_their_ends() -> None:
    long = "word " * 5000
    pieces = marked(f"{long}x {long}", f"{long}y {long}")
    assert [piece.text for piece in pieces if piece.differs] == ["x"]


@given(st.lists(st.floats(-1, 1), max_size=8))
def test_a_gain_axis_shows_zero_and_every_value(values: list[float]) -> None:
    axis = svg.gain_axis(values)
    assert axis.low <= min([0.0, *values]) + 1e-9
    assert axis.high >= max([0.0, *values]) - 1e-9
    assert 2 <= len(axis.ticks) <= 9
    assert 0 in axis.ticks


def test_a_dot_beyond_the_axis_sits_on_its_end() -> None:
    assert svg.RATES.place(1.5) == "100.00%"
    assert svg.RATES.place(-1) == "0.00%"


def test_a_flat_curve_and_a_single_point_are_drawn() -> None:
    assert 'points="500.0,' in svg.curve({"loss": [(1.0, 0.0)]}, "one point")
    assert svg.curve({}, "nothing") == ""
