"""The example project's rows, generator and base model are what its README says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "example_project"
PRIORITIES = {"critical", "high", "medium", "low"}


def rows(relative: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLE / relative).read_text(encoding="utf-8").splitlines()]


def answers(relative: str, field: str) -> list[dict[str, str]]:
    return [json.loads(row[field]) for row in rows(relative)]


def passages(text: str, words: int = 8) -> Iterator[tuple[str, ...]]:
    parts = text.lower().split()
    return (tuple(parts[at : at + words]) for at in range(max(1, len(parts) - words + 1)))


def tags(relative: str) -> Counter[str]:
    return Counter(tag for row in rows(relative) for tag in row.get("tags", []))


SPLITS = [("data/train.jsonl", "output"), ("eval/check.jsonl", "expected")]


def test_there_are_enough_rows_and_sixty_of_the_held_out_ones_are_written_by_hand() -> None:
    assert len(rows("data/train.jsonl")) >= 480
    assert len(rows("eval/check.jsonl")) >= 160
    assert tags("eval/check.jsonl")["handwritten"] == len(rows("eval/handwritten.jsonl")) >= 60


@pytest.mark.parametrize(("relative", "field"), SPLITS)
def test_every_answer_is_compact_json_with_priority_and_reason(relative: str, field: str) -> None:
    for row, answer in zip(rows(relative), answers(relative, field), strict=True):
        assert list(answer) == ["priority", "reason"]
        assert answer["priority"] in PRIORITIES
        assert 0 < len(answer["reason"]) <= 80
        assert row[field] == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(("relative", "field"), SPLITS)
def test_no_priority_has_more_than_two_fifths_of_a_file(relative: str, field: str) -> None:
    labels = Counter(answer["priority"] for answer in answers(relative, field))
    assert set(labels) == PRIORITIES
    assert max(labels.values()) <= 0.4 * labels.total()


@pytest.mark.parametrize("relative", [relative for relative, _ in SPLITS])
def test_borderline_and_negative_rows_are_tagged(relative: str) -> None:
    assert tags(relative)["borderline"] >= 20
    assert tags(relative)["negative"] >= 10


def test_no_ticket_stands_twice_in_or_across_the_files() -> None:
    tickets = [row["input"].lower() for relative, _ in SPLITS for row in rows(relative)]
    assert len(set(tickets)) == len(tickets)


def test_no_held_out_ticket_is_close_to_a_training_ticket() -> None:
    training = [set(passages(row["input"], 3)) for row in rows("data/train.jsonl")]
    for row in rows("eval/check.jsonl"):
        new = set(passages(row["input"], 3))
        assert max(len(new & old) / len(new | old) for old in training) < 0.5, row["input"]


def test_the_generator_writes_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import make_data\n"
        "out = pathlib.Path(sys.argv[2])\n"
        "for name, rows in zip(('train', 'check'), make_data.build()):\n"
        "    make_data.write_jsonl(out / f'{name}.jsonl', rows)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(EXAMPLE), str(tmp_path)], check=True)
    assert (tmp_path / "train.jsonl").read_bytes() == (EXAMPLE / "data/train.jsonl").read_bytes()
    assert (tmp_path / "check.jsonl").read_bytes() == (EXAMPLE / "eval/check.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("who", "harm", "way_around", "expected"),
    [
        ("everyone", "blocked", False, "critical"),
        ("everyone", "blocked", True, "high"),
        ("everyone", "degraded", False, "high"),
        ("everyone", "degraded", True, "medium"),
        ("everyone", "cosmetic", False, "low"),
        ("group", "blocked", False, "high"),
        ("group", "blocked", True, "medium"),
        ("group", "degraded", False, "medium"),
        ("group", "degraded", True, "low"),
        ("one", "blocked", False, "medium"),
        ("one", "blocked", True, "low"),
        ("one", "degraded", False, "low"),
    ],
)
def test_the_rubric_as_a_function_is_the_rubric_as_a_table(
    who: str, harm: str, way_around: bool, expected: str
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import rubric\n"
        f"print(rubric.priority({who!r}, {harm!r}, {way_around}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == expected
    header, *table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (EXAMPLE / "rubric.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(("| | blocked |", "| everyone | critical", "| group | high", "| one | medium"))
    ]
    column = header.index(harm + (", way around" if way_around else ""))
    assert next(line for line in table if line[0] == who)[column] == expected


def test_the_corpus_holds_no_ticket_of_the_project_and_no_json_with_a_priority() -> None:
    code = (
        f"import sys, itertools, json; sys.path.insert(0, {str(EXAMPLE)!r}); import corpus\n"
        "held_out = corpus.tickets_of(corpus.HERE / 'eval/check.jsonl')\n"
        "training = corpus.tickets_of(corpus.HERE / 'data/train.jsonl')\n"
        "documents = corpus.Corpus(3, held_out, training).documents()\n"
        "print(json.dumps([document.text for document in itertools.islice(documents, 3000)]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    documents = json.loads(shown.stdout)
    held_out = {passage for row in rows("eval/check.jsonl") for passage in passages(row["input"])}
    training = {row["input"] for row in rows("data/train.jsonl")}
    levels = {f'"{level}"' for level in PRIORITIES}
    for text in documents:
        for line in text.splitlines():
            ticket = line.removeprefix("Input: ")
            assert held_out.isdisjoint(passages(ticket))
            assert ticket not in training
            if line.startswith('Answer: {"'):
                assert not any(level in line for level in levels)
                assert "priority" not in line


def test_the_base_model_is_small_and_holds_safetensors_only() -> None:
    folder = EXAMPLE / "models" / "ticket-lm"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    assert "model.safetensors" in names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    assert "license: apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")
