"""Which file is the smallest that is not demonstrably worse, held against the intervals that stand beside it."""

from __future__ import annotations

import pytest

from pytest_finetune.judging.development import DevScore
from pytest_finetune.judging.learning import ALPHA, Trained
from pytest_finetune.judging.quantised import Served, SizeTable

ROWS = 80


def served(name: str, broken: int, bytes_: int | None, groups: tuple[str | None, ...] = ()) -> Served:
    """A file that breaks the first rows, and mends none."""
    scores = tuple(float(at >= broken) for at in range(ROWS))
    score = DevScore("label", tuple(map(str, range(ROWS))), scores, None, "a" * 64, "b" * 64, groups)
    return Served(name, bytes_, 0.1, ROWS - broken, Trained({}, 64, 20, 1.0, True, score))


@pytest.mark.parametrize("groups", [(), tuple(f"g{at // 4}" for at in range(ROWS))], ids=["rows", "groups"])
def test_a_file_is_called_worse_where_the_interval_beside_it_says_so_however_many_are_compared(
    groups: tuple[str, ...],
) -> None:
    for broken in range(40):
        files = [("q8_0", 0, 3), ("q5_k_m", 1, 2), ("q4_k_m", broken, 1)]
        first = served("transformers", 0, None, groups)
        table = SizeTable((first, *(served(*file, groups) for file in files)))
        last = table.against[-1]
        assert last.worse == (last.interval.high < 0)
        assert groups or last.worse == last.gain.worse(
            ALPHA
        )  # of rows, the exact test and its interval are one
        best = "q5_k_m" if last.worse else "q4_k_m"
        assert table.advice.sentence.startswith(f"{best} is the smallest file that is not demonstrably worse")


def test_the_fewest_rows_that_tell_a_worse_file_are_those_of_the_exact_test() -> None:
    """One-sided McNemar: 2**-5 is more than 0.025, 2**-6 is not."""
    first, alike = served("transformers", 0, None), served("q8_0", 0, 2)
    worse = [
        SizeTable((first, alike, alike, served("q2_k", broken, 1))).against[-1].worse for broken in (5, 6)
    ]
    assert worse == [False, True]
    nothing = SizeTable((first, served("q4_k_m", 6, 2), served("q2_k", 9, 1)))
    assert (
        nothing.advice.sentence == "every file is demonstrably worse than transformers on 80 development rows"
    )
