"""Several answers of one conversation: taught only where each is taught as it is asked, in text and in tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl

from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.formatting import Pair
from pytest_finetune.data.turns import supervised, tokens_of

SHIPPED = Path(trl.__file__).parent / "chat_templates"
PREFIX = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}$\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_of(template: str) -> Chat:
    return Chat.of({"default": template}, {"eos_token": "$", "bos_token": "^"}, ("$",), {})


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = Pair([said("system", "s"), said("user", "a?")], [
    said("assistant", "A"), said("user", "b?"), said("assistant", "B", weight=0), said("user", "c?"), said("assistant", "C"),
])  # fmt: skip


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def taught(template: str, pair: Pair = TALK) -> str:
    found = tokens_of(chat_of(template), pair, letters)
    return "".join(map(chr, supervised(found.ids, found.taught, len(found.ids))))


def test_each_answer_with_its_end_is_taught_and_neither_questions_nor_what_weighs_nothing() -> None:
    found = tokens_of(chat_of(PREFIX), TALK, letters)
    assert (
        "".join(map(chr, found.ids))
        == "<system>s<user>a?<assistant>A$\n<user>b?<assistant>B$\n<user>c?<assistant>C$\n"
    )
    assert taught(PREFIX) == "A$\nC$\n"
    assert "".join(map(chr, found.ids[: found.start])) == "<system>s<user>a?<assistant>"
    assert supervised(found.ids, found.taught, found.start + 2) == letters("A$")


def test_a_single_answer_is_taught_as_ever_and_not_at_all_without_weight() -> None:
    one = Pair([said("user", "a?")], [said("assistant", "A")])
    assert taught(PREFIX, one) == "A$\n"
    assert taught(PREFIX, Pair(one.prompt, [said("assistant", "A", weight=0)])) == ""


def test_every_question_has_the_tokens_that_it_has_when_it_is_asked_alone() -> None:
    chat, pair = chat_of(PREFIX), Pair(TALK.prompt, [*TALK.completion[:2], said("assistant", "B")])

    def joining(letter: str) -> Callable[[str], list[int]]:
        return lambda text: letters(text.replace(f">{letter}", "@"))

    found = tokens_of(chat, pair, joining("B"))
    assert found.moved
    questions = ([*TALK.prompt], [*TALK.prompt, *pair.completion[:2]])
    for (start, _), messages in zip(found.taught, questions, strict=True):
        assert found.ids[:start] == joining("B")(chat.asked(messages))
    with pytest.raises(TemplateError, match="joins answer 1 to the question after it"):
        tokens_of(chat, pair, joining("A"))


def test_a_template_that_writes_earlier_answers_otherwise_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        TemplateError, match="writes answer 1 otherwise once the conversation goes on"
    ) as refused:
        taught((SHIPPED / "qwen3.jinja").read_text())
    assert "write a row for each answer (each row ends with it)" in str(refused.value)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507", "llama3", "phi3", "gemma", "lfm2"])
def test_templates_that_keep_what_they_wrote_teach_every_answer(name: str) -> None:
    pair = TALK if name != "gemma" else Pair(TALK.prompt[1:], TALK.completion)
    text = taught((SHIPPED / f"{name}.jinja").read_text(), pair)
    assert "A" in text
    assert "C" in text
    assert "?" not in text
    assert "B" not in text.replace("BOS", "")


GLM = (
    "[gMASK]{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OPENINGS = ("<|user|>", "<|assistant|>", "<|observation|>", "$")


@pytest.mark.parametrize("template", [GLM, (SHIPPED / "glm4moe.jinja").read_text()])
def test_an_answer_that_the_next_turn_ends_is_taught_with_the_token_that_opens_it(template: str) -> None:
    chat = Chat.of({"default": template}, {"eos_token": "$"}, OPENINGS, {})
    first, second = said("assistant", "A"), said("assistant", "B")

    def taught_with(*between: dict[str, Any]) -> list[str]:
        found = tokens_of(chat, Pair([said("user", "a?")], [first, *between, second]), letters)
        return [
            "".join(map(chr, found.ids[start:end])).rpartition("</think>\n")[2] for start, end in found.taught
        ]

    assert taught_with(said("user", "b?")) == ["A<|user|>", "B<|user|>"]
    if template == GLM:  # whoever speaks next
        assert taught_with(said("observation", "4")) == ["A<|observation|>", "B<|user|>"]


@pytest.mark.parametrize(
    "part", ["{% if part.type == 'text' %}{{ part.text }}{% endif %}", "{{ part['text'] }}"]
)
def test_a_template_that_takes_content_only_in_parts_is_handed_parts(part: str) -> None:
    template = PREFIX.replace("{{ m.content }}", f"{{% for part in m.content %}}{part}{{% endfor %}}")
    assert tokens_of(chat_of(template), TALK, letters) == tokens_of(chat_of(PREFIX), TALK, letters)
    assert isinstance(TALK.prompt, list)
    assert chat_of(template).asked(TALK.prompt) == chat_of(PREFIX).asked(TALK.prompt)
