"""A slip that people make in YAML is answered with what to write, on the line where it stands."""

from __future__ import annotations

import pytest

from pytest_finetune.yamlfile import YamlError, check, parse_scalar, parse_yaml

_KEYS = {
    "task": {"type": ["string", "null"]},
    "steps": {"type": "integer"},
    "rate": {"type": "number"},
    "remote": {"type": "boolean"},
    "data": {"enum": ["none", "redacted", None]},
    "runtimes": {"type": "array"},
    "lora": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"r": {"type": "integer"}, "dropout": {"type": "number"}},
    },
}
_SCHEMA = {"type": "object", "additionalProperties": False, "properties": _KEYS}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task:t\nsteps: 1\n", "f:1: unreadable YAML: a space is missing after the colon: write `task: t`"),
        (
            "task: t\nsteps:1\nrate: 2\n",
            "f:2: unreadable YAML: a space is missing after the colon: write `steps: 1`",
        ),
        ("task: Sort: mail\n", 'a text with a colon in it needs quotes: `task: "Sort: mail"`'),
        (
            "task: t\n  steps: 1\n",
            "f:2: unreadable YAML: mapping values are not allowed here: indent it like",
        ),
        ("task: @me\n", "that cannot start any token: put the text in quotes"),
        ('task: "data\\check"\n', "in double quotes a backslash is an escape; write / in a path"),
        ("task: {instruction} and {input}\n", "a text that begins with a bracket needs quotes"),
        (
            "lora: {r: 8\nsteps: 1\n",
            "f:2: unreadable YAML: expected ',' or '}', but got ':': the bracket that op",
        ),
        ('task: "t\nsteps: 1\n', "the quote or bracket that opens on line 1 is not closed"),
        (
            "task:\u00a0t\nsteps: 1\n",
            "f:1: unreadable YAML: a no-break space (U+00A0) stands here: write a plain",
        ),
        (
            "\u00a0steps: 1\n",
            "f:1: the key steps: a no-break space (U+00A0) stands in it: write a plain space",
        ),
        (
            "steps: 1\ntask: t\x07\n",
            "f:2: unreadable YAML: the character U+0007 cannot stand in YAML: remove it",
        ),
        ("lora: {dropout: 0,05}\n", "a comma ends the value before it; write 0.05, with a point"),
        (
            "lora: {dropout: 0,95, r: 1}\n",
            "f:1: 95 stands where a key is due: a comma ends the value before it",
        ),
        ("rate: .nan\n", "f:1: rate: found .nan, allowed: a finite number"),
        ("lora: {dropout: 1e999}\n", "f:1: lora.dropout: found 1e999, allowed: a finite number"),
    ],
)
def test_what_is_no_yaml_is_told_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text, "f")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate: 1,5\n", "found '1,5' (text), allowed: a number; write 1.5, with a point"),
        ("rate: 95%\n", "found '95%' (text), allowed: a number; write 0.95"),
        ("rate: '2'\n", "found '2' (text), allowed: a number; write 2 without quotes"),
        ("steps: 1.024\n", "found 1.024 (number), allowed: a whole number; write 1024"),
        ("steps: 256.0\n", "found 256.0 (number), allowed: a whole number; write 256"),
        ("steps: 010\n", "found '010' (text), allowed: a whole number; write 10"),
        ("steps: 1:30\n", "found '1:30' (text), allowed: a whole number"),
        (
            "task: no\n",
            "found False (true/false), allowed: text; YAML reads yes, no, on and off as true and false: p",
        ),
        ("task: 1234567\n", "found 1234567 (number), allowed: text; put it in quotes"),
        (
            "task: {input}\n",
            "found {'input': None} (mapping), allowed: text; a text that begins with { needs quo",
        ),
        ("remote: 'False'\n", "found 'False' (text), allowed: true or false; write false without quotes"),
        (
            "data: no\n",
            "found False (true/false), allowed: none, redacted; YAML reads yes, no, on and off as t",
        ),
        ("data: Redacted\n", "found 'Redacted' (text), allowed: none, redacted; did you mean 'redacted'?"),
        ("runtimes: 0, 1\n", "found '0, 1' (text), allowed: a list; write [0, 1]"),
        ("runtimes:\n  -{gguf: q8_0}\n", "allowed: a list; a space is missing after the dash"),
        ("runtimes:\n  -merged\n", "allowed: a list; a space is missing after the dash"),
        (
            "runtimes: {gguf: q8_0}\n",
            "allowed: a list; write each entry after a dash and a space: `- key: value`",
        ),
        ("lora: {r:8}\n", "lora.r:8: a space is missing after the colon: write r: 8"),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_was_meant(text: str, told: str) -> None:
    (problem,) = check(parse_yaml(text, "f"), _SCHEMA)
    assert told in problem.at("f")


def test_numbers_are_read_as_they_are_written() -> None:
    assert [parse_scalar(text) for text in ("10", "1_024", "0x10", "-3", "0", "2e-4")] == [
        10,
        1024,
        16,
        -3,
        0,
        2e-4,
    ]
    assert [parse_scalar(text) for text in ("010", "1:30", "0123456")] == ["010", "1:30", "0123456"]


def test_words_of_a_list_stay_words() -> None:
    assert parse_scalar("[yes, No, on, OFF, true, False]") == ["yes", "No", "on", "OFF", True, False]
    assert parse_scalar("{values: [yes, no], drift: no}") == {"values": ["yes", "no"], "drift": False}
