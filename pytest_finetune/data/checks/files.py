"""Checks on whole files: defects of the bytes, pinned checksums, number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import finding

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Rows


def check_files(contract: Contract, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield what reading found, files that are not the pinned ones, and files with too few rows."""
    for rows in (train, held_out):
        yield from rows.defects
        pinned = contract.checksums.get(rows.path)
        if pinned is not None and pinned != rows.sha256:
            read = f"sha256 is {rows.sha256[:12]}..., the contract pins {pinned[:12]}..."
            yield finding("data/checksum", read, file=rows.path)
    for rows, split in ((train, "train"), (held_out, "eval")):
        wanted = contract.min_rows[split]
        if len(rows) < wanted and not _told_empty(rows):
            yield finding(
                "data/too-few-rows", f"{len(rows)} rows (the contract asks for {wanted})", file=rows.path
            )


def _told_empty(rows: Rows) -> bool:
    return any(defect.rule == "data/empty-file" for defect in rows.defects)
