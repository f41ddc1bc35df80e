"""Conversations and tools in rows: read into one spelling, taught as written, and what has no meaning is a finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.formatting import Pair, format_pair, format_prompt
from pytest_finetune.data.rows import Row, Rows, read_rows
from pytest_finetune.experiment import Prompt

CHAT = Prompt("chat")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}


def call(name: str = "weather", arguments: Any = None, **more: Any) -> dict[str, Any]:
    given = {"city": "Rome"} if arguments is None else arguments
    return {**more, "type": "function", "function": {"name": name, "arguments": given}}


def said(role: str, content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def read(folder: Path, *rows: dict[str, Any], split: str = "train") -> Rows:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_rows(folder, f"{split}.jsonl", split)


def row_of(folder: Path, *messages: dict[str, Any], **more: Any) -> Row:
    rows = read(folder, {"messages": list(messages), **more})
    assert rows.defects == ()
    return rows[0]


def findings(folder: Path, *rows: dict[str, Any]) -> list[Finding]:
    held_out = read(folder, {"messages": [said("user", "zebra"), said("assistant", "yes")]}, split="eval")
    return Contract.default().findings(read(folder, *rows), held_out)


def refusal(folder: Path, row: dict[str, Any]) -> str:
    (defect,) = read(folder, row).defects
    assert defect.rule == "data/row-shape"
    return defect.read


def test_messages_keep_their_order_whatever_their_roles(tmp_path: Path) -> None:
    talk = [said("user", "2 + 2?"), said("developer", "Be short."), said("assistant", "4")]
    row = row_of(tmp_path, *talk)
    assert format_pair(row, CHAT) == Pair(talk[:2], talk[2:])
    assert format_prompt(row, CHAT) == talk[:2]
    # Solved examples stand behind what opens the conversation, and before the question.
    open_talk = [said("system", "Add."), said("developer", "Be short."), said("user", "1 + 1?"), *talk[1:]]
    shot = row_of(tmp_path, said("system", "Add."), said("user", "0 + 1?"), said("assistant", "1"))
    asked = format_prompt(row_of(tmp_path, *open_talk), CHAT, [shot])
    assert asked == [*open_talk[:2], said("user", "0 + 1?"), said("assistant", "1"), *open_talk[2:4]]


def test_with_all_turns_the_answer_begins_at_the_first_that_is_taught(tmp_path: Path) -> None:
    talk = [
        said("user", "a?"), said("assistant", "no", weight=0), said("user", "b?"), said("assistant", "B"),
        said("user", "c?"), said("assistant", "C", name="helper", reasoning_content="c is C"),
    ]  # fmt: skip
    row = row_of(tmp_path, *talk)
    unweighed = [talk[0], said("assistant", "no"), talk[2]]
    assert format_pair(row, CHAT, "all") == Pair(unweighed, talk[3:])
    assert format_pair(row, CHAT) == Pair([*unweighed, *talk[3:5]], talk[5:])
    assert format_prompt(row, CHAT) == [*unweighed, *talk[3:5]]
    silent = row_of(tmp_path, said("user", "a?"), said("assistant", "A", weight=0))
    assert format_pair(silent, CHAT, "all").completion == [said("assistant", "A", weight=0)]


def test_a_row_of_before_says_and_weighs_what_it_did(tmp_path: Path) -> None:
    row = row_of(
        tmp_path, said("system", "s"), said("user", "q"), said("assistant", "a", name=None, tool_calls=[])
    )
    assert row.digest == "41596953f9fc22f97d13dc74c2000f0225725ef792a1a33ee51257ba298351d6"
    assert format_pair(row, CHAT).fields() == [
        [said("system", "s"), said("user", "q")], [said("assistant", "a")],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spelt",
    [
        call(id="call00001"),
        call(arguments='{"city": "Rome"}'),
        {"name": "weather", "arguments": {"city": "Rome"}},
        {"id": None, "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
    ],
)
def test_calls_have_one_spelling_and_are_what_the_row_expects(tmp_path: Path, spelt: dict[str, Any]) -> None:
    row = row_of(
        tmp_path, said("user", "Weather?"), {"role": "assistant", "tool_calls": [spelt]}, tools=[WEATHER]
    )
    pair = format_pair(row, CHAT)
    assert pair.completion == [said("assistant", "", tool_calls=[call(id="call00001")])]
    assert pair.tools == (WEATHER,)
    assert [(made.name, made.arguments, made.malformed) for made in row.tool_calls] == [
        ("weather", {"city": "Rome"}, "")
    ]
    assert row.expected == '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def test_calls_as_older_files_and_sharegpt_write_them_are_the_same_calls(tmp_path: Path) -> None:
    text = '{"name": "weather", "arguments": {"city": "Rome"}}'
    older = row_of(tmp_path, said("user", "Rain?"), said("assistant", None, function_call=json.loads(text)))
    turns = [("human", "Rain?"), ("function_call", text), ("observation", "sun"), ("gpt", "No.")]
    (shared,) = read(
        tmp_path, {"conversations": [{"from": sender, "value": value} for sender, value in turns]}
    )
    newer = row_of(tmp_path, said("user", "Rain?"), said("assistant", None, tool_calls=[call()]))
    assert format_pair(older, CHAT) == format_pair(newer, CHAT)
    assert shared.messages is not None
    assert format_prompt(shared, CHAT)[:2] == [
        *format_prompt(newer, CHAT),
        *format_pair(newer, CHAT).completion,
    ]
    assert shared.messages[2]["tool_call_id"] == "call00001"
    assert findings(tmp_path, shared.raw) == []  # type: ignore[arg-type]
    broken = {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "weather"}]
    }
    assert "function_call is no JSON" in refusal(tmp_path, broken)


def test_tools_are_part_of_what_a_row_says_and_have_one_spelling(tmp_path: Path) -> None:
    bare = {"name": "weather", "parameters": WEATHER["function"]["parameters"]}  # type: ignore[index]
    talk = (said("user", "Weather?"), said("assistant", "Which city?"))
    told = [row_of(tmp_path, *talk, tools=tools) for tools in ([WEATHER], [bare], json.dumps([WEATHER]))]
    assert {row.digest for row in told} == {told[0].digest}
    assert told[0].tools == (WEATHER,)
    assert told[0].digest != row_of(tmp_path, *talk).digest
    # The same question with other tools may have another answer.
    rows = (
        {"messages": list(talk), "tools": [WEATHER]},
        {"messages": [talk[0], said("assistant", "I cannot know.")]},
    )
    assert [found for found in findings(tmp_path, *rows) if found.rule == "data/conflict"] == []


def test_parts_of_text_are_joined_and_others_are_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    row = row_of(tmp_path, said("user", parts), said("assistant", "c"))
    assert row.input == "a b"
    picture = [parts[0], {"type": "image_url", "image_url": {"url": "cat.png"}}]
    says = refusal(tmp_path, {"messages": [said("user", picture), said("assistant", "c")]})
    assert (
        says
        == "messages: message 1 has a part of type 'image_url': only parts of type 'text' can be taught and asked"
    )


def test_alpaca_rows_with_system_or_history_are_conversations(tmp_path: Path) -> None:
    plain = {"instruction": "Add.", "input": "2 + 2", "output": "4", "system": "", "history": []}
    told = {**plain, "system": "Be short.", "history": [["1 + 1?", "2"]]}
    rows = read(tmp_path, plain, told)
    assert rows.defects == ()
    assert (rows[0].shape, rows[0].messages) == ("instruction", None)
    assert format_prompt(rows[1], CHAT) == [
        said("system", "Be short."), said("user", "1 + 1?"), said("assistant", "2"), said("user", "Add.\n\n2 + 2"),
    ]  # fmt: skip
    assert rows[1].expected == "4"
    assert "list of pairs of texts" in refusal(tmp_path, {**plain, "history": ["1 + 1?"]})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference training (DPO)"),
        ({"messages": [said("user", "q"), said("assistant", "a", weight=0.5)]}, "weight 0.5: 0 (not taught) or 1"),
        ({"messages": [said("user", "q"), said("assistant", None)]}, "the content of message 2 must be a text, found null"),
        ({"messages": [said("user", "q", tool_calls=[call()]), said("assistant", "a")]}, "only the assistant calls tools"),
        ({"messages": [said("user", "q"), said("assistant", None, tool_calls=[call(arguments="{")])]}, "are no JSON"),
        ({"messages": [said("user", "q"), said("assistant", None, tool_calls=[{}])]}, "call 1 has no name"),
        ({"messages": [said("user", "q"), said("assistant", "a")], "tools": "[{"}, "tools must be a list"),
        ({"messages": [said("user", "q"), said("assistant", "a")], "tools": [{"type": "function"}]}, "tool 1 has no name"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_is_refused_in_words(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    assert says in refusal(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "rule", "says"),
    [
        (
            {"messages": [said("user", "q", timestamp=1), said("assistant", "a", reasoning_contents="r")]},
            "messages/unknown-key",
            "'reasoning_contents' of message 2 (assistant) is given to nobody; did you mean 'reasoning_content'?",
        ),
        (
            {"messages": [said("user", "q"), said("tool", "sunny"), said("assistant", "a")]},
            "messages/tool-answer",
            "message 2 (tool) answers no call before it",
        ),
        (
            {"messages": [
                said("user", "q"), said("assistant", None, tool_calls=[call(id="x")]), said("tool", "sunny", tool_call_id="y"),
                said("assistant", "a"),
            ]},
            "messages/tool-answer",
            "message 3 (tool) with tool_call_id 'y' answers no call before it",
        ),
        (
            {"messages": [said("user", "q"), said("assistant", None, tool_calls=[call(arguments={"town": "Rome"})])], "tools": [WEATHER]},
            "tools/arguments",
            "the arguments of 'weather': 'city' is a required property",
        ),
        (
            {"messages": [said("user", "q"), said("assistant", None, tool_calls=[call("time")])], "tools": [WEATHER]},
            "tools/arguments",
            "'time' is called, and the row offers 'weather'",
        ),
        (
            {"messages": [said("user", "q"), said("assistant", "a")], "tools": [{"name": "f", "parameters": {"type": "objekt"}}]},
            "tools/schema",
            "the parameters of 'f' are no JSON Schema",
        ),
    ],
)  # fmt: skip
def test_what_a_conversation_holds_for_nobody_is_a_finding(
    tmp_path: Path, row: dict[str, Any], rule: str, says: str
) -> None:
    found = [one for one in findings(tmp_path, row) if one.rule == rule]
    assert any(says in one.read for one in found), found


def test_secrets_are_found_in_thoughts_and_tools_too(tmp_path: Path) -> None:
    key = f"ghp_{'a1B2' * 9}"
    talk = [said("user", "q"), said("assistant", "a", reasoning_content=f"The token is {key}.")]
    assert [one.rule for one in findings(tmp_path, {"messages": talk})] == ["privacy/secret"]
    tool = {"name": "f", "description": f"Needs {key}."}
    row = {"messages": [said("user", "q"), said("assistant", "a")], "tools": [tool]}
    assert [one.rule for one in findings(tmp_path, row)] == ["privacy/secret"]


def test_a_whole_conversation_with_tools_has_no_finding(tmp_path: Path) -> None:
    talk = [
        said("system", "Help."), said("user", "Weather in Rome and Oslo?"),
        {"role": "assistant", "content": None, "tool_calls": [call(), call(arguments={"city": "Oslo"})]},
        said("tool", "sunny"), said("tool", "rain", name="weather"), said("assistant", "Sun in Rome, rain in Oslo."),
    ]  # fmt: skip
    assert findings(tmp_path, {"messages": talk, "tools": [WEATHER]}) == []
    row = row_of(tmp_path, *talk, tools=[WEATHER])
    assert row.messages is not None
    assert [message.get("tool_call_id") for message in row.messages[3:5]] == ["call00001", "call00002"]
