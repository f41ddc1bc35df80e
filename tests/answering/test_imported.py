"""Imported answers: three formats, joined by id, input text or index; everything odd is named."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import AnswersError
from pytest_finetune.answering.imported import imported_answers
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
    """Return a line as lm-evaluation-harness 0.4 writes it."""
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": "x",
        "arguments": {"gen_args_0": {"arg_0": f"Q {doc_id}", "arg_1": {"until": ["\n"]}}},
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
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)
    assert [(one.id, one.line, one.response, one.prompt) for one in found.values()] == [
        ("r1", 1, "answer 0", "Q 0"),
        ("r2", 2, "answer 1", "Q 1"),
        ("r3", 3, "answer 2", "Q 2"),
    ]


def test_lm_eval_samples_without_id_or_input_are_matched_by_their_index(tmp_path: Path) -> None:
    lines = [sample(at, {"question": "?"}) for at in (2, 0, 1)]
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)
    assert [one.response for one in found.values()] == ["answer 0", "answer 1", "answer 2"]


def test_an_index_never_matches_a_document_whose_text_is_another(tmp_path: Path) -> None:
    lines = [sample(at, {"input": f"another data set, {at}"}) for at in range(3)]
    with pytest.raises(AnswersError, match=r"3 belong to no held-out row: s.jsonl:1, s.jsonl:2"):
        imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)


def test_of_several_filters_the_first_is_read(tmp_path: Path) -> None:
    lines = [sample(at, {"id": f"r{at + 1}"}, filter=name) for name in ("strict", "loose") for at in range(3)]
    found = imported_answers(written(tmp_path / "s.jsonl", lines), "s.jsonl", "lm_eval", ROWS)
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
    found = list(imported_answers(path, "log.json", "inspect", ROWS).values())
    assert [one.response for one in found] == [" yes ", "no", "long"]
    assert [one.stopped for one in found] == [True, False, True]
    assert (found[2].prompt, found[0].tokens, found[0].seconds) == ("ticket 3", 2, 0.5)


def test_numbered_samples_are_matched_by_their_input(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"samples": [inspected(at, f"ticket {at}", f"a{at}") for at in (3, 1, 2)]}))
    found = imported_answers(path, "log.json", "inspect", ROWS)
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
    found = imported_answers(path, "log.eval", "inspect", ROWS)
    assert [one.response for one in found.values()] == ["a1", "a2", "a3"]
    zstandard = pytest.importorskip("zstandard")
    _zstandard_archive(path, zstandard)
    again = imported_answers(path, "log.eval", "inspect", ROWS)
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
