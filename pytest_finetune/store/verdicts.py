"""Verdicts of judges who may say otherwise when asked again: stored once, repeated ever after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from pytest_finetune.fingerprint import digest
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.lines import Lines, append, line_of
from pytest_finetune.store.shared.upstream import UpstreamError


class Asked(NamedTuple):
    """What a judge was asked: a digest of answer, row, rule and judge, and in which pass, counted from 1."""

    key: str
    number: int

    @classmethod
    def of(cls, answer: str, row: str, rule: str, judge: str, number: int) -> Asked:
        """Name a question by the answer's text, the digests of row and rule, and the judge's name."""
        return cls(digest([answer, row, rule, judge]), number)


class Verdict(NamedTuple):
    """What a judge said: a score (None: skipped), and why."""

    score: float | None
    message: str | None = None


class VerdictBook:
    """The verdicts of one store; a line holds those that were given together, and the newest verdict counts."""

    def __init__(self, context: StoreContext) -> None:
        self._lines = Lines(context, "verdicts", "a judge's verdicts are kept")

    def read(self) -> dict[Asked, Verdict]:
        """Return every verdict; StoreError when they are shared and cannot be read, as asking anew is another look."""
        try:
            records = self._lines.everywhere()
        except UpstreamError as error:
            raise StoreError(
                f"store: the verdicts that a judge gave before are not known: {error}; asking again would be another "
                "look: run again when it can be reached, or decide on a store of your own with --finetune-store=DIR"
            ) from error
        return {
            Asked(key, number): Verdict(score, message)
            for record in sorted(records, key=lambda one: (one["at_ns"], one["identity"]))
            for key, number, score, message in record["verdicts"]
        }

    def write(self, verdicts: Mapping[Asked, Verdict]) -> None:
        """Append verdicts; StoreError when they cannot be kept."""
        if not verdicts:
            return
        said = [[*asked, *verdict] for asked, verdict in verdicts.items()]
        record = {"at_ns": time.time_ns(), "verdicts": said}
        with self._lines.writing("keep a judge's verdicts") as stream:
            append(stream, [line_of({**record, "identity": digest(record)})])
        self._lines.send()
