"""Held-out conversations asked turn by turn: no rule may count the answers of one as independent rows."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.suite.rules.rule_marks import unclustered


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
