"""Calls of tools are read from what an answer says, in the ways that models write them; nothing is run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.data.call_formats import ToolCall
from pytest_finetune.data.tool_calls import call_text, read_calls

ROME = ToolCall("get_weather", {"city": "Rome", "days": 2})
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]
ARGUMENTS = '{"city": "Rome", "days": 2}'
JSON = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'

WRITTEN = {
    "Hermes": f"<tool_call>\n{JSON}\n</tool_call>",
    "Hermes, arguments as text": '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\", \\"days\\": 2}"}</tool_call>',
    "Hermes, after a sentence": f"I will look.\n<tool_call>\n{JSON}\n</tool_call>",
    "Qwen Coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>"
    ),
    "Llama's function tag": f"<function=get_weather>{ARGUMENTS}</function>",
    "GLM": (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>"
    ),
    "Llama": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "Llama, tagged": f'<|python_tag|>{{"name": "get_weather", "parameters": {ARGUMENTS}}}<|eom_id|>',
    "OpenAI": f'[{{"type": "function", "function": {JSON}}}]',
    "Mistral": f"[TOOL_CALLS] [{JSON}]</s>",
    "Mistral, newer": f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}</s>",
    "Mistral, with an id": f"[TOOL_CALLS]get_weather[CALL_ID]call00001[ARGS]{ARGUMENTS}",
    "gpt-oss": (
        "<|channel|>analysis<|message|>Weather is asked.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>"
    ),
    "gpt-oss without its special tokens": f"commentary to=functions.get_weather json{ARGUMENTS}",
    "gpt-oss in its template's order": f" to=functions.get_weathercommentary json{ARGUMENTS}",
    "DeepSeek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>",
    "DeepSeek, older": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{ARGUMENTS}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "Kimi": f"<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|>",
    "Granite": f"<|tool_call|>[{JSON}]",
    "Command": f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {ARGUMENTS}}}]<|END_ACTION|>',
    "Gemma": '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>',
    "MiniMax": '<minimax:tool_call><invoke name="get_weather"><parameter name="city">Rome</parameter><parameter name="days">2</parameter></invoke>',
    "Muse": '<atem:invoke name="get_weather">\n<atem:parameter name="city">Rome</atem:parameter>\n<atem:parameter name="days">2</atem:parameter>\n</atem:invoke>',
    "LFM": '<|tool_call_start|>[get_weather(city="Rome", days=2)]<|tool_call_end|>',
    "Llama, as Python": '[get_weather(city="Rome", days=2)]',
}


@pytest.mark.parametrize("way", WRITTEN)
def test_a_call_is_read_however_it_is_written(way: str) -> None:
    assert read_calls(WRITTEN[way], TOOLS) == (ROME,)
    assert read_calls(WRITTEN[way]) == (ROME,)


@pytest.mark.parametrize(
    "way", ["Hermes", "GLM", "Qwen Coder", "Mistral, newer", "DeepSeek", "Kimi", "Granite"]
)
def test_several_calls_keep_their_order(way: str) -> None:
    second = WRITTEN[way].replace("Rome", "Oslo")
    assert [call.arguments["city"] for call in read_calls(f"{WRITTEN[way]}\n{second}", TOOLS)] == [
        "Rome",
        "Oslo",
    ]


@pytest.mark.parametrize("way", WRITTEN)
def test_an_answer_that_was_cut_is_malformed_and_no_error(way: str) -> None:
    text = WRITTEN[way]
    for end in range(len(text)):
        for call in read_calls(text[:end], TOOLS):
            assert isinstance(call.malformed, str)
    cut = read_calls(text[: text.index("Rome") + 2], TOOLS)
    if way != "Llama, as Python":
        assert len(cut) == 1
        assert cut[0].malformed, cut


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": {"city": Rome}}</tool_call>', "get_weather", "not JSON"),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "a", "city": "b"}}</tool_call>', "get_weather", "more than once"),
        ("<tool_call>\nthe weather, please\n</tool_call>", "", "no JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', "", "no name"),
        ('<tool_call>{"name": "get_weather", "arguments": ["Rome"]}</tool_call>', "get_weather", "no object"),
        ('<tool_call>{"name": "get_weather", "arguments": {"days": 2}}</tool_call>', "get_weather", "'city' is a required property"),
        ("<function=get_weather>\n<parameter=city>\nRome", "get_weather", "without its end"),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_read_or_breaks_its_schema_says_why(text: str, name: str, says: str) -> None:
    (call,) = read_calls(text, TOOLS)
    assert (call.name, says in call.malformed) == (name, True), call


@pytest.mark.parametrize(
    "text", ["", "It is sunny.", '{"priority": "high"}', '{"name": "Anna"}', "[1, 2]", "f(x)"]
)
def test_an_answer_without_a_call_has_none(text: str) -> None:
    assert read_calls(text, TOOLS) == ()


def test_a_value_without_quotes_has_the_type_that_the_tool_names() -> None:
    tool = {"function": {"name": "f", "parameters": {"properties": {"zip": {"type": "string"}}}}}
    text = "<function=f><parameter=zip>00185</parameter><parameter=n>7</parameter></function>"
    assert read_calls(text, [tool])[0].arguments == {"zip": "00185", "n": 7}


@given(
    name=st.text(min_size=1),
    arguments=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=4),
)
def test_the_text_of_a_row_s_calls_is_read_back(name: str, arguments: dict[str, Any]) -> None:
    text = call_text([{"function": {"name": name, "arguments": arguments}}])
    if "<function=" not in text and "</tool_call>" not in f"{name}{arguments}":
        assert read_calls(text) == (ToolCall(name, arguments),)


@given(st.text(alphabet="<tool_call>{}[]\"':,=/functions.|\n｜▁ aTOLCARGS", max_size=60))
def test_nothing_that_a_model_says_is_an_error(text: str) -> None:
    read_calls(text, TOOLS)
