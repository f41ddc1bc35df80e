"""A base's own template is handed calls as it wants them, and what it leaves out is a finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl

from pytest_finetune.data.call_spelling import spelling_of
from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import renderer
from pytest_finetune.data.not_written import not_written
from pytest_finetune.data.rows import Row, read_rows
from pytest_finetune.data.tokens import Tokenization
from pytest_finetune.experiment import Prompt

SHIPPED = Path(trl.__file__).parent / "chat_templates"
CALLING = (
    "deepseek_r1_distill", "deepseekv3", "gemma4", "glm4moe", "gptoss", "lfm2_v2", "llama3_1", "llama3_2", "muse_glimmer", "nemotron_3_nano",
    "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl",
)  # fmt: skip
SILENT = ("gemma", "gemma3", "llama3", "phi3")
WANTS_NOTHING = "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}{{ tools | tojson }}"
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"name": "weather", "arguments": {"city": "Rome"}}
WEATHER: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "tool_calls": [CALL]}],
    "tools": [TOOL],
}


def template(name: str) -> str:
    return (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")


def row_of(folder: Path, row: dict[str, Any]) -> Row:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return read_rows(folder, "rows.jsonl", "train")[0]


def left_out(row: Row, text: str, prompt: str = "chat") -> list[tuple[str, str]]:
    chat = Chat.of({"default": text}, {"bos_token": "^", "eos_token": "$"}, (), {})
    return list(not_written(row, Tokenization(lambda _: [], Prompt(prompt), 512, chat=chat)))


@pytest.mark.parametrize("name", CALLING)
def test_templates_with_calls_write_one_that_is_read_back(name: str, tmp_path: Path) -> None:
    assert spelling_of(renderer(template(name), {"bos_token": "^", "eos_token": "$"})).text
    found = [read for _, read in left_out(row_of(tmp_path, WEATHER), template(name))]
    # DeepSeek's own template writes calls, and no tools.
    assert found == (["the chat template writes none of the 1 tools"] if name.startswith("deepseek") else [])


@pytest.mark.parametrize("name", SILENT)
def test_templates_without_calls_are_known_and_a_row_with_one_is_a_finding(name: str, tmp_path: Path) -> None:
    assert spelling_of(renderer(template(name), {"bos_token": "^", "eos_token": "$"})).text == ""
    found = left_out(row_of(tmp_path, WEATHER), template(name))
    assert [rule for rule, _ in found] == ["tools/not-written"] * 2


def test_arguments_and_content_are_spelt_as_the_template_reads_them() -> None:
    deepseek = spelling_of(renderer(template("deepseekv3"), {"bos_token": "^"}))
    assert deepseek.arguments == "text"
    assert spelling_of(renderer(WANTS_NOTHING, {})).content is None


def test_the_special_tokens_around_a_call_are_known_so_that_an_answer_shows_them() -> None:
    special = ("$", "^", "<|call|>", "<|channel|>", "<|message|>", "<|end|>")
    chat = Chat.of({"default": template("gptoss")}, {"bos_token": "^", "eos_token": "$"}, special, {})
    assert chat.call_tokens == ("<|call|>", "<|channel|>", "<|message|>")


def test_what_a_template_leaves_out_is_named(tmp_path: Path) -> None:
    row = row_of(tmp_path, WEATHER)
    assert left_out(row, "", "{input}") == [
        ("tools/not-written", "prompt.template is a text, without the 1 tools of the row")
    ]
    plain = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    says = [read for _, read in left_out(row, plain)]
    assert says == [
        "the chat template writes none of the 1 tools",
        "no such call is read in what the chat template writes: ''",
    ]
    talk = [
        {"role": "user", "content": "Rain?", "name": "Ada"},
        {"role": "assistant", "content": "No.", "reasoning_content": "It is dry."},
    ]
    assert left_out(row_of(tmp_path, {"messages": talk}), plain) == [
        ("messages/not-written", "the chat template writes no name"),
        ("messages/not-written", "the chat template writes no thinking of the answer"),
    ]
    assert (
        left_out(row_of(tmp_path, {"messages": [talk[0] | {"name": None}, talk[1]]}), template("qwen3")) == []
    )
