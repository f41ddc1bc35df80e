from __future__ import annotations

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.training.request import TrainingError
from pytest_finetune.training.tokenised import (
    Stops,
    TokenRow,
    check_rows,
    check_stop,
    check_trained_rows,
    listed,
    token_figures,
    tokenise,
)

STOP = Stops(frozenset({9}), "</s>")


class WordTokenizer:
    """Reads one token a word; ``glue`` words join the next one, as merges across a boundary do."""

    eos_token = " </s>"
    chat_template = None

    def __init__(self, glue: str = "") -> None:
        self.glue = glue
        self.known: dict[str, int] = {"</s>": 9}

    def __call__(self, text: str) -> dict[str, list[int]]:
        words = text.replace(f"{self.glue} ", self.glue).split() if self.glue else text.split()
        return {"input_ids": [self.known.setdefault(word, 10 + len(self.known)) for word in words]}


def row(length: int, start: int, place: str = "t:1", **flags: bool) -> TokenRow:
    return TokenRow(place, (*range(100, 100 + length - 1), 9), start, flags.get("kept", True))


def test_the_completion_and_the_stop_token_are_supervised_and_the_prompt_is_not() -> None:
    tokenizer = WordTokenizer()
    (made,) = tokenise(tokenizer, [Pair("add one two", " three")], ["t:1"])
    assert made.start == 3
    assert made.supervised(512) == (tokenizer.known["three"], 9)
    assert made.prompt_kept


def test_a_completion_that_already_ends_in_the_stop_token_gets_no_second_one() -> None:
    (made,) = tokenise(WordTokenizer(), [Pair("add", " three </s>")], ["t:1"])
    assert made.ids.count(9) == 1


def test_a_prompt_whose_tokens_change_when_the_answer_follows_is_refused() -> None:
    rows = tokenise(WordTokenizer(glue="Answer:"), [Pair("1 + 1 Answer:", " 2")], ["data/train.jsonl:7"])
    with pytest.raises(TrainingError) as caught:
        check_rows(rows, 512, 0)
    assert str(caught.value) == (
        "in 1 of 1 training rows the prompt's last tokens change when the answer follows: the model would be "
        "trained on another prompt than it is asked with\n"
        "  data/train.jsonl:7\n"
        "  end prompt.template (or the row's prompt) with neither a space nor half a word"
    )


def test_a_prompt_that_fills_the_length_leaves_nothing_to_learn() -> None:
    with pytest.raises(TrainingError) as caught:
        check_rows([row(30, 25, "t:1"), row(8, 4, "t:2")], 20, 99)
    assert str(caught.value) == (
        "1 of 2 training rows have no supervised token: the prompt alone fills max_seq_length 20\n"
        "  t:1\n"
        "  raise training.max_seq_length to 30 (the longest of them), or shorten the rows"
    )


def test_a_row_without_a_completion_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no token\n  t:5\n  give each of them an answer"):
        check_rows([row(6, 6, "t:5")], 20, 0)


def test_truncated_rows_are_counted_against_what_is_allowed() -> None:
    rows = [row(30, 5, "t:1"), row(25, 5, "t:2"), row(8, 4, "t:3")]
    with pytest.raises(TrainingError) as caught:
        check_rows(rows, 20, 1)
    assert str(caught.value) == (
        "2 of 3 training rows are longer than max_seq_length 20 (allowed: 1): they lose the end of the "
        "answer, and the stop token with it\n"
        "  t:1 (30 tokens)\n"
        "  t:2 (25 tokens)\n"
        "  raise training.max_seq_length to 30, shorten the rows, or allow it in the contract "
        "(tokens: {max_truncated: 2})"
    )
    check_rows(rows, 20, 2)


def test_whole_rows_must_show_the_stop_token_and_truncated_ones_cannot() -> None:
    endless = TokenRow("t:4", (1, 2, 3), 1, True)
    with pytest.raises(
        TrainingError, match=r"1 of 2 training rows never show the stop token '</s>' \(id 9\)"
    ):
        check_stop([endless, row(6, 3)], STOP, 512)
    check_stop([row(30, 5), row(6, 3)], STOP, 20)


def test_a_trainer_that_leaves_rows_out_or_masks_otherwise_is_caught() -> None:
    rows = [row(5, 3, "t:1"), row(5, 3, "t:2")]
    right = [-100, -100, -100, 103, 9]
    check_trained_rows(rows, {0: right, 1: right}, 512)
    with pytest.raises(TrainingError, match=r"left out 1 of 2 training rows\n  t:2"):
        check_trained_rows(rows, {0: right}, 512)
    with pytest.raises(TrainingError, match=r"other tokens than the answer in 1 of 2 rows\n  t:1"):
        check_trained_rows(rows, {0: [-100, -100, 102, 103, 9], 1: right}, 512)


def test_the_figures_count_lengths_before_and_supervision_after_truncation() -> None:
    rows = [row(length, 4) for length in range(11, 31)]
    figures = token_figures(rows, 20)
    assert figures == {
        "p50": 20,
        "p95": 29,
        "max": 30,
        "truncated": 10,
        "supervised": sum(range(7, 17)) + 160,
    }
    assert token_figures([], 20)["max"] == 0


def test_long_lists_show_twenty_and_count_the_rest() -> None:
    lines = listed(f"t:{line}" for line in range(1, 26)).split("\n")
    assert len(lines) == 21
    assert lines[-1] == "  and 5 more"
