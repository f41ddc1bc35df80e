"""What answering without reading the question comes to stands in every view beside the other opponents."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.headline import headline
from pytest_finetune.record.model import RecordedRun
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.terminal import summary_lines

DESCRIBED = 'answers every question with \'{"priority": "high"}\', the commonest of 420 training answers'


@pytest.fixture
def opposed(make: Callable[[str], Any]) -> Any:
    """A kept adapter that was compared with the commonest label, which is right on 30%."""
    return with_chance(make("keep").record, "majority", says="high", described=DESCRIBED)


def with_chance(record: Any, name: str, **facts: str) -> Any:
    run = record["experiments"][0]
    run["arms"][name] = {**copy.deepcopy(run["arms"]["baseline"]), **facts}
    run["arms"][name]["rules"]["priority"] |= {"passed": 48, "rate": 0.3, "interval": [0.23, 0.38]}
    run["planned_arms"] = {
        **{arm: {"model": "base", "opponent": True, "min_gain": None} for arm in ("baseline", "prompted")},
        "tuned": {"model": "tuned", "opponent": False, "min_gain": None},
        name: {"model": name, "opponent": True, "min_gain": 0.0},
    }
    pairs = [pair for pair in run["comparisons"] if pair["against"] == "baseline"]
    run["comparisons"] += [dict(pair, against=name, sentence="over chance") for pair in pairs]
    run["decision"]["reasons"][0] = next(one["sentence"] for one in pairs if one["rule"] == "priority")
    return record


def plain(record: Any) -> str:
    run = RecordedRun.of(record)
    return headline(run.experiments[0], run).reason


def test_the_headline_names_it_last_and_by_what_it_says(opposed: Any) -> None:
    assert "the base model on 1%, the prompt alone on 58%, always answering 'high' on 30%." in plain(opposed)


@pytest.mark.parametrize("says", ["", "a label that is longer than a headline takes"])
def test_a_label_that_is_long_or_not_known_is_only_called_the_commonest(opposed: Any, says: str) -> None:
    opposed["experiments"][0]["arms"]["majority"]["says"] = says
    assert ", always answering the commonest label on 30%." in plain(opposed)


def test_it_is_named_beside_the_best_of_many(opposed: Any) -> None:
    run = opposed["experiments"][0]
    for arm in ("champion", "constrained"):
        run["arms"][arm] = run["arms"]["prompted"]
        run["planned_arms"][arm] = run["planned_arms"]["prompted"]
        run["comparisons"] += [dict(p, against=arm) for p in run["comparisons"] if p["against"] == "prompted"]
    said = "the base model on 1%, the prompt alone on 58% (the best of 3 others), always answering 'high' on 30%."
    assert said in plain(opposed)


def test_the_page_draws_it_through_the_primary_rule_alone_and_says_once_what_it_answers(opposed: Any) -> None:
    source = summary_html(opposed, {})
    arms = len(opposed["experiments"][0]["arms"])
    assert source.count('x1="30.00%" x2="30.00%" y1="0" y2="100%" class="ft-chance"') == arms == 4
    assert source.count(">chance</text>") == 1
    assert source.count("the commonest of 420 training answers") == 1


def test_a_record_without_it_draws_no_line(make: Callable[[str], Any]) -> None:
    source = summary_html(make("keep").record, {})
    assert 'class="ft-chance"' not in source
    assert "needs no model" not in source


def test_the_note_and_the_terminal_list_it(opposed: Any) -> None:
    note = decision_note(opposed)
    assert note.count("the commonest of 420 training answers") == 1
    assert "| chance |" in note
    assert any(" chance " in line.text for line in summary_lines(opposed, "r", 100))


def test_the_question_given_back_is_called_so(make: Callable[[str], Any]) -> None:
    record = with_chance(make("keep").record, "copy", described="gives the question back as the answer")
    assert ", the question given back on 30%." in plain(record)
    assert "The line called chance needs no model: it gives the question back" in summary_html(record, {})
