"""Write data/train.jsonl and eval/check.jsonl: `python make_data.py` gives the same bytes every time.

Both files hold tickets worded from `phrases/` and judged by the rubric. They speak in different words: of
every seven lines of a phrase list, training rows use four and held-out rows four, with one in common. The
held-out file also holds every ticket of eval/handwritten.jsonl, where the rubric's three answers stand
instead of the priority.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rubric import PRIORITIES, priority
from ticket_language import INCIDENTS, Vocabulary, write_ticket

HERE: Final = Path(__file__).parent
SEED: Final = 20
INSTRUCTION: Final = "Classify the support ticket priority and return strict JSON."
TRAIN_PER_LABEL: Final = 130
HELD_OUT_PER_LABEL: Final = 45
TRAIN_LINES: Final = frozenset({0, 1, 2, 3})
HELD_OUT_LINES: Final = frozenset({3, 4, 5, 6})
_MAX_OVERLAP: Final = 0.4


def answer(label: str, reason: str) -> str:
    """Return the JSON that a row expects: compact, keys in this order."""
    return json.dumps({"priority": label, "reason": reason}, ensure_ascii=False, separators=(",", ":"))


def handwritten_rows(source: Path) -> list[dict[str, Any]]:
    """Read the hand-written tickets; their priority is what the rubric makes of the three answers."""
    rows = []
    for line in source.read_text(encoding="utf-8").splitlines():
        ticket = json.loads(line)
        label = priority(ticket["who"], ticket["harm"], ticket["way_around"])
        tags = ["handwritten", *ticket["tags"]]
        rows.append(_row(ticket["input"], "expected", label, ticket["reason"], tags))
    return rows


def worded_rows(
    rng: random.Random, lines: frozenset[int], wanted: Mapping[str, int], output: str, taken: Shingles
) -> list[dict[str, Any]]:
    """Word `wanted` tickets for each priority, none too close to a row that is already there."""
    words = Vocabulary.load(lambda line: line % 7 in lines)
    rows: list[dict[str, Any]] = []
    for label in PRIORITIES:
        while sum(json.loads(row[output])["priority"] == label for row in rows) < wanted[label]:
            ticket = write_ticket(rng, words, rng.choice(INCIDENTS[label]))
            if taken.add(ticket.text):
                rows.append(_row(ticket.text, output, ticket.priority, ticket.reason, list(ticket.tags)))
    rng.shuffle(rows)
    return rows


class Shingles:
    """The texts so far, as sets of word trigrams; `add` refuses one that is too close to an earlier one."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._seen: list[frozenset[str]] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> bool:
        """Remember `text` unless its word trigrams overlap an earlier text's by more than 40% (Jaccard)."""
        new = frozenset(_trigrams(text))
        if any(len(new & old) > _MAX_OVERLAP * len(new | old) for old in self._seen):
            return False
        self._seen.append(new)
        return True


def build() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return training rows and held-out rows."""
    by_hand = handwritten_rows(HERE / "eval" / "handwritten.jsonl")
    there = [json.loads(row["expected"])["priority"] for row in by_hand]
    missing = {label: HELD_OUT_PER_LABEL - there.count(label) for label in PRIORITIES}
    taken = Shingles([row["input"] for row in by_hand])
    rng = random.Random(SEED)
    held_out = by_hand + worded_rows(rng, HELD_OUT_LINES, missing, "expected", taken)
    train = worded_rows(rng, TRAIN_LINES, dict.fromkeys(PRIORITIES, TRAIN_PER_LABEL), "output", taken)
    return train, held_out


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one compact JSON object a line, UTF-8, with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _row(text: str, output: str, label: str, reason: str, tags: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"instruction": INSTRUCTION, "input": text, output: answer(label, reason)}
    return {**row, "tags": tags} if tags else row


def _trigrams(text: str) -> Iterator[str]:
    words = text.lower().split()
    return (" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2)))


def main() -> None:
    """Write both files next to this script."""
    train, held_out = build()
    write_jsonl(HERE / "data" / "train.jsonl", train)
    write_jsonl(HERE / "eval" / "check.jsonl", held_out)
    print(f"data/train.jsonl: {len(train)} rows; eval/check.jsonl: {len(held_out)} rows")


if __name__ == "__main__":
    main()
