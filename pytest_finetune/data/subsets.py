"""Nested parts of the training rows: a smaller one lies whole within a larger one, with the labels in their shares."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_finetune.fingerprint import sha256_hex

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows


def nested_part(rows: Rows, share: float, label_of: Callable[[str], str | None], seed: int) -> Rows:
    """Return a share (0 to 1) of the rows, in file order; of one seed every smaller share lies within a larger one.

    Rows of one group stay together. The rows of each label are spread evenly over an order that is drawn by what they
    say and not by where they stand, and its beginning is taken.
    """
    units: defaultdict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        units[f"group {row.group}" if row.group is not None else f"row {at}"].append(at)
    drawn = sorted(
        units.values(), key=lambda unit: sha256_hex(f"{seed} {min(rows[at].digest for at in unit)}".encode())
    )
    labels = [label_of(row.output) for row in rows]
    of_label, before = Counter(labels), Counter[str | None]()
    placed = []
    for rank, unit in enumerate(drawn):
        counts = Counter(labels[at] for at in unit)
        label = min(counts, key=lambda name: (-counts[name], str(name)))
        placed.append((before[label] / of_label[label], rank, unit))
        before[label] += len(unit)
    wanted = max(1, round(share * len(rows)))
    taken: set[int] = set()
    for _, _, unit in sorted(placed):
        if len(taken) >= wanted:
            break
        taken.update(unit)
    return rows.only(row for at, row in enumerate(rows) if at in taken)
