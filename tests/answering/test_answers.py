from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune.answering.answers import Answer, AnswersError, read_answers, write_answers

ANSWERS = st.builds(
    Answer,
    id=st.text(),
    line=st.integers(1, 10**6),
    prompt=st.text(),
    response=st.text(),
    tokens=st.integers(0, 4096),
    seconds=st.floats(0, 1e4),
    stopped=st.booleans(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(answers=st.lists(ANSWERS, max_size=5))
def test_any_text_comes_back_as_it_was(answers: list[Answer], tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", answers)
    assert read_answers(tmp_path / "answers.jsonl") == answers


@pytest.mark.parametrize(
    "text", ["half a pair \ud83d", "line\u2028separator", "\r\n", "  spaces stay  ", "\x00"]
)
def test_awkward_text_survives_the_file(text: str, tmp_path: Path) -> None:
    answer = Answer("r1", 1, text, text, 3, 0.25, True)
    offered = Answer("r2", 2, text, text, 3, 0.25, True, tools=[{"name": text}])
    write_answers(tmp_path / "answers.jsonl", [answer, offered])
    assert read_answers(tmp_path / "answers.jsonl") == [answer, offered]


def test_a_line_of_the_file_is_plain_readable_json(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [Answer("r1", 7, "Größe?", " {}", 2, 0.5, True)])
    text = (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "Größe?" in text
    assert json.loads(text) == {
        "id": "r1",
        "line": 7,
        "prompt": "Größe?",
        "response": " {}",
        "tokens": 2,
        "seconds": 0.5,
        "stopped": True,
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no answer"),
        ("[]", "no answer"),
        ('{"id": "r1"}', "no answer: KeyError('line')"),
        (
            '{"id": 1, "line": 1, "prompt": "", "response": "", "tokens": 1, "seconds": 0, "stopped": true}',
            "id is 1",
        ),
    ],
)
def test_what_is_no_answer_is_named_with_file_and_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write_answers(path, [Answer("r1", 1, "", "", 0, 0.0, False)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(AnswersError) as caught:
        read_answers(path)
    assert f"{path}:2: {said}" in str(caught.value)
