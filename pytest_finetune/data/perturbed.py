"""Held-out rows asked in other words: what an invariance rule asks besides the rows themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pytest_finetune.data.perturbations import perturb
from pytest_finetune.data.rows import Row, Rows
from pytest_finetune.yamlfile import Json

WAYS: Final[Mapping[str, str]] = {
    "case": "case",
    "whitespace": "white space",
    "typo": "typo",
    "numbers": "number swap",
    "names": "name swap",
    "distractor": "distractor",
}
"""What `invariant_to` may name, and the perturbation that it is."""

_ATTEMPTS: Final = 8  # lower case changes nothing in lower case: the next draw may


def perturbed_rows(rows: Rows, ways: Sequence[str]) -> Rows:
    """Return each row changed in each of the ways, under the id ``<id>~<way>``; what a way cannot change is left out.

    The change hangs on the row's content and the way alone: the same in every run, whatever the file's order.
    """
    return Rows(_changed(rows, ways), path=rows.path, split=rows.split, sha256=rows.sha256)


def _changed(rows: Iterable[Row], ways: Sequence[str]) -> Iterator[Row]:
    for row in rows:
        for way in ways:
            seed = int(hashlib.sha256(f"{way}:{row.digest}".encode()).hexdigest()[:12], 16)
            tried = (perturb(row.input, WAYS[way], seed + attempt) for attempt in range(_ATTEMPTS))
            text = next((changed for changed in tried if changed != row.input), row.input)
            if text != row.input:
                messages = row.messages and _with_last_question(row.messages, text, row.input)
                yield replace(row, input=text, messages=messages, given_id=f"{row.id}~{way}")


def _with_last_question(messages: tuple[Json, ...], text: str, before: str) -> tuple[Json, ...]:
    """Put the changed question where the row's input stands in its messages."""
    last = max((i for i, message in enumerate(messages) if message.get("content") == before), default=None)
    return tuple({**message, "content": text} if i == last else message for i, message in enumerate(messages))
