"""Split rows in two so that the second can judge a training on the first: no group and no near duplicate in both.

Rows that belong together (a group, the same question, questions that are nearly the same) go to one side. Each label
gives its share to the second side, as far as what belongs together lets it. The split depends on what the rows say and
not on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.corpus import Corpus, Vocabulary
from pytest_finetune.data.rows import Rows
from pytest_finetune.data.similarity import similar_across, similar_within
from pytest_finetune.data.words import words_of

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row

NEAR: Final = 0.8
SHINGLE: Final = 3
"""As the contract's `leakage` has them by default: Jaccard similarity, and words in a shingle."""


class Split(NamedTuple):
    """Both sides in file order, and how many bundles of rows that belong together there were."""

    train: list[Row]
    held_out: list[Row]
    together: int


def split_rows(rows: Sequence[Row], share: float, labels: Sequence[str | None]) -> Split:
    """Split rows; `share` (0 to 1) of those of each label are held out. `labels` stand in the rows' order."""
    order = sorted(range(len(rows)), key=lambda at: rows[at].digest)
    parts, held = _split([rows[at] for at in order], share, [labels[at] for at in order])
    chosen = {order[at] for at in held}
    return Split(
        [row for at, row in enumerate(rows) if at not in chosen],
        [row for at, row in enumerate(rows) if at in chosen],
        parts.several(),
    )


def set_aside(rows: Rows, share: float, label_of: Callable[[str], str | None]) -> tuple[Rows, Rows]:
    """Return the training rows without the development rows, and these: a share (0 to 1) of those of each label."""
    parted = split_rows(rows, share, [label_of(row.output) for row in rows])
    dev = Rows(parted.held_out, path=rows.path, split="dev", sha256=rows.sha256)
    return rows.only(parted.train, others=len(dev)), dev


def _split(rows: Sequence[Row], share: float, labels: Sequence[str | None]) -> tuple[_Parts, set[int]]:
    """Return what belongs together, and which positions are held out."""
    parts, vocabulary = _Parts(len(rows)), Vocabulary()
    _join_equal(parts, [row.group for row in rows])
    _join_equal(parts, [f"{row.instruction}\n{row.input}" for row in rows])
    for pair in similar_within(_corpus(rows, vocabulary), SHINGLE, NEAR).pairs:
        parts.join(pair.left, pair.right)
    while True:
        held = _held_out(parts, rows, share, labels)
        # Of three that are alike the first filter compares two pairs only: what still stands on both sides is joined.
        left = [at for at in range(len(rows)) if at in held]
        right = [at for at in range(len(rows)) if at not in held]
        sides = [_corpus([rows[at] for at in side], vocabulary) for side in (left, right)]
        across = list(similar_across(sides[0], sides[1], SHINGLE, NEAR))
        if not across:
            return parts, held
        for pair in across:
            parts.join(left[pair.left], right[pair.right])


def _held_out(parts: _Parts, rows: Sequence[Row], share: float, labels: Sequence[str | None]) -> set[int]:
    """Choose parts for the second side, by the least digest of their rows, while their label has room."""
    members = parts.members()
    ranked = sorted(members, key=lambda part: min(rows[at].digest for at in part))
    total = Counter(labels)
    taken: Counter[str | None] = Counter()
    chosen: set[int] = set()
    for part in ranked:
        counts = Counter(labels[at] for at in part)
        label = min(counts, key=lambda name: (-counts[name], str(name)))
        if taken[label] + len(part) <= round(share * total[label]):
            taken[label] += len(part)
            chosen.update(part)
    return chosen


def _join_equal(parts: _Parts, values: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for at, value in enumerate(values):
        if value is not None:
            parts.join(first.setdefault(value, at), at)


def _corpus(rows: Sequence[Row], vocabulary: Vocabulary) -> Corpus:
    """Return the words of some rows; only corpora of one vocabulary can be compared."""
    corpus = Corpus(vocabulary)
    for row in rows:
        corpus.add(words_of(row.input))
    return corpus


class _Parts:
    """Positions that belong together (disjoint sets)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def join(self, one: int, other: int) -> None:
        self._parent[self._root(other)] = self._root(one)

    def _root(self, at: int) -> int:
        while self._parent[at] != at:
            self._parent[at] = at = self._parent[self._parent[at]]
        return at

    def members(self) -> list[list[int]]:
        """Return the positions of each part, in order."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for at in range(len(self._parent)):
            found[self._root(at)].append(at)
        return list(found.values())

    def several(self) -> int:
        """Count the parts with more than one position."""
        return sum(len(part) > 1 for part in self.members())
