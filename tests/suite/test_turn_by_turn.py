"""Held-out conversations asked turn by turn: no rule may count the answers of one as independent rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.suite.rules.rule_marks import unclustered
from pytest_finetune.suite.steps.data_step import trained_turns


class Item:
    """A rule's item, as far as its marker is read."""

    name = originalname = "test_answer"
    nodeid, location = "tests/test_rules.py::test_answer", ("tests/test_rules.py", 3, "test_answer")

    def __init__(self, **given: Any) -> None:
        self._mark = pytest.mark.eval_rule(**given).mark

    def get_closest_marker(self, name: str) -> Any:
        """Return the marker of the rule."""
        return self._mark if name == "eval_rule" else None


@pytest.mark.parametrize("turns", ["last", "each"])
def test_a_rule_on_rows_needs_a_cluster_where_each_answer_is_asked(turns: str) -> None:
    assert unclustered(Item(cluster="group"), turns) is None  # type: ignore[arg-type]
    assert unclustered(Item(corpus=True, min_rate=0.5), turns) is None  # type: ignore[arg-type]
    said = unclustered(Item(min_rate=0.5), turns)  # type: ignore[arg-type]
    if turns == "last":
        assert said is None
    else:
        assert said is not None
        assert said.startswith("rule 'answer' would count every answer of a conversation as a row of its own")
        assert "write cluster='group' in its eval_rule" in said


def read(folder: Path, split: str, *talks: str) -> Rows:
    """Read conversations written as their messages in a line, question and answer in turn."""
    rows = [
        {
            "messages": [
                {"role": ("user", "assistant")[at % 2], "content": word}
                for at, word in enumerate(talk.split())
            ]
        }
        for talk in talks
    ]
    (folder / split).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rows(folder, split, split)


@pytest.mark.parametrize(
    ("turns", "taught", "leaks"), [("each", "all", [1, 3]), ("each", "last", [3]), ("last", "all", [])]
)
def test_an_answer_that_is_asked_for_on_the_way_must_not_be_trained_on(
    tmp_path: Path, turns: str, taught: str, leaks: list[int]
) -> None:
    train = read(tmp_path, "train", "a A b B", "e E")
    held_out = read(tmp_path, "eval", "a A c C", "d D b B", "e E f F")
    experiment: Any = SimpleNamespace(
        prompt=SimpleNamespace(turns=turns), training=SimpleNamespace(assistant_turns=taught)
    )
    found = list(trained_turns(experiment, train, held_out))
    assert [(one.rule, one.line) for one in found] == [("leak/exact", line) for line in leaks]
