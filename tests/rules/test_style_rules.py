"""Rules for extraction and style: what they grade, and what they say where a library or a model is not there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pytest_finetune import rules
from pytest_finetune.answering.response import Response
from pytest_finetune.judging.rule import RuleBroken

from .test_ready_rules import row

DUE = {"name": "Ada", "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}], "note": None, "tags": []}


def graded(rule: Callable[..., None], text: str, expected: str) -> float:
    found: list[float] = []
    rule(Response(text), row(expected), found.append)
    return found[0]


@pytest.mark.parametrize(
    ("given", "ordered", "field", "grade"),
    [
        (DUE, True, None, 1.0),
        ({**DUE, "name": "Bob"}, True, None, 12 / 14),
        ({**DUE, "items": DUE["items"][::-1]}, True, None, 6 / 14),  # type: ignore[index]
        ({**DUE, "items": DUE["items"][::-1]}, False, None, 1.0),  # type: ignore[index]
        ({**DUE, "items": [{"sku": "a", "n": 1.0}]}, True, None, 10 / 12),
        ({**DUE, "items": [{"sku": "a", "n": True}]}, True, "items.0.n", 0.0),
        ({"items": [{"n": 1}]}, True, "items.0.n", 1.0),
        ({}, True, "items.1", 0.0),
        ({}, True, None, 0.0),
    ],
)
def test_fields_are_right_at_their_place(given: Any, ordered: bool, field: str | None, grade: float) -> None:
    found = graded(rules.field_f1(field, ordered=ordered), json.dumps(given), json.dumps(DUE))
    assert found == pytest.approx(grade)


def test_a_part_that_is_not_expected_is_the_rules_fault_and_prose_is_the_answers() -> None:
    with pytest.raises(RuleBroken, match="has nothing at 'lines'"):
        graded(rules.field_f1("lines"), "{}", json.dumps(DUE))
    with pytest.raises(AssertionError, match="not strict JSON"):
        graded(rules.field_f1(), "Sure!", json.dumps(DUE))
    with pytest.raises(ValueError, match="field=''"):
        rules.field_f1("")


@pytest.mark.parametrize(
    ("module", "rule"),
    [
        ("sacrebleu", rules.chrf()),
        ("rouge_score.rouge_scorer", rules.rouge("rouge2")),
    ],
)
def test_a_library_that_is_not_here_breaks_the_rule_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, rule: Callable[..., None]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuleBroken, match=r"pip install 'pytest-finetune\[style\]'"):
        graded(rule, "a cat", "a dog")


@pytest.mark.parametrize(("needs", "rule"), [("sacrebleu", rules.chrf()), ("rouge_score", rules.rouge())])
def test_a_nearer_text_gets_the_better_grade(needs: str, rule: Callable[..., None]) -> None:
    pytest.importorskip(needs)
    texts = ("your parcel leaves today", "your parcel leaves tomorrow", "no idea", "")
    grades = [graded(rule, text, texts[0]) for text in texts]
    assert grades[0] == 1.0 > grades[1] > grades[2] >= grades[3] == 0.0
    assert graded(rule, "小包は今日", "小包は今日") == 1.0


def test_the_school_grade_is_held_to_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(set_lang=lambda language: None, flesch_kincaid_grade=len)
    monkeypatch.setitem(sys.modules, "textstat", stand_in)
    rules.reading_grade(most=4)(Response("four"))
    with pytest.raises(AssertionError, match=r"school grade 5.0, at most 4 is asked for"):
        rules.reading_grade(most=4)(Response("fiver"))
    with pytest.raises(AssertionError, match=r"school grade 5.0, at least 6 is asked for"):
        rules.reading_grade(least=6)(Response("fiver"))
    with pytest.raises(ValueError, match="name a bound"):
        rules.reading_grade()


def test_an_embedding_model_that_is_not_here_breaks_the_rule(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(RuleBroken, match="is not here"):
        graded(rules.similar(str(tmp_path / "none")), "a", "b")


def test_the_same_meaning_is_near_and_another_is_not(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "yes": 1, "no": 2, "maybe": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = {
        "initializer_range": 1.0,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **size)).save_pretrained(tmp_path)
    rule = rules.similar(str(tmp_path))
    assert graded(rule, "yes yes", "yes yes") == 1.0
    assert graded(rule, "no maybe", "yes yes") < 0.999
