"""The charter asks whether the experiment should exist, in the words of the documentation."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

import pytest_finetune
from pytest_finetune.data.charter import FIT_MATRIX, Charter
from pytest_finetune.experiment import CharterText

SOUND = CharterText(
    behaviour="Return the priority of a short support ticket as strict JSON.",
    facts_change="never",
    prompt_tried="The zero-shot prompt adds prose around the JSON.",
    owner="support-ml",
    base_license="apache-2.0",
    data_license="internal",
    personal_data="none",
    retire_when="The priority rubric changes.",
)


def rules(text: CharterText) -> list[str]:
    return [found.rule for found in Charter(text).findings()]


def test_a_sound_charter_has_no_findings() -> None:
    assert Charter(SOUND).findings() == []


@pytest.mark.parametrize(
    "behaviour",
    [
        "Classify a ticket as bug, question or request.",
        "Extract the name and the date from an invoice as JSON.",
        "Rewrite a note in plain English and in at most 40 words.",
        "Translate product titles from German to English.",
    ],
)
def test_one_behaviour_in_one_sentence_is_accepted(behaviour: str) -> None:
    assert rules(replace(SOUND, behaviour=behaviour)) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"behaviour": None}, "charter/behaviour"),
        ({"behaviour": "  "}, "charter/behaviour"),
        ({"behaviour": "Classify tickets. Write an apology."}, "charter/one-behaviour"),
        ({"behaviour": "Classify the ticket and draft a reply."}, "charter/one-behaviour"),
        ({"behaviour": "Summarise the call, then suggest the next step."}, "charter/one-behaviour"),
        ({"behaviour": "Give better answers to customers."}, "charter/vague"),
        ({"behaviour": "Answer questions from the staff handbook."}, "charter/facts-inventory"),
        ({"behaviour": "State the price of every product."}, "charter/facts-inventory"),
        ({"facts_change": None}, "charter/facts-change"),
        ({"facts_change": "often"}, "charter/facts-change"),
        ({"prompt_tried": None}, "charter/prompt-tried"),
        ({"prompt_tried": "Not yet."}, "charter/prompt-tried"),
        ({"prompt_tried": "Works well, 95% are right."}, "charter/prompt-works"),
        ({"prompt_tried": "It cannot tell German from Dutch."}, "charter/base-ability"),
        ({"owner": None}, "charter/owner"),
        ({"base_license": None}, "charter/base-license"),
        ({"data_license": None}, "charter/data-license"),
        ({"personal_data": None}, "charter/personal-data"),
        ({"retire_when": " "}, "charter/retire-when"),
    ],
)
def test_each_doubt_is_one_finding_that_says_what_to_do(change: dict[str, str | None], rule: str) -> None:
    (found,) = Charter(replace(SOUND, **change)).findings()
    assert found.rule == rule
    assert found.read
    assert found.why.endswith(".")
    assert found.fix.endswith(".")


def test_facts_that_change_often_mean_retrieval_first_and_close_the_gate() -> None:
    (found,) = Charter(replace(SOUND, facts_change="often")).findings()
    assert found.severity == "error"
    assert "First tool: retrieval" in found.fix


def test_an_empty_charter_is_asked_for_everything() -> None:
    found = Charter(CharterText()).findings()
    assert len(found) == len(fields(CharterText))
    assert [finding.rule for finding in found.errors] == ["charter/behaviour"]


def test_a_charter_never_repeats_a_secret() -> None:
    token = "ghp_" + "a1B2" * 9
    found = Charter(replace(SOUND, behaviour=f"Answer better with {token}.")).findings()
    assert found
    assert token not in "\n".join(found.explain())


def test_the_documentation_has_the_same_matrix() -> None:
    text = (Path(pytest_finetune.__file__).parents[1] / "docs" / "scope.md").read_text(encoding="utf-8")
    for fit in FIT_MATRIX.values():
        assert f"| {fit.signal} | {fit.first_tool} | {fit.reason} |" in text


def test_an_open_question_is_a_note_whatever_its_words_and_an_answer_that_ends_like_one_is_not() -> None:
    objections = Charter(CharterText()).objections()
    assert objections == []
    assert [one.rule for one in objections.notes] == [one.rule for one in Charter(CharterText()).findings()]
    answered = Charter(replace(SOUND, prompt_tried="No, the reason is not stated")).objections()
    assert ([one.rule for one in answered], answered.notes) == (["charter/prompt-tried"], ())
