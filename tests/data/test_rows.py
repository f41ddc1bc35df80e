"""Reading: what a row knows, and every defect of a file as exactly one finding at the right line."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.rows import Row, Rows, read_rows, stream_rows

GOOD = b'{"instruction": "i", "input": "a", "output": "x"}\n'
ROW_START = b'{"instruction": "i", "input": "a", "output": '

BROKEN = {
    "invalid utf-8": (GOOD + GOOD[:20] + b"\xff\xfe" + GOOD[20:] + GOOD, "data/invalid-utf8", 2),
    "nul": (GOOD + b'{"instruction": "i\0", "input": "a", "output": "x"}\n', "data/nul", 2),
    "blank line": (GOOD + b"  \n" + GOOD, "data/blank-line", 2),
    "truncated last line": (GOOD + GOOD[:30], "data/truncated-line", 2),
    "empty file": (b"", "data/empty-file", None),
    "long line": (GOOD + GOOD.replace(b'"a"', b'"' + b"a" * 5000 + b'"') + GOOD, "data/long-line", 2),
    "duplicate keys": (
        GOOD + b'{"instruction": "i", "output": "x", "output": "y"}\n',
        "data/duplicate-key",
        2,
    ),
    "nested duplicate keys": (
        b'{"instruction": "i", "output": "x", "meta": [{"a": 1, "a": 2}]}\n',
        "data/duplicate-key",
        1,
    ),
    "nan": (GOOD + b'{"instruction": "i", "output": "x", "score": NaN}\n', "data/non-finite", 2),
    "infinity": (b'{"instruction": "i", "output": "x", "score": -Infinity}\n', "data/non-finite", 1),
    "1e999": (GOOD + b'{"instruction": "i", "output": "x", "score": 1e999}\n', "data/non-finite", 2),
    "a number of 5000 digits": (
        b'{"instruction": "i", "output": "x", "n": ' + b"1" * 4500 + b"}\n",
        "data/non-finite",
        1,
    ),
    "lone surrogate": (GOOD + ROW_START + b'"\\ud800"}\n', "data/lone-surrogate", 2),
    "nesting bomb": (GOOD + b"[" * 4000 + b"\n", "data/deep-nesting", 2),
    "not json": (GOOD + b"Sure, here is the row you asked for!\n" + GOOD, "data/invalid-json", 2),
    "two values on a line": (GOOD.rstrip() + GOOD, "data/invalid-json", 1),
    "a list": (GOOD + b"[1, 2]\n", "data/row-shape", 2),
    "no answer": (GOOD + b'{"instruction": "i", "input": "a"}\n', "data/row-shape", 2),
    "mixed shapes": (GOOD * 2 + b'{"prompt": "p", "completion": "c"}\n', "data/mixed-shapes", 3),
    "the same id twice": (
        b'{"instruction": "i", "output": "x", "id": "a"}\n{"instruction": "j", "output": "x", "id": "a"}\n',
        "data/duplicate-id",
        2,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_exactly_its_finding_at_its_line(tmp_path: Path, name: str) -> None:
    content, rule, line = BROKEN[name]
    (tmp_path / "rows.jsonl").write_bytes(content)
    rows = read_rows(tmp_path, "rows.jsonl", "train", max_line_bytes=4800)
    assert [(found.rule, found.file, found.line) for found in rows.defects] == [(rule, "rows.jsonl", line)]


def test_all_defects_of_a_file_are_found_in_one_pass(tmp_path: Path) -> None:
    parts = [
        content
        for name, (content, _, _) in BROKEN.items()
        if name not in ("empty file", "truncated last line", "mixed shapes")
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(parts))
    defects = read_rows(tmp_path, "rows.jsonl", "train", max_line_bytes=4800).defects
    wanted = {rule for content, rule, _ in BROKEN.values() if content in parts}
    assert {found.rule for found in defects} == wanted
    lines = (tmp_path / "rows.jsonl").read_bytes().split(b"\n")
    for found in defects:
        assert found.line is not None
        assert lines[found.line - 1] + b"\n" != GOOD


def test_a_byte_order_mark_and_crlf_are_read_and_noted(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + GOOD.replace(b"\n", b"\r\n") * 2)
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert ([row.input for row in rows], rows.defects) == (["a"] * 3, ())
    noted = [(note.rule, note.line) for note in rows.notes]
    assert noted == [("data/bom", 1), ("data/crlf", 2)]
    found = Contract.default().findings(rows, Rows([], path="e.jsonl", split="eval"))
    assert not [one for one in found if one.rule in ("data/bom", "data/crlf")]
    assert [(note.rule, note.line) for note in found.notes] == noted
    assert "note: r.jsonl:2: 2 of 3 lines end with CRLF" in found.explain()


def test_several_defects_of_one_row_are_all_told(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b'{"instruction": "i", "output": "\\udfff", "a": NaN, "a": 1e999}\n')
    rules = [found.rule for found in read_rows(tmp_path, "r.jsonl", "train").defects]
    assert sorted(rules) == [
        "data/duplicate-key", "data/lone-surrogate", "data/non-finite", "data/non-finite",
    ]  # fmt: skip


def test_a_whole_last_line_needs_no_line_break(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(GOOD + GOOD.rstrip(b"\n"))
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert len(rows) == 2
    assert rows.defects == ()


def test_rows_know_file_line_and_byte_offset(tmp_path: Path) -> None:
    content = GOOD + b"\n" + '{"instruction": "ü", "output": "x"}\n'.encode() + GOOD
    (tmp_path / "r.jsonl").write_bytes(content)
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert [row.place for row in rows] == ["r.jsonl:1", "r.jsonl:3", "r.jsonl:4"]
    for row in rows:
        line = content[row.offset :].split(b"\n")[0]
        assert json.loads(line) == row.raw
    assert rows.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_files_are_told_by_their_first_bytes(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "r.jsonl").write_bytes(pack(GOOD * 3))
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert [row.line for row in rows] == [1, 2, 3]
    assert rows.defects == ()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_cut_archive_is_a_finding_and_no_exception(tmp_path: Path, pack: Any) -> None:
    import random

    lines = [
        b'{"instruction": "i", "output": "%d"}\n' % random.Random(n).getrandbits(200) for n in range(5000)
    ]
    packed = pack(b"".join(lines))
    (tmp_path / "r.jsonl").write_bytes(packed[: len(packed) // 2])
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert {found.rule for found in rows.defects} <= {"data/damaged-archive", "data/truncated-line"}
    assert rows.defects


def test_a_file_of_many_rows_is_streamed_in_constant_memory(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(GOOD * 40_000))
    tracemalloc.start()
    count = sum(1 for _ in stream_rows(tmp_path, "r.jsonl.gz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 500_000  # the text alone has 2 MB


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b"[" * 50_000_000 + b"\n" + GOOD)
    tracemalloc.start()
    rows = read_rows(tmp_path, "r.jsonl", "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [found.rule for found in rows.defects] == ["data/long-line"]
    assert "50000001 bytes" in rows.defects[0].read
    assert rows[0].offset == 50_000_001
    assert peak < 8_000_000


def test_the_three_shapes_say_the_same(tmp_path: Path) -> None:
    lines = [
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        {"instruction": "Sort.", "input": "b a", "expected": "a b"},
        {
            "messages": [
                {"role": "system", "content": "Sort."},
                {"role": "user", "content": "b a"},
                {"role": "assistant", "content": "a b"},
            ]
        },
        {
            "prompt": [{"role": "system", "content": "Sort."}, {"role": "user", "content": "b a"}],
            "completion": [{"role": "assistant", "content": "a b"}],
        },
    ]
    for line in lines:
        (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
        (row,) = read_rows(tmp_path, "r.jsonl", "train")
        assert (row.instruction, row.input, row.output, row.expected) == ("Sort.", "b a", "a b", "a b")
    (tmp_path / "r.jsonl").write_text('{"prompt": "Sort: b a =", "completion": " a b"}\n')
    (row,) = read_rows(tmp_path, "r.jsonl", "train")
    assert (row.shape, row.instruction, row.input, row.output) == ("prompt", "", "Sort: b a =", " a b")


def test_the_digest_is_of_what_a_row_says_and_not_of_its_name(tmp_path: Path) -> None:
    lines = [
        {
            "instruction": "i",
            "input": "a",
            "output": "x",
            "id": "one",
            "tags": ["t"],
            "group": "g",
            "note": 1,
        },
        {"expected": "x", "input": "a", "instruction": "i"},
        {"instruction": "i", "input": "a", "output": "y"},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second, third = read_rows(tmp_path, "r.jsonl", "train")
    assert first.digest == second.digest != third.digest
    assert (first.id, second.id) == ("one", f"r{second.digest[:11]}")
    assert (first.tags, first.group) == (("t",), "g")


def test_held_out_rows_have_unique_ids_even_when_they_repeat(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(GOOD * 3)
    ids = [row.id for row in read_rows(tmp_path, "r.jsonl", "eval")]
    assert len(set(ids)) == 3
    assert ids[1] == f"{ids[0]}.2"


def test_an_answer_is_read_as_json_when_asked(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"instruction": "i", "expected": '{"a": 1}'}) + "\n")
    (row,) = read_rows(tmp_path, "r.jsonl", "eval")
    assert row.expected_json() == {"a": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"instruction": "i", "inptu": "a", "output": "x"}, "did you mean 'input'?"),
        ({"instruction": "i", "input": "a", "outptu": "x"}, "did you mean 'output' by 'outptu'?"),
        (
            {"instruction": "i", "input": "a", "output": {"p": 1}},
            "output must be a text, found an object: write the JSON",
        ),
        ({"instruction": "i", "output": "x", "expected": "x"}, "both output and expected"),
        ({"instruction": 3, "output": "x"}, "instruction must be a text, found a number"),
        (
            {"query": "q", "reply": "a"},
            "no instruction, messages or prompt; found the keys 'query', 'reply'",
        ),
        ({"prompt": "p"}, "a prompt without completion"),
        ({"prompt": "p", "completion": []}, "prompt is a text and completion is a list"),
        ({"messages": []}, "at least one message"),
        (
            {"messages": [{"role": "user", "content": "q"}]},
            "the last message is the user's, not the assistant's",
        ),
        ({"messages": [{"role": "assistant", "content": "q"}]}, "no user message before the answer"),
        ({"messages": [{"role": "bot", "content": "q"}]}, "message 1 has the role 'bot'; known: system"),
        (
            {"messages": [{"role": "user", "content": ["q"]}]},
            "the content of message 1 must be a text, found a list",
        ),
        ({"messages": ["q"]}, "message 1 is a text, not an object"),
        ({"instruction": "i", "output": "x", "tags": "t"}, "tags must be a list of texts"),
        ({"instruction": "i", "output": "x", "group": 1.5}, "group must be a text"),
    ],
)
def test_a_wrong_shape_is_explained(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_rows(tmp_path, "r.jsonl", "train").defects
    assert found.rule == "data/row-shape"
    assert said in found.read


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ({"messages": [{"role": "Model", "content": "q"}]}, 'Write the role as "assistant".'),
        ({"messages": [{"role": "USER", "content": "q"}]}, 'Write the role as "user".'),
        (
            {"instruction": "i", "output": "x", "tags": "a,b"},
            'Write them as a list, as in ["short", "angry"].',
        ),
        (
            {"instruction": "i", "output": "x", "id": 1.5},
            "Write the id as a text in quotes, or leave it out.",
        ),
        (
            {"instruction": "i", "input": None, "output": "x"},
            "Write the text in place of null, or take the row out.",
        ),
        ({"prompt": "p", "completion": {"a": 1}}, "Write the JSON as a text, as `json.dumps` gives it."),
    ],
)
def test_a_wrong_value_is_told_with_what_to_write(tmp_path: Path, line: dict[str, Any], fix: str) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_rows(tmp_path, "r.jsonl", "train").defects
    assert found.fix == fix


def test_a_missing_file_is_the_callers_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path, "none.jsonl", "train")


PIECES = st.sampled_from(
    [
        GOOD,
        b"\n",
        b"\r\n",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"{",
        b"[",
        b'"',
        b"\\ud800",
        b"NaN",
        b"1e999",
        b":",
        b",",
        b'{"instruction": "i", "output": "x"}',
        b'{"messages": [{"role": "user"}]}',
        b"\x1f\x8b",
        b"(\xb5/\xfd",
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=400), st.lists(PIECES, max_size=30).map(b"".join)))
def test_the_reader_answers_any_bytes_with_rows_and_findings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.jsonl").write_bytes(content)
    for item in stream_rows(tmp_path, "r.jsonl", max_line_bytes=200):
        assert isinstance(item, Row | Finding)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_reader_takes_any_json_for_a_row_or_a_finding(tmp_path: Path, data: st.DataObject) -> None:
    keys = st.sampled_from(
        ["instruction", "input", "output", "messages", "prompt", "completion", "tags", "id", "group"]
    )
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
    value = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.one_of(keys, st.sampled_from(["role", "content"])), inner, max_size=3),
        ),
        max_leaves=8,
    )
    line = json.dumps(data.draw(st.dictionaries(keys, value, max_size=6)))
    (tmp_path / "r.jsonl").write_text(line + "\n")
    rows = read_rows(tmp_path, "r.jsonl", "train")
    assert len(rows) + len({found.line for found in rows.defects}) == 1


def test_a_question_is_known_by_its_words_whatever_was_retouched_or_is_expected() -> None:
    def row(question: str, answer: str = "high") -> Row:
        return Row("f", 1, 0, "s", "Label it", question, answer, None, (), None, {})

    first = row("The printer burns!")
    assert first.question_digest == row("the  printer burns ", "low").question_digest
    assert first.digest != row("the  printer burns ", "low").digest
    assert first.question_digest != row("The printer turns!").question_digest
    assert row("??").question_digest != row("!!").question_digest


def test_a_packed_file_is_not_asked_for_its_line_ends(tmp_path: Path) -> None:
    packed = next(
        one
        for n in range(400)
        if b"\r" in (one := gzip.compress(GOOD.replace(b"a", b"%d" % n))) and b"\n" not in one
    )
    (tmp_path / "r.jsonl.gz").write_bytes(packed)
    rows = read_rows(tmp_path, "r.jsonl.gz", "train")
    assert (len(rows), rows.defects) == (1, ())
