"""Training rows that an earlier decision was made on: the contract knows the files, the store knows the looks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import finding

if TYPE_CHECKING:
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.store import Judged, LookBook


def trained_after_a_look(book: LookBook, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield training rows that a look judged and that are held out no more, whatever their file was called.

    Rows are known by what they say, question and answer; a paraphrase is another row. Without a look nothing is read.
    """
    looks = book.judged()
    if not looks:
        return
    today = frozenset(row.digest for row in held_out)
    judged = frozenset().union(*(look.rows for look in looks)) - today  # those of today are leak/exact
    kept = {look: len(look.rows & today) for look in looks}
    for row in train:
        digest = row.digest
        if digest in judged:
            at_this_row = [look for look in looks if digest in look.rows]
            worst = max(at_this_row, key=lambda look: (kept[look], look.at_ns))
            rule = "leak/judged" if kept[worst] else "leak/was-held-out"
            read = (
                f"{_told(worst, len(at_this_row))}, with {kept[worst]} of the {len(today)} rows held out now"
            )
            yield finding(rule, read, file=row.file, line=row.line, digest=digest)


def _told(look: Judged, times: int) -> str:
    when = datetime.fromtimestamp(look.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    by = f" of experiment {look.experiment!r}" if look.experiment else ""
    others = f" (one of {times} at it)" if times > 1 else ""
    return f"look {look.k}{by} on {when}{others} judged this row"
