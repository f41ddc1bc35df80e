"""Imported answers: three formats, joined by id, input text or index; everything odd is named."""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import AnswersError
from pytest_finetune.answering.imported import imported_answers
from pytest_finetune.answering.response import Response
from pytest_finetune.data.rows import Row


def row(number: int, text: str | None = None) -> Row:
    return Row(
        file="eval.jsonl",
        line=number,
        offset=0,
        shape="instruction",
        instruction="",
        input=text or f"ticket {number}",
        output="{}",
        messages=None,
        tags=(),
        group=None,
        raw={},
        given_id=f"r{number}",
    )


ROWS = [row(number) for number in range(1, 4)]


def written(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def sample(doc_id: int, doc: dict[str, Any], said: Any = None, **more: Any) -> dict[str, Any]:
    """Return a line as lm-evaluation-harness 0.4 writes it; without `input` the prompt alone shows the question."""
    asked = doc.get("input", f"ticket {doc_id + 1}")
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": "x",
        "arguments": {"gen_args_0": {"arg_0": f"Q: {asked}\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": [[f"answer {doc_id}"]] if said is None else said,
        "filtered_resps": ["filtered"],
        "filter": "none",
        "metrics": ["exact_match"],
        **more,
    }


def inspected(identity: Any, text: Any, said: Any = "yes", **more: Any) -> dict[str, Any]:
    """Return a sample as inspect_ai writes it."""
    return {
        "id": identity,
        "epoch": 1,
        "input": text,
        "target": "x",
        "output": {
            "model": "hf/x",
            "choices": [{"message": {"role": "assistant", "content": said}, "stop_reason": "stop"}],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
            "time": 0.5,
        },
        **more,
    }


def test_lm_eval_samples_are_matched_by_the_input_in_any_order(tmp_path: Path) -> None:
    lines = [sample(at, {"input": f"ticket {at + 1}"}) for at in (2, 0, 1)]
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS).answers
    assert [(one.id, one.line, one.response, one.prompt) for one in found.values()] == [
        ("r1", 1, "answer 0", "Q: ticket 1\nA:"),
        ("r2", 2, "answer 1", "Q: ticket 2\nA:"),
        ("r3", 3, "answer 2", "Q: ticket 3\nA:"),
    ]


def test_lm_eval_samples_without_id_or_input_are_matched_by_their_index(tmp_path: Path) -> None:
    lines = [sample(at, {"question": "?"}) for at in (2, 0, 1)]
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS).answers
    assert [one.response for one in found.values()] == ["answer 0", "answer 1", "answer 2"]


def test_an_index_never_matches_a_document_whose_text_is_another(tmp_path: Path) -> None:
    lines = [sample(at, {"input": f"another data set, {at}"}) for at in range(3)]
    with pytest.raises(AnswersError, match=r"3 belong to no held-out row: s.jsonl:1, s.jsonl:2"):
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)


def test_answers_to_other_questions_under_the_right_ids_are_refused(tmp_path: Path) -> None:
    lines = [sample(at, {"id": f"r{at + 1}", "input": f"ticket {at + (at == 1) * 5 + 1}"}) for at in range(3)]
    with pytest.raises(AnswersError) as refused:
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)
    assert str(refused.value).splitlines() == [
        "s.jsonl: 1 of 3 answers, matched by id, are to another question",
        "  row r2 (eval.jsonl:2) asks 'ticket 2'",
        "    s.jsonl:2 shows 'Q: ticket 7 A:'",
        "  let the other tool answer the same held-out file; answers that show no question (id and response alone, "
        "format: outputs) are joined by id as they stand",
    ]


def test_a_long_question_is_shortened_and_further_ones_are_counted(tmp_path: Path) -> None:
    rows = [row(number, f"ticket {number} " + "word " * 40) for number in range(1, 7)]
    lines = [sample(at, {"id": f"r{at + 1}", "input": "other " * 40}) for at in range(6)]
    with pytest.raises(AnswersError, match=r"6 of 6 answers") as refused:
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", rows)
    assert "  and 3 more" in str(refused.value)
    assert max(map(len, str(refused.value).splitlines()[:-1])) < 120


def test_shifted_ids_are_named_as_such(tmp_path: Path) -> None:
    lines = [{"id": f"r{at % 3 + 1}", "prompt": f"Q: ticket {at}", "response": str(at)} for at in (1, 2, 3)]
    path = written(tmp_path / "o.jsonl", lines)
    with pytest.raises(
        AnswersError, match=r"3 of 3 answers(.|\n)*exactly once, under another id: the ids are shifted"
    ):
        imported_answers(path, "o.jsonl", "outputs", ROWS)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_counted_documents_in_another_order_are_joined_by_their_question(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    lines = [sample(at, {"text": f"ticket  {of + 1}\n"}, [[f"to {of + 1}"]]) for at, of in enumerate(order)]
    for line, of in zip(lines, order, strict=True):
        line["arguments"]["gen_args_0"]["arg_0"] = f"Q: ticket  {of + 1}\nA:"
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)
    assert found.by == "question"
    assert [one.response for one in found.answers.values()] == ["to 1", "to 2", "to 3"]


def test_counted_documents_of_which_one_asks_for_no_row_are_refused(tmp_path: Path) -> None:
    lines = [sample(at, {"text": "?"}) for at in range(3)]
    lines[2]["arguments"]["gen_args_0"]["arg_0"] = "Q: something else"
    with pytest.raises(AnswersError, match=r"1 of 3 answers, matched by index, are to another question"):
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)


def test_a_conversation_written_as_one_json_text_is_read(tmp_path: Path) -> None:
    lines = [sample(at, {"id": f"r{at + 1}"}) for at in range(3)]
    for at, line in enumerate(lines):
        turns = [{"role": "user", "content": f"Sort:\nticket {at + 1}"}]
        line["arguments"]["gen_args_0"]["arg_0"] = [json.dumps(turns)]
    path = written(tmp_path / "s.jsonl", lines)
    assert imported_answers(path, "s.jsonl", "lm_eval", [row(1), row(2), row(3)]).by == "id"
    lines[0]["arguments"], lines[1]["arguments"] = lines[1]["arguments"], lines[0]["arguments"]
    with pytest.raises(AnswersError, match="2 of 3 answers"):
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)


def test_rows_that_share_an_input_are_told_apart_by_their_instruction(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(row(at, "the cat"), instruction=f"to {to}") for at, to in ((1, "fr"), (2, "de"))
    ]
    lines = [
        {"id": f"r{at}", "prompt": f"to {to}: the cat", "response": to} for at, to in ((1, "fr"), (2, "de"))
    ]
    assert imported_answers(written(tmp_path / "o.jsonl", lines), "o.jsonl", "outputs", rows).by == "id"
    lines[0]["id"], lines[1]["id"] = "r2", "r1"
    with pytest.raises(AnswersError, match="2 of 2 answers, matched by id, are to another question"):
        imported_answers(written(tmp_path / "o.jsonl", lines), "o.jsonl", "outputs", rows)
    for line in lines:
        line["prompt"] = "the cat"  # nothing here speaks against the ids
    assert imported_answers(written(tmp_path / "o.jsonl", lines), "o.jsonl", "outputs", rows).by == "id"


def test_numbered_samples_whose_numbers_are_also_ids_follow_their_question(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row(at), given_id=str(at)) for at in (1, 2, 3)]
    samples = [inspected(at, f"Sort this: ticket {of}", f"a{of}") for at, of in ((1, 3), (2, 1), (3, 2))]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": samples}))
    found = imported_answers(path, "log.json", "inspect", rows)
    assert (found.by, [one.response for one in found.answers.values()]) == ("question", ["a1", "a2", "a3"])


def test_what_a_prompt_template_made_of_the_input_counts_as_shown(tmp_path: Path) -> None:
    shown = [inspected(f"r{at}", "see the template") for at in (1, 2, 3)]
    for at, one in enumerate(shown, 1):
        one["messages"] = [
            {"role": "user", "content": f"Sort: ticket {at}"},
            {"role": "assistant", "content": "x"},
        ]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": shown}))
    assert imported_answers(path, "log.json", "inspect", ROWS).by == "id"


def test_of_several_filters_the_first_is_read(tmp_path: Path) -> None:
    lines = [sample(at, {"id": f"r{at + 1}"}, filter=name) for name in ("strict", "loose") for at in range(3)]
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS).answers
    assert len(found) == 3


@pytest.mark.parametrize("said", [[[[-1.5, False]]], [["a", "b"]], [["a"], ["b"]], [[]], 3])
def test_what_is_no_single_generated_text_is_refused(tmp_path: Path, said: Any) -> None:
    line = sample(0, {"id": "r1"}) | {"resps": said}
    with pytest.raises(AnswersError, match=r"s.jsonl:1: 'resps' holds .* use a generate_until task"):
        imported_answers(written(tmp_path / "s.jsonl", [line]), "s.jsonl", "lm_eval", ROWS)


def test_two_rows_with_one_input_are_never_matched_by_it(tmp_path: Path) -> None:
    rows = [row(1, "same"), row(2, "same"), row(3)]
    lines = [sample(at, {"input": one.input}) for at, one in enumerate(rows)]
    with pytest.raises(AnswersError, match="2 belong to no held-out row"):
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", rows)


def test_an_inspect_log_in_json_is_read_with_parts_and_attachments(tmp_path: Path) -> None:
    log = {
        "version": 2,
        "status": "success",
        "samples": [
            inspected("r1", "ticket 1", " yes "),
            inspected("r2", [{"role": "user", "content": "ticket 2"}], [{"type": "text", "text": "no"}]),
            inspected(
                "r3", "attachment://abc", "attachment://def", attachments={"abc": "ticket 3", "def": "long"}
            ),
        ],
    }
    log["samples"][1]["output"]["choices"][0]["stop_reason"] = "max_tokens"  # type: ignore[index]
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    found = list(imported_answers(path, "log.json", "inspect", ROWS).answers.values())
    assert [one.response for one in found] == [" yes ", "no", "long"]
    assert [one.stopped for one in found] == [True, False, True]
    assert (found[2].prompt, found[0].tokens, found[0].seconds) == ("ticket 3", 2, 0.5)


CALL = {"name": "weather", "arguments": {"city": "Rome"}}
WRITTEN = f"<tool_call>{json.dumps(CALL)}</tool_call>"


@pytest.mark.parametrize(
    ("said", "calls", "expected"),
    [
        (
            "",
            [{"type": "function", "function": {**CALL, "arguments": '{"city": "Rome"}'}}],
            [("weather", "")],
        ),
        (None, [{"id": "1", "function": "weather", "arguments": {"city": "Rome"}}], [("weather", "")]),
        (WRITTEN, [{"function": CALL}], [("weather", "")]),  # told apart, and left in the text
        (WRITTEN, None, [("weather", "")]),
        ("Let me see.", [CALL, CALL], [("weather", ""), ("weather", "")]),
        ("", [{"function": {**CALL, "arguments": '{"city": '}}], [("weather", "not JSON")]),
        (
            "",
            [{"function": "weather", "arguments": {}, "parse_error": "Error parsing: EOF"}],
            [("weather", "no JSON object: 'Error parsing: EOF'")],
        ),
        ("", ["weather"], [("", "no JSON object")]),
        ("It is noon.", None, []),
    ],
)
@pytest.mark.parametrize("form", ["outputs", "inspect"])
def test_calls_that_a_file_tells_apart_are_calls_of_the_answer(
    tmp_path: Path, form: str, said: str | None, calls: list[Any] | None, expected: list[tuple[str, str]]
) -> None:
    if form == "outputs":
        path = written(tmp_path / "log", [{"id": "r1", "response": said, "tool_calls": calls}])
    else:
        path = tmp_path / "log"
        sample = inspected("r1", "ticket 1", said)
        sample["output"]["choices"][0]["message"]["tool_calls"] = calls
        path.write_text(json.dumps({"samples": [sample]}))
    (answer,) = imported_answers(path, "log", form, ROWS[:1]).answers.values()
    found = Response(answer.response).tool_calls
    assert [call.name for call in found] == [name for name, _ in expected]
    for call, (_, malformed) in zip(found, expected, strict=True):
        assert call.malformed.startswith(malformed)
        assert bool(call.malformed) == bool(malformed)
        assert call.malformed or call.arguments == {"city": "Rome"}
    assert "Let me see." not in (said or "") or answer.response.startswith("Let me see.\n")


@pytest.mark.parametrize(
    ("said", "answer", "thinking", "cut"),
    [
        ("<think>\nso\n</think>\n\nyes", "yes", "so", False),
        ("<think>\n\n</think>\n\nyes", "yes", None, False),  # the empty block of a template
        ("so</think>yes", "yes", "so", False),  # opened in the question
        ("<think>so many", "", "so many", True),
        ("<|channel|>analysis<|message|>so<|end|>yes", "yes", "so", False),
        ("it says <think>so</think>", "it says <think>so</think>", None, False),
        ("yes", "yes", None, False),
    ],
)
def test_a_thought_before_an_answer_is_no_part_of_it(
    tmp_path: Path, said: str, answer: str, thinking: str | None, cut: bool
) -> None:
    path = written(tmp_path / "s.jsonl", [sample(0, {"input": "ticket 1"}, [[said]])])
    (found,) = imported_answers(path, "s.jsonl", "lm_eval", ROWS[:1]).answers.values()
    assert (found.response, found.thinking, found.cut_while_thinking) == (answer, thinking, cut)
    assert found.written == said


@pytest.mark.parametrize("form", ["outputs", "inspect"])
def test_a_thought_that_a_file_tells_apart_is_kept_and_one_without_an_answer_was_cut(
    tmp_path: Path, form: str
) -> None:
    lines = [
        {"id": f"r{at}", "response": said, "thinking": "so", "thinking_tokens": 1, "stopped": bool(said)}
        for at, said in ((1, "yes"), (2, ""))
    ]
    path = written(tmp_path / "log", lines)
    if form == "inspect":
        thought = {"type": "reasoning", "reasoning": "so"}
        contents = [[thought, {"type": "text", "text": "yes"}], [thought]]
        samples = [inspected(f"r{at}", f"ticket {at}", said) for at, said in enumerate(contents, 1)]
        samples[1]["output"]["choices"][0]["stop_reason"] = "max_tokens"
        path.write_text(json.dumps({"samples": samples}))
    answers = imported_answers(path, "log", form, ROWS[:2]).answers.values()
    assert [(one.response, one.thinking) for one in answers] == [("yes", "so"), ("", "so")]
    assert [one.cut_while_thinking for one in answers] == [False, True]


@pytest.mark.parametrize("form", ["outputs", "inspect"])
def test_calls_that_are_no_list_are_refused(tmp_path: Path, form: str) -> None:
    sample = inspected("r1", "ticket 1")
    sample["output"]["choices"][0]["message"]["tool_calls"] = {"name": "weather"}
    lines = [{"id": "r1", "response": "", "tool_calls": {"name": "weather"}}, {"samples": [sample]}]
    path = written(tmp_path / "log", [lines[form == "inspect"]])
    with pytest.raises(AnswersError, match="'tool_calls' is dict, it must be a list of calls"):
        imported_answers(path, "log", form, ROWS[:1])


def test_numbered_samples_are_matched_by_their_input(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": [inspected(at, f"ticket {at}", f"a{at}") for at in (3, 1, 2)]}))
    found = imported_answers(path, "log.json", "inspect", ROWS).answers
    assert [one.response for one in found.values()] == ["a1", "a2", "a3"]


def test_two_epochs_are_two_answers_to_one_row(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": [inspected(f"r{at}", "", "") for at in (1, 2, 3, 1)]}))
    with pytest.raises(AnswersError, match=r"1 are second answers to one row: r1"):
        imported_answers(path, "log.json", "inspect", ROWS)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"results": {}}, "an inspect_ai log has a list 'samples'"),
        ({"samples": ["x"]}, "sample 1: a sample is an object"),
        ({"samples": [{"id": "r1", "error": {"message": "timeout"}}]}, "sample 1: no answer: timeout"),
        ({"samples": [inspected("r1", "", [{"type": "image"}])]}, "sample 1: the first choice holds no text"),
    ],
)
def test_a_log_that_holds_no_answers_says_why(tmp_path: Path, log: Any, message: str) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    with pytest.raises(AnswersError, match=message):
        imported_answers(path, "log.json", "inspect", ROWS)


def test_an_eval_archive_is_read_whichever_way_it_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        for at in (1, 2, 3):
            archive.writestr(f"samples/r{at}_epoch_1.json", json.dumps(inspected(f"r{at}", "", f"a{at}")))
    found = imported_answers(path, "log.eval", "inspect", ROWS).answers
    assert [one.response for one in found.values()] == ["a1", "a2", "a3"]
    zstandard = pytest.importorskip("zstandard")
    _zstandard_archive(path, zstandard)
    again = imported_answers(path, "log.eval", "inspect", ROWS).answers
    assert list(again.values()) == list(found.values())


def _zstandard_archive(path: Path, zstandard: Any) -> None:
    """Compress an archive's members with method 93, as inspect_ai does; zipfile knows it from 3.14 on."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, zstandard.ZstdCompressor().compress(content))
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        places = [(member.header_offset, len(members[member.filename])) for member in archive.infolist()]
        central = archive.start_dir
    for (offset, size), name in zip(places, members, strict=True):
        struct.pack_into("<H", raw, offset + 8, 93)
        struct.pack_into("<H", raw, central + 10, 93)
        struct.pack_into("<I", raw, central + 24, size)
        central += 46 + len(name)
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("form", ["outputs", "lm_eval", "inspect"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]\n", b"null\n", b'{"a": 1}\n', b"", b"PK\x03\x04"])
def test_any_bytes_are_refused_with_a_message(tmp_path: Path, form: str, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(AnswersError, match=r"^x"):
        imported_answers(path, "x", form, ROWS)
