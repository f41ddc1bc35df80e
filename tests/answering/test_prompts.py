from __future__ import annotations

import json
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.answering.prompts import arm_prompts, choose_shots
from pytest_finetune.data.rows import Row
from pytest_finetune.experiment import Prompt

TEMPLATE = Prompt(template="Q: {input}\nA:")


def row(number: int, output: str = "{}") -> Row:
    return Row(
        file="data/train.jsonl",
        line=number,
        offset=0,
        shape="instruction",
        instruction="",
        input=f"ticket {number}",
        output=output,
        messages=None,
        tags=(),
        group=None,
        raw={},
        given_id=f"r{number}",
    )


def labelled(count: int, labels: list[str]) -> list[Row]:
    return [row(n, json.dumps({"priority": labels[n % len(labels)]})) for n in range(1, count + 1)]


def test_the_arm_asks_every_row_in_order_with_its_id_and_line() -> None:
    rows = [row(3), row(1)]
    asked = arm_prompts(rows, TEMPLATE)
    assert [(item.id, item.line, item.prompt) for item in asked] == [
        ("r3", 3, "Q: ticket 3\nA:"),
        ("r1", 1, "Q: ticket 1\nA:"),
    ]


def test_shots_stand_solved_before_the_question() -> None:
    (asked,) = arm_prompts([row(9)], TEMPLATE, [row(1, "low"), row(2, "high")])
    assert asked.prompt == "Q: ticket 1\nA: low\n\nQ: ticket 2\nA: high\n\nQ: ticket 9\nA:"


def test_a_chat_arm_asks_in_messages() -> None:
    (asked,) = arm_prompts([row(9)], Prompt(template="chat"), [row(1, "low")])
    assert isinstance(asked.prompt, list)
    assert [message["role"] for message in asked.prompt] == ["user", "assistant", "user"]


def test_labels_take_turns() -> None:
    rows = labelled(40, ["low"] * 8 + ["high", "critical"])
    chosen = choose_shots(rows, 6, 0, "priority")
    assert Counter(json.loads(shot.output)["priority"] for shot in chosen) == {
        "low": 2,
        "high": 2,
        "critical": 2,
    }


def test_a_rare_label_is_used_up_before_the_others_fill_in() -> None:
    rows = [*labelled(10, ["low"]), row(11, '{"priority": "critical"}')]
    chosen = choose_shots(rows, 4, 0, "priority")
    assert Counter(json.loads(shot.output)["priority"] for shot in chosen) == {"low": 3, "critical": 1}


def test_rows_without_the_label_are_chosen_last() -> None:
    rows = [row(1, "no json"), row(2, "[1]"), row(3, '{"other": 1}'), row(4, '{"priority": "low"}')]
    assert choose_shots(rows, 1, 0, "priority")[0].line == 4
    assert len(choose_shots(rows, 9, 0, "priority")) == 4


def test_a_repeated_row_is_shown_once() -> None:
    assert len(choose_shots([row(1), row(1), row(2)], 5, 0, None)) == 2


def test_another_seed_chooses_other_rows() -> None:
    rows = labelled(40, ["low", "high"])
    assert choose_shots(rows, 4, 0, "priority") == choose_shots(rows, 4, 0, "priority")
    assert choose_shots(rows, 4, 0, "priority") != choose_shots(rows, 4, 1, "priority")


@given(count=st.integers(0, 12), shots=st.integers(0, 14), seed=st.integers(0, 5), shuffle=st.integers())
def test_the_choice_hangs_on_content_and_not_on_the_order_in_the_file(
    count: int, shots: int, seed: int, shuffle: int
) -> None:
    rows = labelled(count, ["low", "high", "critical"])
    moved = rows[:]
    random.Random(shuffle).shuffle(moved)
    for field in ("priority", None):
        chosen = choose_shots(rows, shots, seed, field)
        assert choose_shots(moved, shots, seed, field) == chosen
        assert len(chosen) == len({shot.line for shot in chosen}) == min(count, shots)


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=4), shots=st.integers(0, 12))
def test_no_label_is_more_than_one_ahead_of_another_that_still_has_rows(
    counts: list[int], shots: int
) -> None:
    rows = [
        row(100 * label + n, json.dumps({"priority": label}))
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    chosen = Counter(json.loads(shot.output)["priority"] for shot in choose_shots(rows, shots, 0, "priority"))
    ahead = max(chosen.values(), default=0)
    assert all(chosen[label] >= min(count, ahead - 1) for label, count in enumerate(counts))
