"""Text for the model: byte-equal in training and evaluation, and nothing in a row can inject a field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.data.formatting import Pair, fill, format_pair, format_prompt
from pytest_finetune.data.rows import Row
from pytest_finetune.data.shapes import content_of
from pytest_finetune.experiment import Prompt

TEMPLATE = Prompt("Instruction: {instruction}\nInput: {input}\nAnswer:")
CHAT = Prompt("chat")


def row_of(value: dict[str, Any]) -> Row:
    content = content_of(value)
    return Row(
        "f",
        1,
        0,
        content.shape,
        content.instruction,
        content.input,
        content.output,
        content.messages,
        (),
        None,
        value,
    )


TICKET = row_of({"instruction": "Sort.", "input": "b a", "output": "a b"})
TALK = row_of(
    {
        "messages": [
            {"role": "system", "content": "Sort."},
            {"role": "user", "content": "c b"},
            {"role": "assistant", "content": "b c"},
            {"role": "user", "content": "b a"},
            {"role": "assistant", "content": "a b"},
        ]
    }
)
PLAIN = row_of({"prompt": "Sort: b a =", "completion": "a b"})


def test_a_template_is_filled_and_the_answer_follows_after_a_space() -> None:
    prompt, completion = format_pair(TICKET, TEMPLATE)
    assert prompt == "Instruction: Sort.\nInput: b a\nAnswer:"
    assert completion == " a b"


def test_chat_is_one_user_message_and_one_answer() -> None:
    prompt, completion = format_pair(TICKET, CHAT)
    assert prompt == [{"role": "user", "content": "Sort.\n\nb a"}]
    assert completion == [{"role": "assistant", "content": "a b"}]


def test_a_conversation_stays_itself_in_chat_and_becomes_lines_in_a_template() -> None:
    prompt, completion = format_pair(TALK, CHAT)
    assert [message["role"] for message in prompt if isinstance(message, dict)] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert completion == [{"role": "assistant", "content": "a b"}]
    text = format_prompt(TALK, TEMPLATE)
    assert text == "Instruction: Sort.\nInput: User: c b\nAssistant: b c\nUser: b a\nAnswer:"


def test_a_prompt_row_is_taken_as_it_stands() -> None:
    assert format_pair(PLAIN, TEMPLATE) == Pair("Sort: b a =", "a b")
    assert format_prompt(PLAIN, CHAT) == [{"role": "user", "content": "Sort: b a ="}]


def test_shots_stand_before_the_question_as_solved_examples() -> None:
    shot = row_of({"instruction": "Sort.", "input": "d c", "output": "c d"})
    text = format_prompt(TICKET, TEMPLATE, [shot])
    assert text == ("Instruction: Sort.\nInput: d c\nAnswer: c d\n\nInstruction: Sort.\nInput: b a\nAnswer:")
    messages = format_prompt(TALK, CHAT, [shot])
    assert isinstance(messages, list)
    assert [(message["role"], message["content"]) for message in messages[:3]] == [
        ("system", "Sort."), ("user", "Sort.\n\nd c"), ("assistant", "c d"),
    ]  # fmt: skip


@pytest.mark.parametrize("row", [TICKET, TALK, PLAIN])
@pytest.mark.parametrize("prompt", [TEMPLATE, CHAT])
def test_the_trained_prompt_is_the_asked_prompt(row: Row, prompt: Prompt) -> None:
    assert format_pair(row, prompt).prompt == format_prompt(row, prompt)


@given(instruction=st.text(), text=st.text())
def test_a_row_cannot_inject_a_field(instruction: str, text: str) -> None:
    row = replace(TICKET, instruction=instruction + "{input}{0.__class__}", input=text + "{instruction}")
    assert format_prompt(row, Prompt("<{instruction}|{input}>")) == f"<{row.instruction}|{row.input}>"


def test_other_braces_of_a_template_are_text() -> None:
    assert fill('{"a": {input}} {x} {{input}}', instruction="", input="1") == '{"a": 1} {x} {1}'
