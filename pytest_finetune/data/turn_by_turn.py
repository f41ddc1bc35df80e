"""Held-out conversations asked turn by turn: each answer is a case of its own, with the expected answers before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pytest_finetune.data.rows import Row, Rows
from pytest_finetune.data.shapes import conversation


def turn_by_turn(rows: Rows) -> Rows:
    """Return a row for each answer of each conversation, under the id ``<id>#<number of the answer>``.

    Rows of one conversation are one group, that of the conversation's own row or its id. An answer of weight 0, and one
    before any question, is not asked.
    """
    return Rows(_asked(rows), path=rows.path, split=rows.split, sha256=rows.sha256)


def _asked(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        answers = [at for at, message in enumerate(row.messages or ()) if message["role"] == "assistant"]
        if len(answers) < 2:
            yield replace(row, group=row.group or row.id)
        else:
            yield from (
                _case(row, at, number) for number, at in enumerate(answers, start=1) if _is_asked(row, at)
            )


def _is_asked(row: Row, at: int) -> bool:
    assert row.messages is not None
    questioned = any(message["role"] == "user" for message in row.messages[:at])
    return questioned and row.messages[at].get("weight") != 0


def _case(row: Row, at: int, number: int) -> Row:
    assert row.messages is not None
    said = conversation(row.messages[: at + 1])
    return replace(
        row,
        instruction=said.instruction,
        input=said.input,
        output=said.output,
        messages=said.messages,
        given_id=f"{row.id}#{number}",
        group=row.group or row.id,
    )
