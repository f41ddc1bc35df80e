"""Fifty thousand clean rows have no finding; twenty planted faults of each kind are all found, and nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_finetune.data.findings import Findings
from pytest_finetune.data.formatting import Pair
from pytest_finetune.data.tokens import TokenCount, Tokenization
from pytest_finetune.data.words import jaccard, shingles, words_of
from pytest_finetune.experiment import Prompt

TRAIN, HELD_OUT, EACH = 50_000, 1_000, 20
INSTRUCTION = "Classify the ticket."
LABELS = ("critical", "high", "medium", "low")
CONTRACT = """\
instruction: Classify the ticket.
output:
  schema:
    type: object
    required: [priority, reason]
    additionalProperties: false
    properties: {priority: {type: string}, reason: {type: string, minLength: 1}}
labels: {field: priority, values: [critical, high, medium, low], min_per_label: 100, max_share: 0.5}
leakage: {near_duplicate: 0.7, containment: null}
out_of_scope_patterns: ["(?i)according to the handbook"]
"""

VOCABULARY = ["".join(random.Random(n).choices("bcdfglmnprst", k=2)) + f"a{n}o" for n in range(4000)]


class World:
    """Rows that differ from each other, with room for faults."""

    def __init__(self) -> None:
        self.rng = random.Random(11)
        self.train = [self.row() for _ in range(TRAIN)]
        self.held_out = [self.row("expected") for _ in range(HELD_OUT)]
        self._free = iter(self.rng.sample(range(TRAIN), 20 * EACH))
        self._free_held_out = iter(self.rng.sample(range(HELD_OUT), 10 * EACH))

    def row(self, key: str = "output") -> dict[str, Any]:
        text = " ".join(self.rng.choices(VOCABULARY, k=self.rng.randint(20, 30)))
        reason = " ".join(self.rng.choices(VOCABULARY, k=4))
        answer = json.dumps({"priority": self.rng.choice(LABELS), "reason": reason})
        return {"instruction": INSTRUCTION, "input": text, key: answer}

    def some(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield training rows that carry no fault yet, with their line."""
        for _ in range(EACH):
            number = next(self._free)
            yield number + 1, self.train[number]

    def held(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for _ in range(EACH):
            number = next(self._free_held_out)
            yield number + 1, self.held_out[number]


def luhn_complete(digits: str) -> str:
    for last in "0123456789":
        doubled = sum(sum(divmod(int(d) * 2, 10)) for d in (digits + last)[-2::-2])
        if (doubled + sum(int(d) for d in (digits + last)[::-2])) % 10 == 0:
            return digits + last
    raise AssertionError(digits)


def change_words(text: str, count: int) -> str:
    words = text.split()
    return " ".join([*words[:-count], *(f"new{n}" for n in range(count))])


Planted = set[tuple[str, str, int]]


def plant_exact(world: World, planted: Planted, hidden: list[str]) -> None:
    for (line, held), (_, row) in zip(world.held(), world.some(), strict=True):
        held["input"], held["expected"] = row["input"].upper() + "!", row["output"]
        planted.add(("leak/exact", "eval.jsonl", line))


def plant_near(world: World, planted: Planted, hidden: list[str]) -> None:
    for (line, held), (_, row) in zip(world.held(), world.some(), strict=True):
        held["input"] = change_words(row["input"], 2)
        similarity = jaccard(shingles(words_of(held["input"]), 3), shingles(words_of(row["input"]), 3))
        assert 0.7 <= similarity < 1
        planted.add(("leak/near-duplicate", "eval.jsonl", line))


def plant_not_so_near(world: World, planted: Planted, hidden: list[str]) -> None:
    """Just under the threshold: no finding."""
    for (_, held), (_, row) in zip(world.held(), world.some(), strict=True):
        held["input"] = change_words(row["input"], 6)


def plant_conflicts(world: World, planted: Planted, hidden: list[str]) -> None:
    rows = list(world.some())
    for (line, row), (other_line, other) in zip(rows, world.some(), strict=True):
        later = max(line, other_line)
        other["input"] = row["input"]
        label = json.loads(row["output"])["priority"]
        other["output"] = json.dumps({"priority": next(x for x in LABELS if x != label), "reason": "other"})
        planted.add(("data/conflict", "train.jsonl", later))


def plant_secrets(world: World, planted: Planted, hidden: list[str]) -> None:
    for line, row in world.some():
        hidden.append("ghp_" + "".join(world.rng.choices("abcdefghijkXYZ0123456789", k=36)))
        row["input"] += f" use {hidden[-1]} please"
        planted.add(("privacy/secret", "train.jsonl", line))


def plant_cards(world: World, planted: Planted, hidden: list[str]) -> None:
    for line, row in world.some():
        card = luhn_complete("4" + "".join(world.rng.choices("0123456789", k=14)))
        hidden.append(" ".join(card[start : start + 4] for start in range(0, 16, 4)))
        row["output"] = json.dumps({"priority": "low", "reason": f"paid with {hidden[-1]}"})
        planted.add(("privacy/card", "train.jsonl", line))


def plant_labels(world: World, planted: Planted, hidden: list[str]) -> None:
    for line, row in world.some():
        row["output"] = json.dumps({"priority": "urgent", "reason": "wrong label"})
        planted.add(("labels/unknown", "train.jsonl", line))


def plant_prose(world: World, planted: Planted, hidden: list[str]) -> None:
    for line, row in world.some():
        row["output"] = "I would say that this is rather urgent, but please check with your team."
        planted.add(("output/not-json", "train.jsonl", line))
        planted.add(("labels/missing", "train.jsonl", line))


def plant_long(world: World, planted: Planted, hidden: list[str]) -> None:
    for line, row in world.some():
        row["output"] = json.dumps(
            {"priority": "low", "reason": " ".join(world.rng.choices(VOCABULARY, k=200))}
        )
        planted.add(("tokens/truncated", "train.jsonl", line))


PLANTERS: tuple[Callable[[World, Planted, list[str]], None], ...] = (
    plant_exact, plant_near, plant_not_so_near, plant_conflicts, plant_secrets, plant_cards, plant_labels, plant_prose,
    plant_long,
)  # fmt: skip


def by_words(pairs: Any) -> list[TokenCount]:
    def words(pair: Pair) -> int:
        return len(str(pair.prompt).split())

    return [
        TokenCount(words(pair) + len(str(pair.completion).split()) + 1, words(pair), True, True)
        for pair in pairs
    ]


def check(project: Any, world: World) -> Findings:
    contract = project.contract(CONTRACT).with_tokens(
        Tokenization(by_words, Prompt("{instruction} {input}"), 120)
    )
    found: Findings = contract.findings(project.train(world.train), project.held_out(world.held_out))
    return found


@pytest.mark.timeout(300)
def test_the_clean_file_has_no_finding_and_every_planted_fault_is_found_without_its_value(
    project: Any,
) -> None:
    world = World()
    assert check(project, world) == []
    planted: Planted = set()
    hidden: list[str] = []
    for plant in PLANTERS:
        plant(world, planted, hidden)
    found = check(project, world)
    assert {(one.rule, one.file, one.line) for one in found} == planted
    counts = Counter(one.rule for one in found)
    assert set(counts.values()) == {EACH}
    told = "\n".join([*found.explain(limit=1000), json.dumps([one.as_json() for one in found])])
    assert len(hidden) == 2 * EACH
    for value in hidden:
        assert value not in told
        assert value[:10] not in told
